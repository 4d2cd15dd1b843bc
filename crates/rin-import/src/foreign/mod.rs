//! Trained networks from other programs become networks on rows of numbers.
//!
//! A source gives named tensors in numbers: a PyTorch state dictionary, a safetensors file, or one of the legacy layouts
//! of RIN, which also say what the network is. State dictionaries do not: a [`Description`] in TOML says it.

mod bytes;
mod describe;
mod error;
mod legacy;
mod pickle;
mod rwkv;
mod torch;
mod zip;

pub use describe::{Description, Layer, OutputLayer};
pub use error::ForeignError;

use crate::convert::Converted;
use crate::cost::cost;
use crate::integer::{self, DenseNetwork};
use crate::write::{NewNetwork, NewTensor, network_bytes, write_network};
use crate::{Error, ImportOptions, Report, onnx, source, staged, whole};
use rin_kernels::Format;
use rin_model::onnx::ExternalFiles;
use rin_model::{Body, FileFormat, ModelFile, Network};
use std::path::Path;
use std::sync::atomic::Ordering;

/// A tensor in numbers, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
    /// The type of floats that they were stored in, or F32.
    pub(crate) format: Format,
}

/// A network with its weights in numbers.
#[derive(Clone, Debug)]
pub(crate) struct Trained {
    pub(crate) network: Network,
    pub(crate) tensors: Vec<Tensor>,
}

pub(crate) const INTEGERS_NEED_ROWS: &str =
    "the mode rin finds the scales of its integers with rows of the input: give --calibrate FILE";

/// Longest file that is read into memory: networks of these kinds are small.
const MAX_FILE: u64 = 8 << 30;

/// What a file holds, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Torch,
    Legacy,
    Safetensors,
    Onnx,
}

/// The kind of a file that [`import_network`] reads; none for all others. A safetensors file is a network in pieces where
/// it comes with a description or without the configuration that language models have beside them.
pub(crate) fn kind_of(path: &Path, described: bool) -> Option<Kind> {
    if !path.is_file() {
        return None;
    }
    let named = |ends: &[&str]| {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        ends.iter().any(|end| extension.eq_ignore_ascii_case(end))
    };
    let mut start = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read(&mut file, &mut start)).unwrap_or(0);
    let start = start.get(..read).unwrap_or_default();
    match start {
        b"RIN1" | b"THOR" | b"TH3R" => Some(Kind::Legacy),
        _ if named(&["onnx"]) => Some(Kind::Onnx),
        _ if start.starts_with(b"PK") || named(&["pt", "pth", "bin", "ckpt"]) => Some(Kind::Torch),
        _ if named(&["safetensors"]) && (described || !path.with_file_name("config.json").is_file()) => {
            Some(Kind::Safetensors)
        }
        _ => None,
    }
}

/// Writes the network that `src` holds to `dst`; `description` says what its tensors make, where the file does not.
pub(crate) fn import_network(
    src: &Path,
    dst: &Path,
    kind: Kind,
    description: Option<&Description>,
    options: &ImportOptions,
) -> Result<Report, Error> {
    staged::check_destination(dst, &[src.to_path_buf()], options.overwrite)?;
    if kind == Kind::Onnx {
        return import_onnx(src, dst, description, options);
    }
    let (format, trained) = match kind {
        Kind::Onnx => return Err(ForeignError::unsupported("an ONNX file").into()),
        Kind::Torch => {
            let tensors = torch::read(&bytes_of(src)?)?;
            if description.is_none() && rwkv::is_rwkv(&tensors) {
                if options.calibration.is_some() || options.integer {
                    return Err(ForeignError::unsupported(crate::CALIBRATION_NEEDS_ROWS).into());
                }
                return rwkv::import(src, dst, tensors, "pytorch", options);
            }
            ("pytorch", describe::build(tensors, description)?)
        }
        Kind::Safetensors => ("safetensors", describe::build(safetensors(src)?, description)?),
        Kind::Legacy if description.is_some() => {
            return Err(
                ForeignError::unsupported("legacy RIN files describe their network; leave --network out").into()
            );
        }
        Kind::Legacy => ("legacy", legacy::read(&bytes_of(src)?)?),
    };
    check_cancelled(options)?;
    let name = source::name(src);
    let Some(rows) = &options.calibration else {
        if options.integer {
            return Err(ForeignError::unsupported(INTEGERS_NEED_ROWS).into());
        }
        return write_floats(dst, &trained, &name, format, options.quant, options);
    };
    // The same network in f32, to compare with.
    let reference = dst.with_file_name(format!(".{}.{}.reference", source::name(dst), std::process::id()));
    let compared =
        write_floats(&reference, &trained, &name, format, None, &ImportOptions { overwrite: true, ..options.clone() })
            .and_then(|_| {
                let report = if options.integer {
                    let quantized = match DenseNetwork::of(trained.clone()) {
                        Ok(layers) => layers.quantize(rows)?,
                        // Norms, residuals, attention.
                        Err(_) => whole::quantize(&trained.network, &float_tensors(&trained, None, options)?, rows)?,
                    };
                    integer::write(dst, &quantized, &name, format, options.overwrite)?
                } else {
                    write_floats(dst, &trained, &name, format, options.quant, options)?
                };
                Ok(Report { cost: Some(cost(&reference, dst, rows)?), ..report })
            });
    // What led here is the failure to report.
    drop(std::fs::remove_file(&reference));
    compared
}

/// Writes a network with its matrices in a type of floats or blocks.
fn write_floats(
    dst: &Path,
    trained: &Trained,
    name: &str,
    format: &str,
    quant: Option<Format>,
    options: &ImportOptions,
) -> Result<Report, Error> {
    let tensors = float_tensors(trained, quant, options)?;
    check_cancelled(options)?;
    let model = NewNetwork { network: &trained.network, source: name, format, quant };
    write_network(dst, &model, &tensors, &[], options.overwrite)
}

