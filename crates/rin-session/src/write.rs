//! Networks that a program has in memory become `.rin` files.

use std::path::Path;

use rin_engine::tokenizer::Tokenizer;
use rin_import::{NewArray, NewModel, NewNetwork, NewTensor, Report, write as write_model, write_network as write};
use rin_kernels::Format;
use rin_model::{Body, Config, DType, Network};
use serde_json::json;

use crate::import::target;
use crate::{Failure, RinStatus, invalid};

/// A tensor of a network that is written.
#[derive(Clone, Copy, Debug)]
pub struct TensorRequest<'a> {
    /// Its name, which the description of the network refers to.
    pub name: &'a str,
    /// Type of its values, "F32" for weights; for the arrays of networks in integers also "I8", "U8", "U16", "I32".
    pub dtype: &'a str,
    /// Its shape: `[rows, cols]` or `[len]`.
    pub shape: &'a [usize],
    /// Its values in little-endian order, row by row.
    pub bytes: &'a [u8],
}

/// Writes the network that `description` (the JSON of `rin.network`, see `docs/network.md`) and `tensors` are to `to`; gives
/// what was written as JSON. Matrices of dense layers are brought to `quant`, where it is given.
///
/// # Errors
///
/// When the description is none, lacks a tensor or contradicts one, a weight is no number, or the file cannot be written;
/// nothing is left behind then.
pub fn write_network(
    to: &Path,
    description: &str,
    tensors: &[TensorRequest<'_>],
    quant: Option<&str>,
    overwrite: bool,
) -> Result<String, Failure> {
    let network: Network = serde_json::from_str(description)
        .map_err(|error| invalid(format!("the description of the network is none: {error}")).at("network"))?;
    let quant = quant.map(target).transpose()?;
    let (mut weights, mut arrays) = (Vec::new(), Vec::new());
    for tensor in tensors {
        if matches!(network.body, Body::Spiking(_) | Body::Whole(_)) {
            let shape = tensor.shape.iter().map(|&n| u64::try_from(n).unwrap_or(u64::MAX)).collect();
            let (name, bytes) = (tensor.name.to_owned(), tensor.bytes.to_vec());
            arrays.push(NewArray { name, dtype: dtype(tensor)?, shape, bytes });
            continue;
        }
        let values = numbers(tensor)?;
        weights.push(match *tensor.shape {
            [_] => NewTensor::vector(tensor.name, &values),
            [rows, cols] => NewTensor::matrix(tensor.name, quant.unwrap_or(Format::F32), [rows, cols], &values)?,
            _ => return Err(misfit(tensor)),
        });
    }
    let model = NewNetwork { network: &network, source: "memory", format: "arrays", quant };
    Ok(told(to, &write(to, &model, &weights, &arrays, overwrite)?))
}

/// What a decoder is beside its tensors.
#[derive(Clone, Copy, Debug)]
pub struct DecoderRequest<'a> {
    /// The JSON of `rin.config`, see `docs/format.md`.
    pub config: &'a str,
    /// A `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// Type that matrices are brought to; none keeps float32.
    pub quant: Option<&'a str>,
    /// Whether a file at the destination may be replaced.
    pub overwrite: bool,
}

/// Writes the decoder that `request` and `tensors`, under the names of GGUF, are to `to`; gives what was written as JSON.
///
/// # Errors
///
/// When the configuration is none, lacks a tensor or contradicts one, the tokenizer is none or has more tokens than the
/// embedding has rows, a weight is no number, or the file cannot be written; nothing is left behind then.
pub fn write_decoder(
    to: &Path,
    request: &DecoderRequest<'_>,
    tensors: &[TensorRequest<'_>],
) -> Result<String, Failure> {
    let config: Config = serde_json::from_str(request.config)
        .map_err(|error| invalid(format!("the configuration of the decoder is none: {error}")).at("config"))?;
    config.validate()?;
    let tokens = Tokenizer::from_hf_json(request.tokenizer, None).map_err(rin_engine::Error::from)?.vocab_size();
    if tokens > config.vocab {
        let message = format!("the tokenizer has {tokens} tokens, the embedding {} rows", config.vocab);
        return Err(invalid(message).at("tokenizer"));
    }
    let quant = request.quant.map(target).transpose()?;
    let mut weights = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let values = numbers(tensor)?;
        weights.push(match *tensor.shape {
            [rows, cols] if !config.is_row(tensor.name) => {
                NewTensor::matrix(tensor.name, quant.unwrap_or(Format::F32), [rows, cols], &values)?
            }
            _ => NewTensor::vector(tensor.name, &values),
        });
    }
    let model =
        NewModel { config: &config, tokenizer: request.tokenizer, tokenizer_config: None, source: "memory", quant };
    Ok(told(to, &write_model(to, &model, &weights, request.overwrite)?))
}

/// What was written, as JSON.
fn told(to: &Path, report: &Report) -> String {
    json!({
        "output": to.display().to_string(),
        "bytes": report.bytes,
        "n_tensors": report.n_tensors,
        "sha256": report.sha256,
    })
    .to_string()
}

/// The type of a tensor that has as many bytes as it says.
fn dtype(tensor: &TensorRequest<'_>) -> Result<DType, Failure> {
    let values = tensor.shape.iter().try_fold(1_usize, |product, &n| product.checked_mul(n));
    let dtype: DType = tensor.dtype.parse().map_err(|_| misfit(tensor))?;
    let fits = values.and_then(|n| n.checked_mul(size_of_value(dtype)?)) == Some(tensor.bytes.len());
    if fits { Ok(dtype) } else { Err(misfit(tensor)) }
}

/// The finite numbers of a tensor of weights.
fn numbers(tensor: &TensorRequest<'_>) -> Result<Vec<f32>, Failure> {
    if dtype(tensor)? != DType::F32 {
        return Err(misfit(tensor));
    }
    let values: Vec<f32> = tensor.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        let name = tensor.name.escape_debug();
        let message = format!(
            "tensor `{name}` holds {} at place {at}: weights are finite numbers",
            values.get(at).copied().unwrap_or(f32::NAN)
        );
        return Err(Failure::new(RinStatus::InvalidInput, "NotFinite", message).at(format!("tensor `{name}`")));
    }
    Ok(values)
}

/// Bytes of a value of the types that can be given.
fn size_of_value(dtype: DType) -> Option<usize> {
    match dtype {
        DType::F32 | DType::I32 => Some(4),
        DType::U16 => Some(2),
        DType::I8 | DType::U8 => Some(1),
        _ => None,
    }
}

fn misfit(tensor: &TensorRequest<'_>) -> Failure {
    let TensorRequest { name, dtype, shape, bytes } = tensor;
    let (name, dtype) = (name.escape_debug(), dtype.escape_debug());
    let message = format!(
        "tensor `{name}` of shape {shape:?} in {dtype} with {} bytes is none of a network: weights are F32 matrices and \
         vectors, arrays of networks in integers I8, U8, U16, I32 or F32",
        bytes.len()
    );
    invalid(message).at(format!("tensor `{name}`"))
}
