//! The first generation's files: RIN1 as its C reader and as its Python writer had it, and THOR.
//!
//! The magic is one for both RIN1 layouts and there is no checksum, so a layout is taken only where it accounts for every
//! byte of the file. Weights are bytes with a scale, biases are f32; hidden layers have a ReLU and the last one none.
//! RIN1 weights are `(byte − 128) · scale`. THOR files exist as the reader had them (every layer of bytes, with a scale)
//! and as the writers had them (hidden layers of signed bytes, the last layer of f32 without a scale); the length tells.

use super::bytes::Bytes;
use super::{ForeignError, Tensor, Trained};
use rin_kernels::Format;
use rin_model::{Body, Function, Mode, Network, Node, Op, Output, OutputKind, Port};

/// Most layers that the first generation could hold.
const MAX_LAYERS: usize = 64;
/// Widest layer.
const MAX_WIDTH: usize = 1 << 16;
const SECTION: &str = "legacy file";

/// A layer in numbers: `(outputs, inputs)`.
struct Layer {
    rows: usize,
    cols: usize,
    weights: Vec<f32>,
    bias: Vec<f32>,
}

/// A way to read a file, and what it is called.
type Layout = (&'static str, fn(&[u8]) -> Result<Vec<Layer>, ForeignError>);

pub(super) fn read(all: &[u8]) -> Result<Trained, ForeignError> {
    let layouts: &[Layout] = match all.get(..4).unwrap_or_default() {
        b"RIN1" => &[("RIN1 as C reads it", rin1_c), ("RIN1 as Python writes it", rin1_python)],
        b"THOR" => &[("THOR as C reads it", thor_reader), ("THOR as its trainers write it", thor_writer)],
        _ => {
            let what =
                "TH3R files hold pruned weights that no program has ever read back; train or import the network anew";
            return Err(ForeignError::unsupported(what));
        }
    };
    let (mut found, mut reasons) = (Vec::new(), Vec::new());
    for (name, read) in layouts {
        match read(all) {
            Ok(layers) => found.push(layers),
            Err(error) => reasons.push(format!("it is not {name}: {error}")),
        }
    }
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(layers), None) => Ok(network(layers)),
        (Some(_), Some(_)) => Err(ForeignError::unsupported("the file can be read in two layouts; import its source")),
        _ => Err(ForeignError::unsupported(reasons.join("; "))),
    }
}

/// Everything after the magic.
fn body(all: &[u8]) -> Result<Bytes<'_>, ForeignError> {
    let mut bytes = Bytes::new(all, SECTION);
    bytes.take(4)?;
    Ok(bytes)
}

fn width(bytes: &mut Bytes<'_>) -> Result<usize, ForeignError> {
    let n = usize::try_from(bytes.u32()?).unwrap_or(usize::MAX);
    if (1..=MAX_WIDTH).contains(&n) { Ok(n) } else { Err(bytes.fault(format!("a width of {n}, of 1 to {MAX_WIDTH}"))) }
}

fn n_layers(bytes: &mut Bytes<'_>) -> Result<usize, ForeignError> {
    let n = usize::try_from(bytes.u32()?).unwrap_or(usize::MAX);
    if (1..=MAX_LAYERS).contains(&n) {
        return Ok(n);
    }
    Err(bytes.fault(format!("{n} layers, of 1 to {MAX_LAYERS}")))
}

fn ended(bytes: &Bytes<'_>) -> Result<(), ForeignError> {
    match bytes.remaining() {
        0 => Ok(()),
        n => Err(bytes.fault(format!("{n} bytes are left over"))),
    }
}

/// The architecture behind the version.
fn dense_only(bytes: &mut Bytes<'_>) -> Result<(), ForeignError> {
    bytes.u32()?;
    match bytes.u32()? {
        0 => Ok(()),
        1 => Err(ForeignError::unsupported(
            "it is a character transformer with learned positions, which this version does not import",
        )),
        other => Err(bytes.fault(format!("the architecture {other}, of 0 and 1"))),
    }
}

/// Bytes as weights: `weight` of a byte, times the scale.
fn scaled(bytes: &[u8], scale: f32, weight: fn(u8) -> f32) -> Vec<f32> {
    bytes.iter().map(|&byte| weight(byte) * scale).collect()
}

fn offset_128(byte: u8) -> f32 {
    f32::from(byte) - 128.0
}

fn signed(byte: u8) -> f32 {
    f32::from(byte.cast_signed())
}

/// A scale; in another layout, four bytes of something else.
fn scale(bytes: &mut Bytes<'_>) -> Result<f32, ForeignError> {
    let scale = f32::from_le_bytes(bytes.array()?);
    if scale.is_finite() && scale > 0.0 {
        return Ok(scale);
    }
    Err(bytes.fault(format!("{scale} as a scale, which is a number above 0")))
}

fn area(bytes: &Bytes<'_>, rows: usize, cols: usize) -> Result<usize, ForeignError> {
    rows.checked_mul(cols).ok_or_else(|| bytes.fault("a matrix beyond the address space"))
}

