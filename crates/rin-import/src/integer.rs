//! Trained dense networks in integers: weights to 8 bits per output, activations to 8 bits with one scale per layer.
//!
//! The scales of activations come from calibration rows: the largest magnitude that each layer then has becomes 127. What
//! the integers compute is said by [`rin_kernels::ops::integer`].

use crate::foreign::{ForeignError, Tensor, Trained};
use crate::write::{NewArray, NewNetwork, write_network};
use crate::{Error, Report};
use rin_kernels::ops::activation::{Activate, Function as Kernel};
use rin_kernels::ops::integer::{MAX_BIAS, MAX_WIDE, SHIFTS, integer_bytes, pack_integer};
use rin_kernels::{Cpu, pack::LANES};
use rin_model::array::Array;
use rin_model::{Body, DType, Function, Integer, IntegerLayer, Mode, Network, Op, Output, Port};
use std::path::Path;

/// The largest magnitude of 8 bits.
const STEPS: f64 = 127.0;

/// A dense layer in numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseLayer {
    /// `outputs × inputs`, row by row.
    pub weight: Vec<f32>,
    /// One per output.
    pub bias: Vec<f32>,
    /// Applied to each output.
    pub function: Function,
}

/// Dense layers one after the other, in numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseNetwork {
    /// Name of the network.
    pub name: Option<String>,
    /// What goes in.
    pub input: Port,
    /// What comes out.
    pub output: Output,
    /// The layers.
    pub layers: Vec<DenseLayer>,
}

/// A network in integers with its arrays.
#[derive(Clone, Debug)]
pub struct Quantized {
    network: Network,
    arrays: Vec<NewArray>,
}

impl Quantized {
    /// A network with its arrays.
    pub(crate) fn new(network: Network, arrays: Vec<NewArray>) -> Self {
        Self { network, arrays }
    }
}

/// Writes a network in integers to `dst`; `source` says where it came from, `format` of which format that was.
///
/// # Errors
/// When `dst` may not be replaced, or writing fails; then nothing is left behind.
pub fn write(dst: &Path, quantized: &Quantized, source: &str, format: &str, overwrite: bool) -> Result<Report, Error> {
    let model = NewNetwork { network: &quantized.network, source, format, quant: None };
    let report = write_network(dst, &model, &[], &quantized.arrays, overwrite)?;
    let n_quantized = quantized.arrays.iter().filter(|array| array.dtype == DType::U8).count();
    Ok(Report { n_quantized, ..report })
}

impl DenseNetwork {
    /// The layers of a network whose nodes are dense layers one after the other.
    pub(crate) fn of(trained: Trained) -> Result<Self, ForeignError> {
        let Trained { network, tensors } = trained;
        let only = |what: String| {
            ForeignError::unsupported(format!("the mode rin takes dense layers one after the other, and {what}"))
        };
        let (Body::Nodes(nodes), [input], [output]) = (network.body, &network.inputs[..], &network.outputs[..]) else {
            return Err(only("this network has several inputs or outputs".to_owned()));
        };
        let find = |name: &str| -> Result<&Tensor, ForeignError> {
            tensors.iter().find(|tensor| tensor.name == name).ok_or_else(|| only(format!("`{name}` is missing")))
        };
        let mut last = input.name.clone();
        let mut layers: Vec<DenseLayer> = Vec::new();
        for node in nodes {
            if node.inputs != [last.as_str()] {
                return Err(only(format!("`{}` takes {:?}", node.output, node.inputs)));
            }
            match (node.op, layers.last_mut()) {
                (Op::Dense { weight, bias, function }, _) => {
                    let weight = find(&weight)?;
                    let outputs = weight.shape.first().copied().unwrap_or(0);
                    let bias = match bias {
                        Some(bias) => find(&bias)?.values.clone(),
                        None => vec![0.0; outputs],
                    };
                    layers.push(DenseLayer { weight: weight.values.clone(), bias, function });
                }
                (Op::Activation { function }, Some(layer)) if layer.function == Function::Identity => {
                    layer.function = function;
                }
                (op, _) => return Err(only(format!("`{}` is a {}", node.output, op.name()))),
            }
            last = node.output;
        }
        if last != output.name {
            return Err(only(format!("`{last}` comes after the output `{}`", output.name)));
        }
        Ok(Self { name: network.name, input: input.clone(), output: output.clone(), layers })
    }

