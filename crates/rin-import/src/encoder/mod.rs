//! Attention encoders in Hugging Face folders become networks on rows of numbers: BERT, RoBERTa, DistilBERT, ViT.
//!
//! A family module writes the network down with the [`Builder`]; what the configuration asks for beyond that is refused
//! by name. Definitions: Devlin et al., 2018; Liu et al., 2019; Sanh et al., 2019; Dosovitskiy et al., 2020, as
//! `transformers` has them.

mod bert;
mod build;
mod config;
mod vit;

use crate::convert::Converted;
use crate::foreign::{ForeignError, INTEGERS_NEED_ROWS};
use crate::write::NewTensor;
use crate::{Error, ImportOptions, Report, source, staged};
use build::Builder;
use config::EncoderConfig;
use rin_model::{Body, Mode, ModelFile, Network};
use std::path::{Path, PathBuf};

/// Longest configuration, in bytes.
const MAX_CONFIG: u64 = 16 << 20;

/// The configuration of an encoder that [`import`] reads; none where `src` is something else.
pub(crate) fn config_of(src: &Path) -> Option<EncoderConfig> {
    let path = config_path(src)?;
    let length = std::fs::metadata(&path).ok()?.len();
    let bytes = if length <= MAX_CONFIG { std::fs::read(&path).ok()? } else { return None };
    // What is damaged is told by the reader of folders.
    serde_json::from_slice::<EncoderConfig>(&bytes).ok().filter(EncoderConfig::is_known)
}

fn config_path(src: &Path) -> Option<PathBuf> {
    let folder = if src.is_dir() {
        src.to_path_buf()
    } else if src.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("safetensors")) {
        src.parent()?.to_path_buf()
    } else {
        return None;
    };
    Some(folder.join("config.json")).filter(|path| path.is_file())
}

/// Writes the encoder that `src` holds to `dst`.
pub(crate) fn import(src: &Path, dst: &Path, config: &EncoderConfig, options: &ImportOptions) -> Result<Report, Error> {
    let file = ModelFile::open(src)?;
    staged::check_destination(dst, &source::files(&file)?, options.overwrite)?;
    let name = source::name(src);
    let converted = Converted { name: &name, format: "safetensors", quant: options.quant };
    let report = match &options.calibration {
        None if options.integer => return Err(ForeignError::unsupported(INTEGERS_NEED_ROWS).into()),
        None => {
            let (network, tensors) = build(&file, &name, config, options)?;
            converted.write(dst, &network, &tensors, options.overwrite)?
        }
        Some(rows) => {
            let floats = build(&file, &name, config, &ImportOptions { quant: None, ..options.clone() })?;
            let own = || build(&file, &name, config, options);
            converted.beside_floats(dst, &floats, own, rows, options)?
        }
    };
    file.check_unchanged()?;
    Ok(report)
}

/// The network and its tensors.
fn build(
    file: &ModelFile,
    name: &str,
    config: &EncoderConfig,
    options: &ImportOptions,
) -> Result<(Network, Vec<NewTensor>), Error> {
    let mut builder = Builder::new(file, options);
    let ends = match config.model_type.as_str() {
        "vit" => vit::write(&mut builder, config)?,
        _ => bert::write(&mut builder, config)?,
    };
    builder.check_all_used()?;
    let (nodes, tensors) = builder.finish();
    let name = Some(name.to_owned()).filter(|name| !name.is_empty());
    let body = Body::Nodes(nodes);
    Ok((Network { mode: Mode::Attn, name, inputs: ends.inputs, outputs: ends.outputs, body }, tensors))
}
