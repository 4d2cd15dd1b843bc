//! Spiking networks as `.rin` files.
//!
//! The file is that of [`rin_model::rin_format`]; its `rin.config` is a JSON object with `"mode": "snn"` ([`SnnConfig`]), and
//! its tensors are the little-endian arrays of [`rin_engine::snn::Layer`]: `layer.L.keep_v`, `.keep_u` (u16), `.threshold`,
//! `.current`, `.bias` (i32), `.unit` (f32), and `layer.L.weight.P` (i8, input-major) for its projections.

use crate::Error;
use crate::layout::{Content, Layout};
use crate::source::Origin;
use crate::staged::{Staged, check_destination};
use rin_engine::snn::{Coding, Layer, MAX_LAYERS, Network, Projection, Readout, Source};
use rin_kernels::ops::lif::Reset;
use rin_model::rin_format::{KEY_CONFIG, KEY_NUMERICS, KEY_VERSION, NUMERICS, Provenance, VERSION};
use rin_model::safetensors::Safetensors;
use rin_model::{Error as ModelError, Fault};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The `mode` of such a file.
const MODE: &str = "snn";
/// Longest configuration, in bytes.
const MAX_CONFIG: usize = 1 << 20;

/// `rin.config` of a spiking network.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SnnConfig {
    mode: String,
    inputs: usize,
    steps: usize,
    coding: CodingConfig,
    readout: ReadoutConfig,
    layers: Vec<LayerConfig>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum CodingConfig {
    Direct { scale: f32 },
    Rate { scale: f32, seed: u64 },
    Latency { scale: f32 },
    Spikes,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReadoutConfig {
    SpikeCount,
    Membrane,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ResetConfig {
    Zero,
    Subtract,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SourceConfig {
    Input,
    Layer(usize),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LayerConfig {
    outputs: usize,
    shift: u32,
    reset: ResetConfig,
    /// Whether there is a synapse's current.
    synapse: bool,
    /// Whether membranes have units.
    units: bool,
    /// Where the projections come from.
    projections: Vec<SourceConfig>,
}

/// Writes a network to `dst`, and says how many bytes that took.
///
/// # Errors
/// When the network is unsound, `dst` may not be replaced, or writing fails; then nothing is left behind.
pub fn write(dst: &Path, network: &Network, source: &str, overwrite: bool) -> Result<u64, Error> {
    network.check().map_err(rin_engine::Error::from)?;
    check_destination(dst, &[], overwrite)?;
    let mut layout = Layout::default();
    for (at, layer) in network.layers.iter().enumerate() {
        let mut put = |name: &str, bytes: Vec<u8>| match bytes.len() {
            0 => Ok(()),
            _ => layout.push_bytes(&format!("layer.{at}.{name}"), bytes, 0),
        };
        put("keep_v", layer.keep_v.iter().flat_map(|x| x.to_le_bytes()).collect())?;
        put("keep_u", layer.keep_u.iter().flat_map(|x| x.to_le_bytes()).collect())?;
        put("threshold", layer.threshold.iter().flat_map(|x| x.to_le_bytes()).collect())?;
        put("current", layer.current.iter().flat_map(|x| x.to_le_bytes()).collect())?;
        put("bias", layer.bias.iter().flat_map(|x| x.to_le_bytes()).collect())?;
        put("unit", layer.unit.iter().flat_map(|x| x.to_le_bytes()).collect())?;
        for (number, projection) in layer.projections.iter().enumerate() {
            put(&format!("weight.{number}"), projection.weights.iter().map(|w| w.cast_unsigned()).collect())?;
        }
    }
    let provenance = Provenance {
        source: source.to_owned(),
        format: "snn".to_owned(),
        sha256: None,
        writer: env!("CARGO_PKG_VERSION").to_owned(),
        quant: None,
    };
    let header = layout.header(&config(network), &Origin { provenance, files: Vec::new() })?;
    let mut staged = Staged::create(dst, &header, layout.data_bytes())?;
    for stored in layout.tensors() {
        if let Content::Bytes { bytes, padding } = &stored.content {
            staged.write_padded(bytes, *padding)?;
        }
    }
    let check = |path: &Path| {
        let bytes = std::fs::read(path).map_err(|error| Error::reading(path, error))?;
        read(&bytes).map(drop)
    };
    Ok(staged.publish_checked(header, overwrite, check)?.0)
}

fn config(network: &Network) -> SnnConfig {
    let layer = |layer: &Layer| LayerConfig {
        outputs: layer.outputs(),
        shift: layer.shift,
        reset: match layer.reset {
            Reset::Zero => ResetConfig::Zero,
            Reset::Subtract => ResetConfig::Subtract,
        },
        synapse: !layer.keep_u.is_empty(),
        units: !layer.unit.is_empty(),
        projections: layer
            .projections
            .iter()
            .map(|projection| match projection.from {
                Source::Input => SourceConfig::Input,
                Source::Layer(at) => SourceConfig::Layer(at),
            })
            .collect(),
    };
    SnnConfig {
        mode: MODE.to_owned(),
        inputs: network.inputs,
        steps: network.steps,
        coding: match network.coding {
            Coding::Direct { scale } => CodingConfig::Direct { scale },
            Coding::Rate { scale, seed } => CodingConfig::Rate { scale, seed },
            Coding::Latency { scale } => CodingConfig::Latency { scale },
            Coding::Spikes => CodingConfig::Spikes,
        },
        readout: match network.readout {
            Readout::SpikeCount => ReadoutConfig::SpikeCount,
            Readout::Membrane => ReadoutConfig::Membrane,
        },
        layers: network.layers.iter().map(layer).collect(),
    }
}

fn fault(name: &str, expected: impl Into<String>, found: impl Into<String>) -> ModelError {
    let (name, expected, found) = (name.to_owned(), expected.into(), found.into());
    let fault = Fault { file: None, section: "spiking network", name, offset: None, expected, found };
    ModelError::InconsistentConfig(Box::new(fault))
}

/// Whether the bytes are a `.rin` file of a spiking network.
pub fn is_snn(bytes: &[u8]) -> bool {
    // Only the header is read, and only that of a file that can be one.
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return false };
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let Some(header) = rest.get(..length.min(rest.len())) else { return false };
    header.first() == Some(&b'{') && Safetensors::parse(bytes).is_ok_and(|header| has_mode(&header))
}

fn has_mode(header: &Safetensors) -> bool {
    #[derive(Deserialize)]
    struct Mode {
        mode: String,
    }
    let config = header.get(KEY_CONFIG).filter(|config| config.len() <= MAX_CONFIG);
    config.and_then(|config| serde_json::from_str::<Mode>(config).ok()).is_some_and(|config| config.mode == MODE)
}

/// Reads a network.
///
/// # Errors
/// What [`Safetensors::parse`] finds; `UnsupportedVersion`, `MissingKey`, `BadHeader`, `MissingTensor` and
/// `InconsistentConfig` where the file is no sound network.
pub fn read(bytes: &[u8]) -> Result<Network, Error> {
    let header = Safetensors::parse(bytes)?;
    for (key, version) in [(KEY_VERSION, VERSION), (KEY_NUMERICS, NUMERICS)] {
        if header.get(key) != Some(version) {
            let found = header.get(key).unwrap_or("none").to_owned();
            return Err(fault(key, version, found).into());
        }
    }
    let config = header.get(KEY_CONFIG).filter(|config| config.len() <= MAX_CONFIG);
    let config = config.ok_or_else(|| fault(KEY_CONFIG, "a configuration of at most 1 MiB", "none"))?;
    let config: SnnConfig = serde_json::from_str(config)
        .map_err(|error| fault(KEY_CONFIG, "the configuration of a spiking network", error.to_string()))?;
    if config.mode != MODE || config.layers.len() > MAX_LAYERS {
        return Err(fault(KEY_CONFIG, format!("mode `{MODE}` and at most {MAX_LAYERS} layers"), config.mode).into());
    }
    let file = File { bytes, header: &header };
    let mut layers: Vec<Layer> = Vec::new();
    for (at, layer) in config.layers.iter().enumerate() {
        layers.push(file.layer(at, layer, &config)?);
    }
    let network = Network {
        inputs: config.inputs,
        steps: config.steps,
        coding: match config.coding {
            CodingConfig::Direct { scale } => Coding::Direct { scale },
            CodingConfig::Rate { scale, seed } => Coding::Rate { scale, seed },
            CodingConfig::Latency { scale } => Coding::Latency { scale },
            CodingConfig::Spikes => Coding::Spikes,
        },
        layers,
        readout: match config.readout {
            ReadoutConfig::SpikeCount => Readout::SpikeCount,
            ReadoutConfig::Membrane => Readout::Membrane,
        },
    };
    network.check().map_err(|error| fault(&error.place, "a network that can run", error.what))?;
    Ok(network)
}

struct File<'a> {
    bytes: &'a [u8],
    header: &'a Safetensors,
}

impl File<'_> {
    fn layer(&self, at: usize, layer: &LayerConfig, config: &SnnConfig) -> Result<Layer, Error> {
        let n = layer.outputs;
        let words = |name: &str, n: usize| -> Result<Vec<i32>, Error> {
            let bytes = self.tensor(&format!("layer.{at}.{name}"), n, 4)?;
            Ok(bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect())
        };
        let halves = |name: &str, n: usize| -> Result<Vec<u16>, Error> {
            let bytes = self.tensor(&format!("layer.{at}.{name}"), n, 2)?;
            Ok(bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect())
        };
        if layer.projections.len() > MAX_LAYERS {
            return Err(fault("projections", format!("at most {MAX_LAYERS} a layer"), "more").into());
        }
        let mut projections = Vec::new();
        for (number, from) in layer.projections.iter().enumerate() {
            let (from, width) = match *from {
                SourceConfig::Input => (Source::Input, Some(config.inputs)),
                SourceConfig::Layer(from) => (Source::Layer(from), config.layers.get(from).map(|layer| layer.outputs)),
            };
            let count = width.and_then(|width| width.checked_mul(n));
            let count = count.ok_or_else(|| fault("projections", "from a layer that exists", format!("{from:?}")))?;
            let bytes = self.tensor(&format!("layer.{at}.weight.{number}"), count, 1)?;
            projections.push(Projection { from, weights: bytes.iter().map(|b| b.cast_signed()).collect() });
        }
        let units = if layer.units { words("unit", n)? } else { Vec::new() };
        Ok(Layer {
            projections,
            keep_v: halves("keep_v", n)?,
            keep_u: if layer.synapse { halves("keep_u", n)? } else { Vec::new() },
            threshold: words("threshold", n)?,
            current: words("current", n)?,
            bias: words("bias", n)?,
            shift: layer.shift,
            reset: match layer.reset {
                ResetConfig::Zero => Reset::Zero,
                ResetConfig::Subtract => Reset::Subtract,
            },
            unit: units.iter().map(|bits| f32::from_bits(bits.cast_unsigned())).collect(),
        })
    }

    /// The first `count` elements of `size` bytes of a tensor, which is padded.
    fn tensor(&self, name: &str, count: usize, size: usize) -> Result<&[u8], Error> {
        let missing = |found: &str| fault(name, format!("{count} elements of {size} bytes"), found);
        let tensor = self.header.tensors().iter().find(|tensor| tensor.name == name);
        let tensor = tensor.ok_or_else(|| missing("no such tensor"))?;
        let place = usize::try_from(tensor.offset).ok().zip(usize::try_from(tensor.n_bytes).ok());
        let bytes = place.and_then(|(at, len)| self.bytes.get(at..)?.get(..len));
        let needed = count.checked_mul(size);
        let bytes = bytes.zip(needed).and_then(|(bytes, needed)| bytes.get(..needed));
        bytes.ok_or_else(|| missing(&format!("{} bytes", tensor.n_bytes)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Network {
        let mut hidden = Layer::new(5, 3000, 900, 3, Reset::Subtract);
        hidden.projections.push(Projection { from: Source::Input, weights: (0..15).map(|i| i * 7 - 50).collect() });
        hidden.projections.push(Projection { from: Source::Layer(0), weights: (0..25).map(|i| i - 12).collect() });
        hidden.keep_u = vec![1, 2, 3, 4, 4096];
        let mut last = Layer::new(2, 4096, i32::MAX, 2, Reset::Zero);
        last.projections.push(Projection { from: Source::Layer(0), weights: (0..10).collect() });
        last.unit = vec![0.25, 1.5];
        last.bias = vec![-7, 9];
        let coding = Coding::Rate { scale: 0.0625, seed: 77 };
        Network { inputs: 3, steps: 8, coding, layers: vec![hidden, last], readout: Readout::Membrane }
    }

    #[test]
    fn a_network_reads_back_as_it_was() {
        let folder = std::env::temp_dir().join(format!("rin-snn-file-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("x.rin");
        let bytes = write(&path, &network(), "test", true).unwrap();
        let stored = std::fs::read(&path).unwrap();
        assert_eq!(bytes, stored.len() as u64);
        assert!(is_snn(&stored));
        assert_eq!(read(&stored).unwrap(), network());
        assert!(matches!(write(&path, &network(), "test", false), Err(Error::Exists(_))));
        // No flipped bit of the header, and no cut, makes it panic or give an unsound network.
        let header = 8 + usize::try_from(u64::from_le_bytes(stored[..8].try_into().unwrap())).unwrap();
        let mut broken = stored.clone();
        for at in 0..header {
            for bit in [0, 3, 6] {
                broken[at] ^= 1 << bit;
                if let Ok(found) = read(&broken) {
                    found.check().unwrap();
                }
                broken[at] ^= 1 << bit;
            }
        }
        assert!((0..stored.len()).all(|cut| read(&stored[..cut]).is_err()));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
