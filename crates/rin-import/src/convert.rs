//! Networks of nodes that are written as they are, or beside what they were made from.

use crate::cost::cost;
use crate::write::{NewNetwork, NewTensor, write_network};
use crate::{Error, ImportOptions, Report, integer, source, whole};
use rin_kernels::Format;
use rin_model::Network;
use rin_model::array::Array;
use std::path::Path;

/// A network and its tensors.
pub(crate) type Built = (Network, Vec<NewTensor>);

/// What is said of where a network came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Converted<'a> {
    pub(crate) name: &'a str,
    pub(crate) format: &'a str,
    pub(crate) quant: Option<Format>,
}

impl Converted<'_> {
    pub(crate) fn write(
        &self,
        dst: &Path,
        network: &Network,
        tensors: &[NewTensor],
        overwrite: bool,
    ) -> Result<Report, Error> {
        let model = NewNetwork { network, source: self.name, format: self.format, quant: self.quant };
        write_network(dst, &model, tensors, &[], overwrite)
    }

    /// Writes a network in integers, or `own`, and compares it with `floats` on `rows`.
    pub(crate) fn beside_floats(
        &self,
        dst: &Path,
        floats: &Built,
        own: impl FnOnce() -> Result<Built, Error>,
        rows: &Array,
        options: &ImportOptions,
    ) -> Result<Report, Error> {
        let reference = dst.with_file_name(format!(".{}.{}.reference", source::name(dst), std::process::id()));
        let (network, tensors) = floats;
        let compared = Self { quant: None, ..*self }.write(&reference, network, tensors, true).and_then(|_| {
            let report = if options.integer {
                let quantized = whole::quantize(network, tensors, rows)?;
                integer::write(dst, &quantized, self.name, self.format, options.overwrite)?
            } else {
                let (network, tensors) = own()?;
                self.write(dst, &network, &tensors, options.overwrite)?
            };
            Ok(Report { cost: Some(cost(&reference, dst, rows)?), ..report })
        });
        // What led here is the failure to report.
        drop(std::fs::remove_file(&reference));
        compared
    }
}
