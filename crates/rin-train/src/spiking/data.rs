//! Rows and their classes.

use super::config::SpikingData;
use crate::Error;
use crate::random::{index, stream, uniform};
use rin_model::array::Array;

/// Rows of numbers, each with a class.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// `rows × width`.
    pub inputs: Vec<f32>,
    /// Values of a row.
    pub width: usize,
    /// One class per row.
    pub labels: Vec<usize>,
}

impl Samples {
    /// Reads both files.
    ///
    /// # Errors
    /// [`Error::Data`] where a file cannot be read or is no array, [`Error::ConfigValue`] where the two do not fit.
    pub fn read(data: &SpikingData) -> Result<Self, Error> {
        let inputs = Array::read(&data.inputs)?;
        let labels = Array::read(&data.labels)?;
        let &[rows, width] = inputs.shape.as_slice() else {
            return Err(Error::value("data.inputs", format!("{:?}", inputs.shape), "of shape (rows, inputs)"));
        };
        if labels.values.len() != rows || rows == 0 || width == 0 {
            return Err(Error::value(
                "data.labels",
                labels.values.len(),
                format!("{rows} classes, one per row, and not 0"),
            ));
        }
        let mut classes = Vec::with_capacity(rows);
        for &label in &labels.values {
            if !(label.fract() == 0.0 && (0.0..65536.0).contains(&label)) {
                return Err(Error::value("data.labels", label, "classes from 0 to 65535"));
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number below 65536")]
            classes.push(label as usize);
        }
        if let Some(value) = inputs.values.iter().find(|value| !value.is_finite()) {
            return Err(Error::value("data.inputs", value, "of finite numbers"));
        }
        Ok(Self { inputs: inputs.values, width, labels: classes })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.labels.iter().max().map_or(0, |&most| most + 1)
    }

    /// A row.
    pub fn row(&self, at: usize) -> &[f32] {
        &self.inputs[at * self.width..][..self.width]
    }

    /// Training and test rows, drawn by `seed`.
    pub fn split(&self, test: f64, seed: u64) -> (Self, Self) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of the rows")]
        let n_test = (self.len() as f64 * test).round() as usize;
        let order = shuffled(self.len(), stream(seed, &[1]));
        let (test, train) = order.split_at(n_test.min(self.len()));
        (self.pick(train), self.pick(test))
    }

    fn pick(&self, rows: &[usize]) -> Self {
        Self {
            inputs: rows.iter().flat_map(|&at| self.row(at)).copied().collect(),
            width: self.width,
            labels: rows.iter().map(|&at| self.labels[at]).collect(),
        }
    }
}

/// The numbers below `n` in an order that the state decides (Fisher and Yates).
pub(crate) fn shuffled(n: usize, state: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for at in (1..n).rev() {
        order.swap(at, index(state, at as u64, at + 1));
    }
    order
}

/// Leaves out a share of the inputs.
pub(crate) fn drop_out(inputs: &mut [f32], share: f64, state: u64) {
    if share > 0.0 {
        #[expect(clippy::cast_possible_truncation, reason = "a factor near 1")]
        let grown = (1.0 / (1.0 - share)) as f32;
        for (at, x) in inputs.iter_mut().enumerate() {
            *x = if uniform(state, at as u64) < share { 0.0 } else { *x * grown };
        }
    }
}
