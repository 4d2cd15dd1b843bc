//! Trained networks of nodes, encoders and decoders among them, in integers: weights to 8 bits per output, values to 32-bit integers with one
//! scale each, norms, softmax and functions as integers have them.
//!
//! The scales come from calibration rows: the network in f32 runs over them with every value as an output, and the largest
//! magnitude of a value becomes 2^18, which leaves two bits for rows that are larger. What the integers compute is said by
//! [`rin_kernels::ops::wide`].

use crate::Error;
use crate::foreign::ForeignError;
use crate::integer::{Quantized, kernel, narrow, whole};
use crate::write::{NewArray, NewNetwork, NewTensor, network_bytes};
use rin_engine::{LoadOptions, NetworkEngine};
use rin_kernels::Cpu;
use rin_kernels::ops::activation::Activate;
use rin_kernels::ops::integer::{integer_bytes, pack_integer};
use rin_kernels::ops::wide::MAX_ELEMENT;
use rin_kernels::ops::wide::norm::{CENTRE_BITS, UNIT_BITS};
use rin_kernels::ops::wide::rotate::{ANGLE_BITS, MAX_ANGLE};
use rin_kernels::ops::wide::rows::{PRODUCT_BITS, SEGMENTS};
use rin_kernels::pack::LANES;
use rin_model::array::Array;
use rin_model::{
    Body, DType, Function, Mode, ModelFile, Network, Node, NodeScales, Op, Output, OutputKind, PortKind, Whole,
};
use std::collections::{BTreeMap, HashMap};

/// What the largest magnitude of a value becomes.
const CALIBRATED: f64 = 262_144.0;
/// The largest magnitude of 8 bits.
const BYTE: f64 = 127.0;
/// Values that are watched in one run: a network has at most so many outputs.
const WATCHED: usize = 64;
/// Rows of one run.
const ROWS: usize = 4;

/// The network in integers; its tensors are in f32.
///
/// # Errors
/// For rows that are none of the network's, operations that have no integers, and weights that are no numbers.
pub(crate) fn quantize(network: &Network, tensors: &[NewTensor], rows: &Array) -> Result<Quantized, Error> {
    let Body::Nodes(nodes) = &network.body else {
        return Err(unsupported("the mode rin takes lists of layers, and this network is a graph"));
    };
    let nodes = taken_apart(nodes)?;
    let mut most = calibrate(network, &nodes, tensors, rows)?;
    share_steps(&nodes, &mut most);
    let (steps, widths) = (HashMap::new(), HashMap::new());
    let mut writer = Writer { tensors, most, steps, arrays: Vec::new(), matrices: BTreeMap::new(), widths };
    let is_id =
        |name: &str| nodes.iter().any(|n| matches!(n.op, Op::Embed { .. }) && n.inputs.iter().any(|x| x == name));
    let mut input_steps = Vec::new();
    for port in &network.inputs {
        let plain = port.kind == PortKind::Length || is_id(&port.name);
        let step = writer.step(&port.name, 1.0);
        writer.steps.insert(port.name.clone(), [if plain { 1.0 } else { step }; 3]);
        input_steps.push(if plain { 0.0 } else { narrow(step) });
    }
    let (mut written, mut scales) = (Vec::new(), Vec::new());
    for (at, node) in nodes.iter().enumerate() {
        let into_attention = nodes.iter().skip(at).any(|reader| {
            matches!(reader.op, Op::Attention { .. } | Op::Rotate { .. }) && reader.inputs.first() == Some(&node.output)
        });
        let (op, of_node) = writer.node(node, into_attention)?;
        written.push(Node { op, ..node.clone() });
        scales.push(of_node);
    }
    let mut output_steps = Vec::new();
    for output in &network.outputs {
        let [a, b, c] = writer.steps.get(&output.name).copied().unwrap_or([1.0; 3]);
        if a.to_bits() != b.to_bits() || b.to_bits() != c.to_bits() {
            return Err(unsupported(&format!("the output `{}` is the input of an attention", output.name)));
        }
        output_steps.push(narrow(a));
    }
    let Writer { arrays, matrices, .. } = writer;
    let body = Body::Whole(Whole { nodes: written, scales, input_steps, output_steps, matrices });
    Ok(Quantized::new(Network { mode: Mode::Rin, body, ..network.clone() }, arrays))
}

fn unsupported(what: &str) -> Error {
    ForeignError::unsupported(what).into()
}