/// The tensors of a network, its matrices in a type of floats or blocks.
fn float_tensors(trained: &Trained, quant: Option<Format>, options: &ImportOptions) -> Result<Vec<NewTensor>, Error> {
    let format_of_matrices = quant.unwrap_or(Format::F32);
    let mut tensors = Vec::with_capacity(trained.tensors.len());
    for tensor in &trained.tensors {
        check_cancelled(options)?;
        if let Some(at) = tensor.values.iter().position(|value| !value.is_finite()) {
            let col = tensor.shape.get(1).copied().unwrap_or(1).max(1);
            let (row, col) = (at.checked_div(col).unwrap_or(0), at.checked_rem(col).unwrap_or(0));
            return Err(rin_engine::Error::NonFiniteWeight { tensor: tensor.name.clone(), row, col }.into());
        }
        tensors.push(match tensor.shape[..] {
            [rows, cols] => NewTensor::matrix(&tensor.name, format_of_matrices, [rows, cols], &tensor.values)?,
            _ => NewTensor::vector(&tensor.name, &tensor.values),
        });
    }
    Ok(tensors)
}

/// Ends an import that was interrupted.
pub(crate) fn check_cancelled(options: &ImportOptions) -> Result<(), Error> {
    match &options.cancel {
        Some(flag) if flag.load(Ordering::Relaxed) => Err(Error::Cancelled),
        _ => Ok(()),
    }
}

/// Names and shapes of the tensors of a file of `torch.save`, in its order. The pickle is read as data and never run.
///
/// # Errors
/// When the file is damaged, asks for code to be run, or holds no dictionary of tensors.
pub fn torch_shapes(bytes: &[u8]) -> Result<Vec<(String, Vec<usize>)>, ForeignError> {
    Ok(torch::read(bytes)?.into_iter().map(|tensor| (tensor.name, tensor.shape)).collect())
}

/// Writes the network of an ONNX file.
fn import_onnx(
    src: &Path,
    dst: &Path,
    description: Option<&Description>,
    options: &ImportOptions,
) -> Result<Report, Error> {
    if description.is_some() {
        return Err(ForeignError::unsupported("ONNX files describe their network; leave --network out").into());
    }
    let (name, quant) = (source::name(src), options.quant);
    if options.integer && options.calibration.is_none() {
        return Err(ForeignError::unsupported(INTEGERS_NEED_ROWS).into());
    }
    if let Some(rows) = &options.calibration {
        let floats = read_onnx(src, &ImportOptions { quant: None, ..options.clone() })?;
        if !floats.arrays.is_empty() || !matches!(floats.network.body, Body::Nodes(_)) {
            let what = "calibration rows are for models that are layers on rows, and this one is a graph of arrays";
            return Err(ForeignError::unsupported(what).into());
        }
        let own = || {
            let imported = read_onnx(src, options)?;
            Ok((imported.network, imported.tensors))
        };
        let converted = Converted { name: &name, format: "onnx", quant };
        return converted.beside_floats(dst, &(floats.network, floats.tensors), own, rows, options);
    }
    let imported = read_onnx(src, options)?;
    let model = NewNetwork { network: &imported.network, source: &name, format: "onnx", quant };
    write_network(dst, &model, &imported.tensors, &imported.arrays, options.overwrite)
}

/// Opens an ONNX file as the `.rin` file that [`import`](crate::import) would write, in memory.
///
/// # Errors
/// As for [`import`](crate::import), but for what is about the file that it writes.
pub fn open_onnx(src: &Path, options: &ImportOptions) -> Result<ModelFile, Error> {
    let imported = read_onnx(src, options)?;
    let name = source::name(src);
    let model = NewNetwork { network: &imported.network, source: &name, format: "onnx", quant: options.quant };
    let bytes = network_bytes(&model, &imported.tensors, imported.arrays)?;
    Ok(ModelFile::from_bytes(&src.to_string_lossy(), bytes)?)
}

fn read_onnx(src: &Path, options: &ImportOptions) -> Result<onnx::Imported, Error> {
    let folder = src.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    onnx::read(&bytes_of(src)?, &mut ExternalFiles::in_folder(folder), options)
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, Error> {
    let length = source::length(path)?;
    if length > MAX_FILE {
        let what = format!("the file has {length} bytes, more than the {MAX_FILE} that are read of this format");
        return Err(ForeignError::unsupported(what).into());
    }
    std::fs::read(path).map_err(|error| Error::reading(path, error))
}

/// The float tensors of a safetensors file.
fn safetensors(path: &Path) -> Result<Vec<Tensor>, Error> {
    let file = ModelFile::open(path)?;
    if file.format() != FileFormat::Safetensors {
        return Err(Error::AlreadyRin(path.to_path_buf()));
    }
    let mut found = Vec::new();
    for tensor in file.tensors() {
        let format = rin_engine::weights::format_of(tensor.dtype).filter(|format| format.block_len() == 1);
        let Some(format) = format else { continue };
        let too_large = || Error::TooLarge { tensor: tensor.name.clone() };
        let shape = tensor.shape.iter().map(|&n| usize::try_from(n).ok()).collect::<Option<Vec<_>>>();
        let n = usize::try_from(tensor.n_elements()).map_err(|_| too_large())?;
        let mut values = vec![0.0; n];
        rin_kernels::format::dequantize(format, file.bytes(tensor), &mut values);
        found.push(Tensor { name: tensor.source_name.clone(), shape: shape.ok_or_else(too_large)?, values, format });
    }
    Ok(found)
}
