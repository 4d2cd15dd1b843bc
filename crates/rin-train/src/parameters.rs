//! The numbers that are learned, by name.

use crate::random::{normal, stream};

/// What a parameter is for: that decides how it begins and whether it decays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Role {
    /// A weight matrix `(rows, cols)`: begins normal with this standard deviation, decays.
    Matrix {
        /// Standard deviation of the first values.
        std: f64,
    },
    /// A vector, such as the gain of a norm: begins as this, does not decay.
    Vector {
        /// First value.
        value: f32,
    },
    /// Numbers that no product multiplies with, such as a convolution's: begin normal, do not decay, are not quantised.
    Numbers {
        /// Standard deviation of the first values.
        std: f64,
    },
    /// Learned steps of a matrix's blocks, not exported by themselves.
    Steps,
    /// A map from the network's inside to its teacher's: begins normal, does not decay, is not exported.
    Hint {
        /// Standard deviation of the first values.
        std: f64,
    },
}

impl Role {
    /// Whether it is part of the exported network.
    pub fn is_exported(self) -> bool {
        !matches!(self, Self::Steps | Self::Hint { .. })
    }
}

/// One parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Name, as GGUF files have it.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
    /// The numbers.
    pub values: Vec<f32>,
}

impl Parameter {
    /// A parameter without numbers yet.
    pub fn new(name: impl Into<String>, shape: &[usize], role: Role) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), role, values: Vec::new() }
    }

    /// Its number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All parameters, in the order of the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters(pub Vec<Parameter>);

impl Parameters {
    /// Gives each parameter its first values.
    pub fn initialized(mut parameters: Vec<Parameter>, seed: u64) -> Self {
        for (i, p) in parameters.iter_mut().enumerate() {
            let state = stream(seed, &[0, i as u64]);
            let n = p.len();
            p.values = match p.role {
                #[expect(clippy::cast_possible_truncation, reason = "parameters are f32")]
                Role::Matrix { std } | Role::Numbers { std } | Role::Hint { std } => {
                    (0..n as u64).map(|n| (normal(state, n) * std) as f32).collect()
                }
                Role::Vector { value } => vec![value; n],
                Role::Steps => vec![0.0; n],
            };
        }
        Self(parameters)
    }

    /// The parameter called `name`.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.0.iter().find(|p| p.name == name)
    }

    /// Numbers that the exported network has.
    pub fn count(&self) -> usize {
        self.0.iter().filter(|p| p.role.is_exported()).map(Parameter::len).sum()
    }

    /// Whether all numbers are finite.
    pub fn is_finite(&self) -> bool {
        self.0.iter().all(|p| p.values.iter().all(|v| v.is_finite()))
    }
}

/// Name of the learned steps of a matrix.
pub fn steps_of(matrix: &str) -> String {
    format!("{matrix}.step")
}