/// `u32 version, arch, version, input, output, layers, dims[]`, then per layer `f32 scale, u8 W[out][in], f32 bias[out]`.
fn rin1_c(all: &[u8]) -> Result<Vec<Layer>, ForeignError> {
    let mut bytes = body(all)?;
    dense_only(&mut bytes)?;
    bytes.u32()?;
    let (mut cols, outputs) = (width(&mut bytes)?, width(&mut bytes)?);
    let n = n_layers(&mut bytes)?;
    let dims = (0..n).map(|_| width(&mut bytes)).collect::<Result<Vec<_>, _>>()?;
    if dims.last() != Some(&outputs) {
        return Err(bytes.fault(format!("the last layer is not as wide as the output, {outputs}")));
    }
    let mut layers = Vec::with_capacity(n);
    for rows in dims {
        let scale = scale(&mut bytes)?;
        let area = area(&bytes, rows, cols)?;
        let weights = scaled(bytes.take(area)?, scale, offset_128);
        layers.push(Layer { rows, cols, weights, bias: bytes.f32s(rows)? });
        cols = rows;
    }
    ended(&bytes)?;
    Ok(layers)
}

/// `u32 version, arch, layers, input, output`, then per layer `u32 in, out, f32 scale, u8 W[in][out], f32 bias[out]`.
fn rin1_python(all: &[u8]) -> Result<Vec<Layer>, ForeignError> {
    let mut bytes = body(all)?;
    dense_only(&mut bytes)?;
    let n = n_layers(&mut bytes)?;
    let (mut before, outputs) = (width(&mut bytes)?, width(&mut bytes)?);
    let mut layers = Vec::with_capacity(n);
    for _ in 0..n {
        let (cols, rows) = (width(&mut bytes)?, width(&mut bytes)?);
        if cols != before {
            return Err(bytes.fault(format!("a layer takes {cols} values where {before} come in")));
        }
        let scale = scale(&mut bytes)?;
        let area = area(&bytes, rows, cols)?;
        let stored = scaled(bytes.take(area)?, scale, offset_128);
        let column = |r: usize| stored.iter().skip(r).step_by(rows).copied();
        let weights = (0..rows).flat_map(column).collect();
        layers.push(Layer { rows, cols, weights, bias: bytes.f32s(rows)? });
        before = rows;
    }
    if before != outputs {
        return Err(bytes.fault(format!("the last layer has {before} outputs, the header says {outputs}")));
    }
    ended(&bytes)?;
    Ok(layers)
}

/// `i32 input, output, layers, dims[], count`: the widths, input first.
fn thor_header(bytes: &mut Bytes<'_>) -> Result<Vec<usize>, ForeignError> {
    let (inputs, outputs) = (width(bytes)?, width(bytes)?);
    let n = n_layers(bytes)?;
    let dims = (0..n).map(|_| width(bytes)).collect::<Result<Vec<_>, _>>()?;
    bytes.u32()?;
    if dims.last() != Some(&outputs) {
        return Err(bytes.fault(format!("the last layer is not as wide as the output, {outputs}")));
    }
    Ok([inputs].into_iter().chain(dims).collect())
}

fn thor_layer(bytes: &mut Bytes<'_>, cols: usize, rows: usize, weight: fn(u8) -> f32) -> Result<Layer, ForeignError> {
    let area = area(bytes, rows, cols)?;
    let stored = bytes.take(area)?;
    let scale = scale(bytes)?;
    Ok(Layer { rows, cols, weights: scaled(stored, scale, weight), bias: bytes.f32s(rows)? })
}

fn thor_reader(all: &[u8]) -> Result<Vec<Layer>, ForeignError> {
    let mut bytes = body(all)?;
    let dims = thor_header(&mut bytes)?;
    let pairs = dims.iter().zip(dims.iter().skip(1));
    let layers =
        pairs.map(|(&cols, &rows)| thor_layer(&mut bytes, cols, rows, offset_128)).collect::<Result<_, _>>()?;
    ended(&bytes)?;
    Ok(layers)
}

fn thor_writer(all: &[u8]) -> Result<Vec<Layer>, ForeignError> {
    let mut bytes = body(all)?;
    let dims = thor_header(&mut bytes)?;
    let mut layers = Vec::new();
    let last = dims.len().saturating_sub(2);
    for (i, (&cols, &rows)) in dims.iter().zip(dims.iter().skip(1)).enumerate() {
        if i < last {
            layers.push(thor_layer(&mut bytes, cols, rows, signed)?);
            continue;
        }
        let area = area(&bytes, rows, cols)?;
        let (weights, bias) = (bytes.f32s(area)?, bytes.f32s(rows)?);
        layers.push(Layer { rows, cols, weights, bias });
    }
    ended(&bytes)?;
    Ok(layers)
}

fn network(layers: Vec<Layer>) -> Trained {
    let last = layers.len().saturating_sub(1);
    let width = layers.first().map_or(0, |layer| layer.cols);
    let (mut nodes, mut tensors, mut from) = (Vec::new(), Vec::new(), "input".to_owned());
    for (i, layer) in layers.into_iter().enumerate() {
        let name = |part: &str| format!("layers.{i}.{part}");
        let function = if i < last { Function::Relu } else { Function::Identity };
        let op = Op::Dense { weight: name("weight"), bias: Some(name("bias")), function };
        let output = format!("layers.{i}");
        nodes.push(Node { inputs: vec![from], output: output.clone(), op });
        from = output;
        tensors.push(Tensor {
            name: name("weight"),
            shape: vec![layer.rows, layer.cols],
            values: layer.weights,
            format: Format::F32,
        });
        tensors.push(Tensor { name: name("bias"), shape: vec![layer.rows], values: layer.bias, format: Format::F32 });
    }
    let network = Network {
        mode: Mode::Mlp,
        name: None,
        inputs: vec![Port::row("input", vec![width])],
        outputs: vec![Output { name: from, kind: OutputKind::Logits, labels: Vec::new() }],
        body: Body::Nodes(nodes),
    };
    Trained { network, tensors }
}
