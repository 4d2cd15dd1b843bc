//! The rows that go into a network, from the files of its inputs.

use std::ops::Range;

use anyhow::Result;
use rin_model::array::Array;
use rin_model::{Network, Port, PortKind};

use crate::exit::Usage;
use crate::values::NamedFile;

/// The numbers of all inputs.
#[derive(Debug)]
pub(crate) struct Inputs<'a> {
    pub(crate) network: &'a Network,
    /// None where an optional input was left out.
    arrays: Vec<Option<Array>>,
    pub(crate) rows: usize,
    /// Positions of every row, those that do not count included; none where there are no sequences.
    pub(crate) positions: Option<usize>,
}

impl<'a> Inputs<'a> {
    /// Reads the files of all inputs, in the order of the network, and counts their rows.
    ///
    /// # Errors
    /// [`Usage`] for files that are not those of the inputs, or do not fit each other.
    pub(crate) fn read(files: &[NamedFile], network: &'a Network) -> Result<Self> {
        let mut arrays: Vec<Option<Array>> = network.inputs.iter().map(|_| None).collect();
        for file in files {
            let place = match &file.name {
                Some(name) => network.inputs.iter().position(|port| port.name == *name),
                None => arrays.iter().position(Option::is_none),
            };
            let Some(slot) = place.and_then(|i| arrays.get_mut(i)).filter(|slot| slot.is_none()) else {
                let names: Vec<_> = network.inputs.iter().map(|port| format!("`{}`", port.name)).collect();
                let text = format!("--input {file}: the network takes the inputs {}, each once", names.join(", "));
                return Err(Usage(text).into());
            };
            let array = Array::read_of_any_length(&file.path);
            *slot = Some(array.map_err(|error| Usage(format!("--input {file}: {error}")))?);
        }
        let mut inputs = Self { network, arrays, rows: 0, positions: None };
        inputs.count()?;
        inputs.take_lengths()?;
        Ok(inputs)
    }

    fn count(&mut self) -> Result<(), Usage> {
        let mut rows = None;
        for (array, port) in self.arrays.iter().zip(&self.network.inputs) {
            let Some(array) = array else {
                if port.optional {
                    continue;
                }
                let name = &port.name;
                return Err(Usage(format!("input `{name}` is missing: give --input {name}=FILE.npy or FILE.csv")));
            };
            let n = if port.kind == PortKind::Sequence {
                let [n, positions] = array.sequences(port.unit()).ok_or_else(|| misfit(array, port))?;
                let first = *self.positions.get_or_insert(positions);
                if first != positions || !(1..=port.positions()).contains(&positions) {
                    let most = if first == positions { port.positions() } else { first };
                    let name = &port.name;
                    return Err(Usage(format!("input `{name}` has {positions} positions where {most} are possible")));
                }
                n
            } else {
                array.rows(port.width()).ok_or_else(|| misfit(array, port))?
            };
            let first = *rows.get_or_insert(n);
            if first != n {
                return Err(Usage(format!("input `{}` has {n} rows, those before it have {first}", port.name)));
            }
        }
        self.rows = rows.unwrap_or(0);
        Ok(())
    }

    /// Rows of different lengths say how many of their positions count, where nothing else does.
    fn take_lengths(&mut self) -> Result<(), Usage> {
        let ports = &self.network.inputs;
        let found = self.arrays.iter().flatten().find_map(|array| array.lengths.clone());
        let Some(lengths) = found else { return Ok(()) };
        let Some(place) = ports.iter().position(|port| port.kind == PortKind::Length) else {
            return Err(Usage("the rows of an input differ in length, and the network takes rows of one".to_owned()));
        };
        if let Some(slot) = self.arrays.get_mut(place)
            && slot.is_none()
        {
            let values = lengths.iter().map(|&n| n as f32).collect();
            *slot = Some(Array { shape: vec![lengths.len(), 1], values, lengths: None });
        }
        Ok(())
    }

    /// The numbers of some rows, input by input; nothing for one that was left out.
    pub(crate) fn slices<'s>(&'s self, rows: Range<usize>, slices: &mut [&'s [f32]]) {
        for ((slice, array), port) in slices.iter_mut().zip(&self.arrays).zip(&self.network.inputs) {
            let positions = if port.kind == PortKind::Sequence { self.positions.unwrap_or(1) } else { 1 };
            let width = port.unit() * positions;
            *slice = array.as_ref().map_or(&[], |array| &array.values[rows.start * width..rows.end * width]);
        }
    }

    /// How many positions of a row count.
    pub(crate) fn length(&self, row: usize) -> usize {
        let all = self.positions.unwrap_or(1);
        let array = self.arrays.iter().zip(&self.network.inputs).find(|(_, port)| port.kind == PortKind::Length);
        let length = array.and_then(|(array, _)| array.as_ref()?.values.get(row).copied()).unwrap_or(0.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the engine has checked it")]
        let length = length as usize;
        if length == 0 { all } else { length.min(all) }
    }
}

fn misfit(array: &Array, port: &Port) -> Usage {
    let found = match &array.lengths {
        Some(_) => "rows of different lengths".to_owned(),
        None => format!("{:?}", array.shape),
    };
    Usage(format!("input `{}` takes rows of shape {:?}, the file holds {found}", port.name, port.shape))
}
