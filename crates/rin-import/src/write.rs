//! Tensors that are in memory become `.rin`: the way out of a trainer.

use crate::layout::{Content, Described, Layout};
use crate::quantize::quantize_row;
use crate::source::Origin;
use crate::staged::{Staged, check_destination};
use crate::{Error, Report};
use rin_kernels::Format;
use rin_kernels::pack::{LANES, pack_panel};
use rin_model::rin_format::{ALIGNMENT, Provenance, TOKENIZER, TOKENIZER_CONFIG, hex};
use rin_model::{Config, DType, Network};
use sha2::{Digest, Sha256};
use std::path::Path;

/// A tensor as a weight file would hold it.
#[derive(Clone, Debug)]
pub struct NewTensor {
    /// Name, as GGUF files have it.
    pub name: String,
    /// Type of the weights; F32 for a vector.
    pub format: Format,
    /// `[rows, cols]` of a matrix, `[len]` of a vector.
    pub shape: Vec<usize>,
    /// The rows one after the other, in blocks of `format`.
    pub bytes: Vec<u8>,
}

impl NewTensor {
    /// A matrix of `[rows, cols]` numbers in `format`, one of [`quantize::TARGETS`](crate::quantize::TARGETS); rows are
    /// filled up with zeros to whole blocks, so `shape` can have more columns.
    ///
    /// # Errors
    /// When there are other than `rows × cols` numbers.
    pub fn matrix(name: &str, format: Format, [rows, cols]: [usize; 2], values: &[f32]) -> Result<Self, Error> {
        let padded = cols.next_multiple_of(format.block_len());
        let mut tensor = Self { name: name.to_owned(), format, shape: vec![rows, padded], bytes: Vec::new() };
        if cols == 0 || rows.checked_mul(cols) != Some(values.len()) {
            return Err(misfit(&tensor));
        }
        let mut row = vec![0.0; padded];
        for values in values.chunks_exact(cols) {
            row.iter_mut().zip(values).for_each(|(to, from)| *to = *from);
            quantize_row(format, &row, &mut tensor.bytes);
        }
        Ok(tensor)
    }

    /// A vector of numbers.
    pub fn vector(name: &str, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name: name.to_owned(), format: Format::F32, shape: vec![values.len()], bytes }
    }
}

/// What a new `.rin` file holds beside its tensors.
#[derive(Clone, Copy, Debug)]
pub struct NewModel<'a> {
    /// The numbers of the network.
    pub config: &'a Config,
    /// A `tokenizer.json`, or a GGUF file of a vocabulary alone; empty where there is none.
    pub tokenizer: &'a [u8],
    /// A `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// Where the weights came from, in a word: the provenance says so.
    pub source: &'a str,
    /// Type that the matrices were brought to, where they were.
    pub quant: Option<Format>,
}

/// Writes a model that is in memory to `dst`.
///
/// The bits of the tensors are kept: what the caller has quantised is only packed. On any error nothing is left
/// behind, and a file that was at `dst` stands.
///
/// # Errors
/// When a tensor's bytes do not fit its shape or hold a number that is none, when the network lacks a tensor, when
/// `dst` may not be replaced, or when writing fails.
pub fn write(dst: &Path, model: &NewModel<'_>, tensors: &[NewTensor], overwrite: bool) -> Result<Report, Error> {
    write_from(dst, model, "rin-train", tensors, overwrite)
}

/// As [`write()`], for weights of another `format`.
pub(crate) fn write_from(
    dst: &Path,
    model: &NewModel<'_>,
    format: &str,
    tensors: &[NewTensor],
    overwrite: bool,
) -> Result<Report, Error> {
    check_destination(dst, &[], overwrite)?;
    let mut layout = Layout::default();
    push_tensors(&mut layout, tensors)?;
    if !model.tokenizer.is_empty() {
        layout.push_bytes(TOKENIZER, model.tokenizer.trim_ascii_start().to_vec(), b' ')?;
    }
    if let Some(config) = model.tokenizer_config {
        layout.push_bytes(TOKENIZER_CONFIG, config.to_vec(), b' ')?;
    }
    let origin = origin(model.source, format, model.quant);
    write_layout(dst, &layout, Described::Decoder(model.config), &origin, tensors, overwrite)
}

/// An array that the engine reads as it is.
#[derive(Clone, Debug)]
pub struct NewArray {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Row-major shape, of at most 8 dimensions.
    pub shape: Vec<u64>,
    /// The elements, little-endian.
    pub bytes: Vec<u8>,
}

