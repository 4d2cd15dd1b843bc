//! Spiking networks as `.rin` files: the description is [`rin_model::Spiking`], the arrays lie as they are.

use crate::write::{NewArray, NewNetwork, write_network};
use crate::{Error, Report};
use rin_engine::snn::Network;
use rin_model::DType;
use std::path::Path;

/// Writes a network to `dst`. `source` says in a word or a file name where it came from, `format` of which format that was.
///
/// # Errors
/// When the network is unsound, `dst` may not be replaced, or writing fails; then nothing is left behind.
pub fn write(dst: &Path, network: &Network, source: &str, format: &str, overwrite: bool) -> Result<Report, Error> {
    network.check().map_err(rin_engine::Error::from)?;
    let to_u64 = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let mut arrays = Vec::new();
    for (at, layer) in network.layers.iter().enumerate() {
        let n = to_u64(layer.outputs());
        let mut put = |name: &str, dtype, shape: &[u64], bytes: Vec<u8>| {
            if !bytes.is_empty() {
                arrays.push(NewArray { name: format!("layer.{at}.{name}"), dtype, shape: shape.to_vec(), bytes });
            }
        };
        put("keep_v", DType::U16, &[n], layer.keep_v.iter().flat_map(|x| x.to_le_bytes()).collect());
        put("keep_u", DType::U16, &[n], layer.keep_u.iter().flat_map(|x| x.to_le_bytes()).collect());
        put("threshold", DType::I32, &[n], layer.threshold.iter().flat_map(|x| x.to_le_bytes()).collect());
        put("current", DType::I32, &[n], layer.current.iter().flat_map(|x| x.to_le_bytes()).collect());
        put("bias", DType::I32, &[n], layer.bias.iter().flat_map(|x| x.to_le_bytes()).collect());
        put("unit", DType::F32, &[n], layer.unit.iter().flat_map(|x| x.to_le_bytes()).collect());
        for (number, projection) in layer.projections.iter().enumerate() {
            let width = to_u64(network.width(projection.from).unwrap_or(0));
            let bytes = projection.weights.iter().map(|w| w.cast_unsigned()).collect();
            put(&format!("weight.{number}"), DType::I8, &[width, n], bytes);
        }
    }
    let described = network.describe(None);
    let model = NewNetwork { network: &described, source, format, quant: None };
    write_network(dst, &model, &[], &arrays, overwrite)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rin_engine::snn::{Coding, Layer, Projection, Readout, Source};
    use rin_kernels::ops::lif::Reset;
    use rin_model::{Mode, ModelFile};

    fn network(coding: Coding) -> Network {
        let mut hidden = Layer::new(5, 3000, 900, 3, Reset::Subtract);
        hidden.projections.push(Projection { from: Source::Input, weights: (0..15).map(|i| i * 7 - 50).collect() });
        hidden.projections.push(Projection { from: Source::Layer(0), weights: (0..25).map(|i| i - 12).collect() });
        hidden.keep_u = vec![1, 2, 3, 4, 4096];
        let mut last = Layer::new(2, 4096, i32::MAX, 2, Reset::Zero);
        last.projections.push(Projection { from: Source::Layer(0), weights: (0..10).collect() });
        last.unit = vec![0.25, 1.5];
        last.bias = vec![-7, 9];
        Network { inputs: 3, steps: 8, coding, layers: vec![hidden, last], readout: Readout::Membrane }
    }

    #[test]
    fn a_network_reads_back_as_it_was() {
        let folder = std::env::temp_dir().join(format!("rin-snn-file-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("x.rin");
        let scale = 0.0625;
        let codings =
            [Coding::Rate { scale, seed: 77 }, Coding::Spikes, Coding::Direct { scale }, Coding::Latency { scale }];
        for coding in codings {
            write(&path, &network(coding), "test", "test", true).unwrap();
            let file = ModelFile::open(&path).unwrap();
            assert_eq!(file.mode(), Some(Mode::Snn));
            assert_eq!(Network::of_file(&file).unwrap(), network(coding));
        }
        assert!(matches!(write(&path, &network(Coding::Spikes), "", "", false), Err(Error::Exists(_))));
        // No flipped bit of the header, and no cut, gives a network that is not sound.
        let stored = std::fs::read(&path).unwrap();
        let header = 8 + usize::try_from(u64::from_le_bytes(stored[..8].try_into().unwrap())).unwrap();
        let other = folder.join("y.rin");
        for at in (0..header).step_by(3) {
            let mut broken = stored.clone();
            broken[at] ^= 1 << (at % 7);
            std::fs::write(&other, &broken).unwrap();
            if let Ok(found) =
                ModelFile::open(&other).map_err(rin_engine::Error::from).and_then(|f| Network::of_file(&f))
            {
                found.check().unwrap();
            }
        }
        for cut in (0..stored.len()).step_by(101) {
            std::fs::write(&other, &stored[..cut]).unwrap();
            assert!(ModelFile::open(&other).is_err());
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