    /// The network in integers, with the scales that these rows ask for.
    ///
    /// # Errors
    /// `Unsupported` for rows that are none of the network's, weights that are no numbers, and a last layer with a function
    /// other than relu.
    pub fn quantize(&self, rows: &Array) -> Result<Quantized, ForeignError> {
        let width = self.input.width();
        let bad = |what: &str| ForeignError::unsupported(what);
        let count = rows.rows(width).filter(|&n| n > 0).ok_or_else(|| {
            let (shape, wanted) = (&rows.shape, &self.input.shape);
            ForeignError::unsupported(format!("calibration takes rows of shape {wanted:?}, and these are {shape:?}"))
        })?;
        let mut x: Vec<f32> = rows.values.clone();
        let input_step = step(&x).ok_or_else(|| bad("the calibration rows hold a NaN or an infinity"))?;
        let (mut scale, mut inputs, mut output_scale) = (input_step, width, 1.0);
        let (mut layers, mut arrays) = (Vec::new(), Vec::new());
        for (at, layer) in self.layers.iter().enumerate() {
            let outputs = layer.bias.len();
            if inputs == 0 || outputs == 0 || outputs.checked_mul(inputs) != Some(layer.weight.len()) {
                return Err(bad("a matrix does not fit the layer before it"));
            }
            let before = product(layer, &x, inputs, count);
            let mut after = before.clone();
            Activate::select(&Cpu::detect()).run(&mut after, kernel(layer.function));
            let (Some(step_before), Some(step_after)) = (step(&before), step(&after)) else {
                return Err(bad("a layer gives no numbers for the calibration rows"));
            };
            let weights = Weights::new(layer, inputs, scale)?;
            let last = at.saturating_add(1) == self.layers.len();
            let simple = matches!(layer.function, Function::Identity | Function::Relu | Function::Relu6);
            if last && !matches!(layer.function, Function::Identity | Function::Relu) {
                return Err(bad(
                    "the mode rin has no function but relu behind its last layer; take the numbers before it",
                ));
            }
            let steps = if simple { step_after } else { step_before };
            // A factor above 1 would lose nothing but room.
            let widest = weights.scales.iter().fold(0.0, |most: f64, w| most.max(w * scale));
            let steps = if last { widest } else { steps.max(widest) };
            let most = if last { MAX_WIDE } else { 127 };
            let high = if layer.function == Function::Relu6 { whole(6.0 / steps).min(127) } else { most };
            let low = if simple && layer.function != Function::Identity { 0 } else { most.saturating_neg() };
            let table = (!simple).then(|| table(layer.function, steps, step_after));
            weights.push(at, scale / steps, &mut arrays);
            if let Some(table) = &table {
                let bytes = table.iter().map(|x| x.cast_unsigned()).collect();
                arrays.push(array(at, "table", DType::I8, &[table.len()], bytes));
            }
            layers.push(IntegerLayer { outputs, low, high, table: table.is_some() });
            (x, inputs) = (after, outputs);
            scale = if simple { steps } else { step_after };
            output_scale = steps;
        }
        let body =
            Body::Integer(Integer { input_scale: narrow(input_step), output_scale: narrow(output_scale), layers });
        let (inputs, outputs) = (vec![self.input.clone()], vec![self.output.clone()]);
        Ok(Quantized { network: Network { mode: Mode::Rin, name: self.name.clone(), inputs, outputs, body }, arrays })
    }
}

/// One step of 8 bits for these numbers; none where one of them is no number.
fn step(x: &[f32]) -> Option<f64> {
    let most = x.iter().fold(0.0, |most: f64, &x| if x.is_finite() { most.max(f64::from(x).abs()) } else { f64::NAN });
    let all = x.iter().all(|x| x.is_finite());
    all.then(|| if most > 0.0 { most / STEPS } else { 1.0 / STEPS })
}

/// The layer before its function.
fn product(layer: &DenseLayer, x: &[f32], inputs: usize, rows: usize) -> Vec<f32> {
    let row = |x: &[f32]| -> Vec<f32> {
        let dot = |(w, b): (&[f32], &f32)| {
            narrow(w.iter().zip(x).fold(f64::from(*b), |sum, (w, x)| f64::from(*w).mul_add(f64::from(*x), sum)))
        };
        layer.weight.chunks_exact(inputs).zip(&layer.bias).map(dot).collect()
    };
    x.chunks_exact(inputs).take(rows).flat_map(row).collect()
}

/// The weights of a layer in 8 bits.
struct Weights {
    q: Vec<i8>,
    bias: Vec<i32>,
    scales: Vec<f64>,
    inputs: usize,
}