/// What a new `.rin` file of a network from rows of numbers to rows of numbers holds beside its tensors.
#[derive(Clone, Copy, Debug)]
pub struct NewNetwork<'a> {
    /// The network.
    pub network: &'a Network,
    /// Where the weights came from, in a word or a file name: the provenance says so.
    pub source: &'a str,
    /// Format of the source.
    pub format: &'a str,
    /// Type that the matrices were brought to, where they were.
    pub quant: Option<Format>,
}

/// Writes a network that is in memory to `dst`: `tensors` packed for the kernels, `arrays` as they are.
///
/// On any error nothing is left behind, and a file that was at `dst` stands.
///
/// # Errors
/// As for [`write()`], and when the network contradicts itself or its tensors.
pub fn write_network(
    dst: &Path,
    model: &NewNetwork<'_>,
    tensors: &[NewTensor],
    arrays: &[NewArray],
    overwrite: bool,
) -> Result<Report, Error> {
    check_destination(dst, &[], overwrite)?;
    let mut layout = Layout::default();
    push_tensors(&mut layout, tensors)?;
    for array in arrays {
        layout.push_array(&array.name, array.dtype, &array.shape, array.bytes.clone())?;
    }
    let origin = origin(model.source, model.format, model.quant);
    write_layout(dst, &layout, Described::Network(model.network), &origin, tensors, overwrite)
}

/// A network as the bytes of the file that [`write_network`] would write.
///
/// # Errors
/// As for [`write_network`], but for what is about files.
pub(crate) fn network_bytes(
    model: &NewNetwork<'_>,
    tensors: &[NewTensor],
    arrays: Vec<NewArray>,
) -> Result<Vec<u8>, Error> {
    let mut layout = Layout::default();
    push_tensors(&mut layout, tensors)?;
    for array in arrays {
        layout.push_array(&array.name, array.dtype, &array.shape, array.bytes)?;
    }
    let mut header =
        layout.header(Described::Network(model.network), &origin(model.source, model.format, model.quant))?;
    let start = header.bytes()?.len();
    let mut bytes = vec![0; start];
    for stored in layout.tensors() {
        if let Content::Bytes { bytes: content, padding } = &stored.content {
            bytes.extend(content);
            bytes.resize(bytes.len().next_multiple_of(usize::try_from(ALIGNMENT).unwrap_or(1)), *padding);
        }
    }
    header.record(&hex(&Sha256::digest(bytes.get(start..).unwrap_or_default())));
    if let (Some(to), header) = (bytes.get_mut(..start), header.bytes()?) {
        to.copy_from_slice(&header);
    }
    Ok(bytes)
}

fn origin(source: &str, format: &str, quant: Option<Format>) -> Origin {
    let provenance = Provenance {
        source: source.to_owned(),
        format: format.to_owned(),
        sha256: None,
        writer: env!("CARGO_PKG_VERSION").to_owned(),
        quant: quant.map(|format| format.name().to_owned()),
    };
    Origin { provenance, files: Vec::new() }
}

fn push_tensors(layout: &mut Layout, tensors: &[NewTensor]) -> Result<(), Error> {
    for tensor in tensors {
        match tensor.shape[..] {
            [rows, cols] => {
                let panels = pack(tensor, rows, cols)?;
                layout.push_packed(&tensor.name, tensor.format, [rows, cols], panels)?;
            }
            [len] if tensor.format == Format::F32 && len.checked_mul(4) == Some(tensor.bytes.len()) => {
                layout.push_vector(&tensor.name, len, tensor.bytes.clone())?;
            }
            _ => return Err(misfit(tensor)),
        }
    }
    Ok(())
}

fn write_layout(
    dst: &Path,
    layout: &Layout,
    described: Described<'_>,
    origin: &Origin,
    tensors: &[NewTensor],
    overwrite: bool,
) -> Result<Report, Error> {
    let header = layout.header(described, origin)?;
    let mut staged = Staged::create(dst, &header, layout.data_bytes())?;
    for stored in layout.tensors() {
        if let Content::Bytes { bytes, padding } = &stored.content {
            staged.write_padded(bytes, *padding)?;
        }
    }
    let (bytes, sha256) = staged.publish(header, overwrite)?;
    let n_quantized = tensors.iter().filter(|tensor| tensor.format.block_len() > 1).count();
    Ok(Report { bytes, n_tensors: layout.tensors().len(), n_quantized, sha256, cost: None })
}

