//! A trained network becomes a `.rin` file.

use crate::Error;
use crate::network::Network;
use crate::parameters::{Parameters, Role};
use crate::vocabulary::Vocabulary;
use crate::weights::{Arithmetic, quantize};
use rin_import::{NewModel, NewTensor, Report};
use rin_kernels::Format;
use std::path::Path;

/// Writes the network with its matrices in `quant`, or in f32, to `dst`; a file that was there is replaced.
///
/// The blocks are those with which a forward pass in [`Arithmetic::Quant`] computes, so the runtime gives its logits.
///
/// # Errors
/// When a weight is not a number or too large for the format, or the file cannot be written.
pub fn export(
    network: &dyn Network,
    parameters: &Parameters,
    vocabulary: &Vocabulary,
    quant: Option<Format>,
    dst: &Path,
) -> Result<Report, Error> {
    let arithmetic = quant.map_or(Arithmetic::Float, Arithmetic::Quant);
    let mut tensors = Vec::new();
    for p in parameters.0.iter().filter(|p| p.role.is_exported()) {
        let (format, bytes) = match p.role {
            Role::Matrix { .. } => {
                let quantized = quantize(parameters, &p.name, arithmetic);
                (quantized.format, quantized.blocks)
            }
            _ => (Format::F32, p.values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        };
        tensors.push(NewTensor { name: p.name.clone(), format, shape: p.shape.clone(), bytes });
    }
    let model = NewModel {
        config: network.config(),
        tokenizer: vocabulary.json(),
        tokenizer_config: None,
        source: "trained",
        quant,
    };
    Ok(rin_import::write(dst, &model, &tensors, true)?)
}