/// The nodes with every function as a node of its own.
fn taken_apart(nodes: &[Node]) -> Result<Vec<Node>, Error> {
    let mut apart = Vec::with_capacity(nodes.len());
    for node in nodes {
        let mut node = node.clone();
        let found = match &mut node.op {
            Op::Dense { function, .. } | Op::Add { function } => std::mem::take(function),
            Op::Scale { .. } | Op::Softmax => {
                let what = format!(
                    "`{}` is a {}, which the mode rin has not; take what is before it",
                    node.output,
                    node.op.name()
                );
                return Err(unsupported(&what));
            }
            _ => Function::Identity,
        };
        if found.is_identity() {
            apart.push(node);
            continue;
        }
        let output = std::mem::take(&mut node.output);
        node.output = format!("{output}.before");
        let before = node.output.clone();
        apart.push(node);
        apart.push(Node { inputs: vec![before], output, op: Op::Activation { function: found } });
    }
    Ok(apart)
}

/// The largest magnitude of every value, of the parts of queries, keys and values one by one.
fn calibrate(
    network: &Network,
    nodes: &[Node],
    tensors: &[NewTensor],
    rows: &Array,
) -> Result<HashMap<String, [f64; 3]>, Error> {
    let mut most = HashMap::new();
    let count = rows.shape.first().copied().unwrap_or(0);
    let width = rows.values.len().checked_div(count).unwrap_or(0).max(1);
    let others = network.inputs.iter().skip(1);
    if others.clone().any(|port| !port.optional) {
        return Err(unsupported("calibration rows are of one input, and this network asks for several"));
    }
    if let Some(port) = network.inputs.first() {
        most.insert(port.name.clone(), [magnitude(&rows.values)?; 3]);
    }
    for port in others {
        most.insert(port.name.clone(), [1.0; 3]);
    }
    for watched in nodes.chunks(WATCHED) {
        let output = |node: &Node| Output { name: node.output.clone(), kind: OutputKind::Values, labels: Vec::new() };
        let outputs = watched.iter().map(output).collect();
        let network = Network { outputs, body: Body::Nodes(nodes.to_vec()), ..network.clone() };
        let model = NewNetwork { network: &network, source: "calibration", format: "f32", quant: None };
        let file = ModelFile::from_bytes("calibration", network_bytes(&model, tensors, Vec::new())?)?;
        let options = LoadOptions { n_batch: ROWS, ctx: Some(width), ..LoadOptions::default() };
        let mut engine = NetworkEngine::load(file, &options, |_| ())?;
        for rows in rows.values.chunks(width.saturating_mul(ROWS)) {
            let mut inputs: Vec<&[f32]> = vec![&[]; network.inputs.len()];
            if let Some(first) = inputs.first_mut() {
                *first = rows;
            }
            engine.run(&inputs, rows.len().checked_div(width).unwrap_or(0))?;
            for (i, node) in watched.iter().enumerate() {
                let [_, width] = engine.output_shape(i);
                let third = third_of(width);
                let known = most.entry(node.output.clone()).or_insert([0.0; 3]);
                for row in engine.output(i).chunks_exact(width.max(1)) {
                    for (known, part) in known.iter_mut().zip(row.chunks(third)) {
                        *known = known.max(magnitude(part)?);
                    }
                }
            }
        }
    }
    Ok(most)
}

fn magnitude(x: &[f32]) -> Result<f64, Error> {
    let most = x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    if most.is_finite() && x.iter().all(|x| x.is_finite()) {
        return Ok(f64::from(most));
    }
    Err(unsupported("the calibration rows, or what the network makes of them, hold a NaN or an infinity"))
}

/// Values that are only moved have the scale of what they came from, which has to be large enough for both; so have queries
/// and keys that are turned.
fn share_steps(nodes: &[Node], most: &mut HashMap<String, [f64; 3]>) {
    for node in nodes.iter().rev() {
        if let (Op::Rotate { .. }, Some(input)) = (&node.op, node.inputs.first())
            && let Some(after) = most.get(&node.output).copied()
        {
            let before = most.entry(input.clone()).or_insert(after);
            before.iter_mut().zip(after).for_each(|(before, after)| *before = before.max(after));
        }
        if let (Op::Prepend { .. } | Op::Patches { .. } | Op::Pool { .. }, Some(input)) =
            (&node.op, node.inputs.first())
        {
            let after = largest(most.get(&node.output));
            let before = largest(most.get(input));
            most.insert(input.clone(), [before.max(after); 3]);
        }
    }
}

fn largest(of: Option<&[f64; 3]>) -> f64 {
    of.map_or(0.0, |of| of.iter().copied().fold(0.0, f64::max))
}