/// All panels of a matrix.
fn pack(tensor: &NewTensor, rows: usize, cols: usize) -> Result<Vec<u8>, Error> {
    let row_bytes = tensor.format.row_bytes(cols).filter(|&bytes| bytes > 0).ok_or_else(|| misfit(tensor))?;
    let panel_bytes = tensor.format.panel_bytes(cols).ok_or_else(|| misfit(tensor))?;
    let size = tensor.format.packed_bytes(rows, cols).ok_or_else(|| misfit(tensor))?;
    if rows == 0 || row_bytes.checked_mul(rows) != Some(tensor.bytes.len()) {
        return Err(misfit(tensor));
    }
    let mut panels = vec![0; size];
    let sixteen = tensor.bytes.chunks(row_bytes.saturating_mul(LANES));
    for (p, (panel, rows)) in panels.chunks_exact_mut(panel_bytes).zip(sixteen).enumerate() {
        pack_panel(tensor.format, cols, |lane| rows.chunks_exact(row_bytes).nth(lane), panel).map_err(|at| {
            Error::OutOfRange {
                tensor: tensor.name.clone(),
                row: p.saturating_mul(LANES).saturating_add(at.lane),
                col: at.col,
                format: tensor.format,
            }
        })?;
    }
    Ok(panels)
}

fn misfit(tensor: &NewTensor) -> Error {
    Error::BytesDoNotFit {
        tensor: tensor.name.clone(),
        shape: tensor.shape.clone(),
        format: tensor.format,
        found: tensor.bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::{NewModel, NewTensor, write};
    use crate::Error;
    use rin_kernels::Format;
    use rin_model::{Activation, Arch, Config, ModelFile, Norm, Pairing, Rope, RopeScaling};

    fn config() -> Config {
        Config {
            arch: Arch::Llama,
            name: None,
            n_layers: 1,
            dim: 4,
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: 4,
            ffn_dim: 4,
            vocab: 4,
            ctx: 8,
            norm_eps: 1e-5,
            rope: Rope { base: 10_000.0, dims: 4, pairing: Pairing::Interleaved, scaling: RopeScaling::None },
            qkv_bias: false,
            attn_output_bias: false,
            mlp_bias: false,
            tied_embeddings: true,
            window: None,
            activation: Activation::Silu,
            norm: Norm::Rms,
            eos: Vec::new(),
            bos: None,
            memory: Vec::new(),
        }
    }

    /// All that the network needs, each number its place in its tensor.
    fn tensors() -> Vec<NewTensor> {
        let parts = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
        let names = parts.map(|part| (format!("blk.0.{part}.weight"), vec![4, 4])).into_iter();
        let vectors = ["blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"];
        let names = names.chain(vectors.map(|name| (name.to_owned(), vec![4])));
        let names = names.chain([("token_embd.weight".to_owned(), vec![4, 4])]);
        let tensor = |(name, shape): (String, Vec<usize>)| {
            let n: u8 = shape.iter().product::<usize>().try_into().unwrap();
            let bytes = (0..n).flat_map(|i| f32::from(i).to_le_bytes()).collect();
            NewTensor { name, format: Format::F32, shape, bytes }
        };
        names.map(tensor).collect()
    }

    #[test]
    fn a_model_in_memory_is_written_or_nothing_is() {
        let path = std::env::temp_dir().join(format!("rin-import-write-{}.rin", std::process::id()));
        let config = config();
        let model =
            NewModel { config: &config, tokenizer: b"{}", tokenizer_config: None, source: "a test", quant: None };
        let with = |change: &dyn Fn(&mut Vec<NewTensor>)| {
            let mut tensors = tensors();
            change(&mut tensors);
            write(&path, &model, &tensors, false)
        };
        let short = with(&|tensors| tensors[0].bytes.truncate(60));
        assert!(matches!(short, Err(Error::BytesDoNotFit { found: 60, .. })), "{short:?}");
        let cube = with(&|tensors| tensors[0].shape = vec![2, 2, 4]);
        assert!(matches!(cube, Err(Error::BytesDoNotFit { .. })), "{cube:?}");
        let nan = with(&|tensors| tensors[1].bytes[20..24].copy_from_slice(&f32::NAN.to_le_bytes()));
        assert!(matches!(nan, Err(Error::OutOfRange { row: 1, col: 1, .. })), "{nan:?}");
        let missing = with(&|tensors| tensors.truncate(3));
        assert!(matches!(missing, Err(Error::Model(_))), "{missing:?}");
        assert!(!path.exists());

        let report = with(&|_| {}).unwrap();
        let file = ModelFile::open(&path).unwrap();
        file.verify_sha256().unwrap();
        assert_eq!(file.config().unwrap(), &config);
        assert_eq!((report.n_tensors, report.n_quantized), (12, 0));
        let again = with(&|_| {});
        assert!(matches!(again, Err(Error::Exists(_))), "{again:?}");
        std::fs::remove_file(path).unwrap();
    }
}