impl Weights {
    /// `scale` is one step of the input.
    fn new(layer: &DenseLayer, inputs: usize, scale: f64) -> Result<Self, ForeignError> {
        let mut found = Self { q: Vec::new(), bias: Vec::new(), scales: Vec::new(), inputs };
        for (w, &b) in layer.weight.chunks_exact(inputs).zip(&layer.bias) {
            let finite = b.is_finite() && w.iter().all(|w| w.is_finite());
            if !finite {
                return Err(ForeignError::unsupported("a weight is a NaN or an infinity"));
            }
            let most = w.iter().fold(0.0, |most: f64, &w| most.max(f64::from(w).abs()));
            // The bias has room too.
            let room = f64::from(b).abs() / (scale * f64::from(MAX_BIAS) / 2.0);
            let own = (most / STEPS).max(room);
            let own = if own > 0.0 { own } else { 1.0 };
            found.q.extend(w.iter().map(|&w| i8::try_from(whole(f64::from(w) / own)).unwrap_or(0)));
            found.bias.push(whole(f64::from(b) / (own * scale)));
            found.scales.push(own);
        }
        Ok(found)
    }

    /// Adds the arrays; `factor` are steps of the output for a step of the input and a weight of 1.
    fn push(&self, at: usize, factor: f64, arrays: &mut Vec<NewArray>) {
        let outputs = self.bias.len();
        let padded = |n: usize| n.checked_next_multiple_of(LANES).unwrap_or(n);
        let mut lines = vec![0; integer_bytes(outputs, self.inputs).unwrap_or(0)];
        pack_integer(&self.q, self.inputs, &mut lines);
        arrays.push(array(at, "weight", DType::U8, &[padded(outputs), padded(self.inputs)], lines));
        let (multiplier, shift): (Vec<i32>, Vec<i32>) = self.scales.iter().map(|own| fixed_point(own * factor)).unzip();
        let numbers: [(&str, &[i32], i32); 3] =
            [("bias", &self.bias, 0), ("multiplier", &multiplier, 0), ("shift", &shift, *SHIFTS.start())];
        for (name, found, filler) in numbers {
            let mut all = found.to_vec();
            all.resize(padded(outputs), filler);
            let bytes = all.iter().flat_map(|x| x.to_le_bytes()).collect();
            arrays.push(array(at, name, DType::I32, &[all.len()], bytes));
        }
    }
}

fn array(at: usize, name: &str, dtype: DType, shape: &[usize], bytes: Vec<u8>) -> NewArray {
    let shape = shape.iter().map(|&n| u64::try_from(n).unwrap_or(u64::MAX)).collect();
    NewArray { name: format!("layer.{at}.{name}"), dtype, shape, bytes }
}

/// A factor of at most 1 as `multiplier / 2^shift`, of 31 bits where they are enough.
pub(crate) fn fixed_point(factor: f64) -> (i32, i32) {
    let (mut shift, mut scaled) = (*SHIFTS.start(), factor * 2_f64.powi(31));
    while scaled < 2_f64.powi(30) && shift < *SHIFTS.end() {
        (shift, scaled) = (shift.saturating_add(1), scaled * 2.0);
    }
    (whole(scaled), shift)
}

/// The nearest whole number of 32 bits.
pub(crate) fn whole(x: f64) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    let whole = x.round() as i32;
    whole
}

/// What a function makes of each number of 8 bits, from -128 on.
fn table(function: Function, before: f64, after: f64) -> Vec<i8> {
    let mut values: Vec<f32> = (-128..=127).map(|q: i32| narrow(f64::from(q.max(-127)) * before)).collect();
    Activate::select(&Cpu::detect()).run(&mut values, kernel(function));
    values.iter().map(|&x| i8::try_from(whole(f64::from(x) / after).clamp(-127, 127)).unwrap_or(0)).collect()
}

pub(crate) fn kernel(function: Function) -> Kernel {
    Kernel::ALL.iter().copied().find(|f| f.name() == function.name()).unwrap_or_default()
}

#[expect(clippy::cast_possible_truncation, reason = "numbers are f32")]
pub(crate) fn narrow(x: f64) -> f32 {
    x as f32
}

#[cfg(test)]
mod tests {
    use super::fixed_point;

    #[test]
    fn factors_are_kept_to_31_bits() {
        for factor in [1.0, 0.75, 0.001, 3.1e-7, 2.5e-10] {
            let (multiplier, shift) = fixed_point(factor);
            let found = f64::from(multiplier) / 2_f64.powi(shift);
            assert!((found / factor - 1.0).abs() < 1e-9, "{factor} {found}");
            assert!(multiplier > 0 && (31..=62).contains(&shift));
        }
        assert_eq!(fixed_point(0.0), (0, 62));
    }
}