struct Writer<'a> {
    tensors: &'a [NewTensor],
    most: HashMap<String, [f64; 3]>,
    /// One step of each value; of queries, keys and values, of each.
    steps: HashMap<String, [f64; 3]>,
    arrays: Vec<NewArray>,
    matrices: BTreeMap<String, [u64; 2]>,
    /// Values of a row that a dense layer made.
    widths: HashMap<String, usize>,
}

/// A dense layer, its factor, and the steps of its outputs.
type DenseInIntegers = (Op, (i32, i32), [f64; 3]);

impl Writer<'_> {
    /// One step of a value; `otherwise` where it is always 0.
    fn step(&self, name: &str, otherwise: f64) -> f64 {
        step_of(largest(self.most.get(name)), otherwise)
    }

    /// One step of an earlier value.
    fn known(&self, name: &str) -> f64 {
        self.steps.get(name).map_or(1.0, |steps| steps[0])
    }

    fn numbers(&self, name: &str) -> Result<(&[usize], Vec<f32>), Error> {
        let tensor = self.tensors.iter().find(|tensor| tensor.name == name);
        let tensor = tensor.ok_or_else(|| unsupported(&format!("the network has no tensor `{name}`")))?;
        Ok((&tensor.shape, tensor.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
    }

    fn push(&mut self, name: &str, shape: &[usize], values: &[i32]) -> String {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let shape = shape.iter().map(|&n| to_u64(n)).collect();
        self.arrays.push(NewArray { name: name.to_owned(), dtype: DType::I32, shape, bytes });
        name.to_owned()
    }

    /// A node in integers, and what it multiplies with.
    fn node(&mut self, node: &Node, into_attention: bool) -> Result<(Op, NodeScales), Error> {
        let name = node.output.as_str();
        let x = node.inputs.first().map_or("", String::as_str);
        let own = self.known(x);
        let mut out = [self.step(name, own); 3];
        let mut scales = NodeScales::default();
        let op = match &node.op {
            Op::Dense { weight, bias, .. } => {
                if into_attention {
                    out = self.most.get(name).map_or(out, |most| most.map(|most| step_of(most, own)));
                }
                let (op, factor, steps) = self.dense(name, weight, bias.as_deref(), own, out)?;
                scales.factors.push(factor);
                out = steps;
                op
            }
            Op::LayerNorm { .. } | Op::RmsNorm { .. } => self.norm(node, own, out[0], &mut scales)?,
            Op::Multiply => {
                let other = node.inputs.get(1).map_or(own, |y| self.known(y));
                scales.factors = vec![fixed(own * other / out[0] * power(PRODUCT_BITS.cast_signed()))];
                Op::Multiply
            }
            Op::Rotate { heads, pairs, interleaved, angles } => {
                out = self.steps.get(x).copied().unwrap_or(out);
                self.widths.insert(name.to_owned(), self.widths.get(x).copied().unwrap_or(0));
                let unit = power(ANGLE_BITS.cast_signed());
                let turned = |x: &f32| whole(f64::from(*x) * unit).clamp(-MAX_ANGLE, MAX_ANGLE);
                let values: Vec<i32> = self.numbers(angles)?.1.iter().map(turned).collect();
                // Layers share one table.
                let name = format!("{angles}.integers");
                if !self.arrays.iter().any(|array| array.name == name) {
                    self.push(&name, &[values.len()], &values);
                }
                Op::Rotate { heads: *heads, pairs: *pairs, interleaved: *interleaved, angles: name }
            }
            Op::Activation { function } => {
                let table = curve(*function, own, out[0]);
                self.push(&format!("{name}.table"), &[table.len()], &table);
                Op::Activation { function: *function }
            }
            Op::Add { function } => {
                let other = node.inputs.get(1).map_or(own, |y| self.known(y));
                scales.factors = vec![fixed(own / out[0]), fixed(other / out[0])];
                Op::Add { function: *function }
            }
            Op::Embed { table } => {
                let (table, step) = self.table(name, table)?;
                out = [step; 3];
                Op::Embed { table }
            }
            Op::AddPositions { table } => {
                let (table, step) = self.table(name, table)?;
                scales.factors = vec![fixed(own / out[0]), fixed(step / out[0])];
                Op::AddPositions { table }
            }
            Op::Prepend { vector } => {
                out = [own; 3];
                let vector: Vec<i32> = self.numbers(vector)?.1.iter().map(|x| bounded(f64::from(*x) / own)).collect();
                Op::Prepend { vector: self.push(&format!("{name}.vector"), &[vector.len()], &vector) }
            }
            Op::Attention { heads, causal } => {
                let [q, k, v] = self.steps.get(x).copied().unwrap_or([1.0; 3]);
                out = [v; 3];
                let width = self.widths.get(x).copied().unwrap_or(0);
                let head = width.checked_div(heads.saturating_mul(3)).unwrap_or(1).max(1);
                // 9 bits of each operand are dropped; exponents of base 2 have 8 fractional bits.
                let unit = q * k * power(18) * power(8) * std::f64::consts::LOG2_E;
                scales.factors.push(fixed(unit / (head as f64).sqrt()));
                Op::Attention { heads: *heads, causal: *causal }
            }
            Op::Patches { .. } | Op::Pool { .. } => {
                out = [own; 3];
                node.op.clone()
            }
            other => return Err(unsupported(&format!("`{name}` is a {}, which the mode rin has not", other.name()))),
        };
        self.steps.insert(name.to_owned(), out);
        Ok((op, scales))
    }

    /// A norm in integers.
    fn norm(&mut self, node: &Node, own: f64, out: f64, scales: &mut NodeScales) -> Result<Op, Error> {
        let name = node.output.as_str();
        let (Op::LayerNorm { weight, eps, .. } | Op::RmsNorm { weight, eps }) = &node.op else {
            return Err(unsupported(&format!("`{name}` is no norm")));
        };
        let gain = self.numbers(weight)?.1;
        let wide = gain.iter().fold(0.0, |most: f64, g| most.max(f64::from(g.abs()))) / out;
        // The gain in 30 bits.
        let mut shift = 62_i32;
        while shift > 1 && wide * power(shift.saturating_sub(UNIT_BITS.cast_signed())) >= power(30) {
            shift = shift.saturating_sub(1);
        }
        let unit = power(shift.saturating_sub(UNIT_BITS.cast_signed())) / out;
        let gain: Vec<i32> = gain.iter().map(|g| whole(f64::from(*g) * unit)).collect();
        let squares = gain.len() as f64 * f64::from(*eps) / (own * own) * power(CENTRE_BITS.cast_signed()).powi(2);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is bounded")]
        let epsilon = (squares.round() as u64).min(1 << 62);
        (scales.epsilon, scales.factors) = (epsilon, vec![(0, shift)]);
        let weight = self.push(&format!("{name}.weight"), &[gain.len()], &gain);
        let Op::LayerNorm { bias, .. } = &node.op else { return Ok(Op::RmsNorm { weight, eps: *eps }) };
        let summand: Vec<i32> = self.numbers(bias)?.1.iter().map(|b| bounded(f64::from(*b) / out)).collect();
        let bias = self.push(&format!("{name}.bias"), &[summand.len()], &summand);
        Ok(Op::LayerNorm { weight, bias, eps: *eps })
    }

    /// A table in steps of its own.
    fn table(&mut self, name: &str, table: &str) -> Result<(String, f64), Error> {
        let (shape, values) = self.numbers(table)?;
        let shape = shape.to_vec();
        let step = step_of(magnitude(&values)?, 1.0);
        let values: Vec<i32> = values.iter().map(|x| bounded(f64::from(*x) / step)).collect();
        Ok((self.push(&format!("{name}.values"), &shape, &values), step))
    }

    /// A dense layer; the steps of its outputs are those that were asked for, or larger.
    fn dense(
        &mut self,
        name: &str,
        weight: &str,
        bias: Option<&str>,
        own: f64,
        out: [f64; 3],
    ) -> Result<DenseInIntegers, Error> {
        let (shape, w) = self.numbers(weight)?;
        let [outputs, inputs] = *shape else { return Err(unsupported(&format!("`{weight}` is no matrix"))) };
        magnitude(&w)?;
        let bias = bias.map(|bias| self.numbers(bias)).transpose()?.map(|(_, bias)| bias);
        let units: Vec<f64> = w
            .chunks_exact(inputs.max(1))
            .map(|row| {
                let most = row.iter().fold(0.0, |most: f64, w| most.max(f64::from(w.abs())));
                if most > 0.0 { most / BYTE } else { 1.0 }
            })
            .collect();
        // What a row's magnitude is multiplied with stays below a half.
        let widest = units.iter().copied().fold(0.0, f64::max);
        let out = out.map(|step| step.max(widest * own / (BYTE / 2.0)));
        let third = third_of(outputs);
        let step = |output: usize| out.get(output.checked_div(third).unwrap_or(0)).copied().unwrap_or(out[0]);
        let relative: Vec<f64> = units.iter().enumerate().map(|(at, unit)| unit / step(at)).collect();
        let most = relative.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let q: Vec<i8> = w
            .chunks_exact(inputs.max(1))
            .zip(&units)
            .flat_map(|(row, unit)| row.iter().map(move |w| i8::try_from(whole(f64::from(*w) / unit)).unwrap_or(0)))
            .collect();
        let padded = [outputs, inputs].map(|n| n.checked_next_multiple_of(LANES).unwrap_or(n));
        let mut lines = vec![0; integer_bytes(outputs, inputs).unwrap_or(0)];
        pack_integer(&q, inputs, &mut lines);
        let weight = format!("{name}.weight");
        self.widths.insert(name.to_owned(), outputs);
        self.matrices.insert(weight.clone(), [to_u64(outputs), to_u64(padded[1])]);
        let shape = padded.iter().map(|&n| to_u64(n)).collect();
        self.arrays.push(NewArray { name: weight.clone(), dtype: DType::U8, shape, bytes: lines });
        // Factors of at most 1, as the product takes them.
        let (mut multiplier, mut shift): (Vec<i32>, Vec<i32>) =
            relative.iter().map(|relative| crate::integer::fixed_point(relative / most)).unzip();
        multiplier.resize(padded[0], 0);
        shift.resize(padded[0], 31);
        self.push(&format!("{weight}.multiplier"), &[padded[0]], &multiplier);
        self.push(&format!("{weight}.shift"), &[padded[0]], &shift);
        let of = |at: usize| bias.as_ref().and_then(|bias| bias.get(at)).copied().unwrap_or(0.0);
        let summand: Vec<i32> = (0..outputs).map(|at| bounded(f64::from(of(at)) / step(at))).collect();
        let bias = Some(self.push(&format!("{name}.bias"), &[outputs], &summand));
        let op = Op::Dense { weight, bias, function: Function::Identity };
        Ok((op, fixed(most * own / BYTE), out))
    }
}

/// A third of a width, or all of it where it has no thirds.
fn third_of(width: usize) -> usize {
    let third = width.checked_div(3).filter(|_| width.is_multiple_of(3));
    third.unwrap_or(width).max(1)
}

/// One step for values of this magnitude; `otherwise` where they are 0.
fn step_of(most: f64, otherwise: f64) -> f64 {
    if most > 0.0 { most / CALIBRATED } else { otherwise }
}

/// What a function makes of the ends of all segments.
fn curve(function: Function, before: f64, after: f64) -> Vec<i32> {
    let span = f64::from(MAX_ELEMENT);
    let place = |i: usize| (i as f64 / SEGMENTS as f64).mul_add(2.0 * span, -span);
    let mut values: Vec<f32> = (0..=SEGMENTS).map(|i| narrow(place(i) * before)).collect();
    Activate::select(&Cpu::detect()).run(&mut values, kernel(function));
    values.iter().map(|x| bounded(f64::from(*x) / after)).collect()
}

/// A factor as `multiplier / 2^shift`, of 31 bits where they are enough.
fn fixed(factor: f64) -> (i32, i32) {
    let (mut shift, mut scaled) = (1_i32, factor * 2.0);
    while scaled < power(30) && shift < 62 {
        (shift, scaled) = (shift.saturating_add(1), scaled * 2.0);
    }
    (whole(scaled), shift)
}

fn power(exponent: i32) -> f64 {
    2_f64.powi(exponent)
}

fn bounded(x: f64) -> i32 {
    whole(x).clamp(-MAX_ELEMENT, MAX_ELEMENT)
}

fn to_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{MAX_ELEMENT, curve, fixed};
    use rin_model::Function;

    #[test]
    fn factors_of_all_sizes_keep_30_bits() {
        for factor in [1000.0, 1.0, 0.3, 1e-9, 123_456.0] {
            let (multiplier, shift) = fixed(factor);
            let found = f64::from(multiplier) / 2_f64.powi(shift);
            assert!((found / factor - 1.0).abs() < 1e-8, "{factor}: {found}");
            assert!((1..=62).contains(&shift) && multiplier > 0);
        }
    }

    #[test]
    fn a_table_is_the_function_at_the_ends_of_its_segments() {
        let table = curve(Function::Relu, 0.5, 0.5);
        assert_eq!((table.len(), table[0], table[2048], table[2049], table[4096]), (4097, 0, 0, 512, MAX_ELEMENT));
        // Twice as fine a scale behind: what is too large stays at the end.
        assert_eq!(curve(Function::Relu, 0.5, 0.25)[4000], MAX_ELEMENT);
    }
}
