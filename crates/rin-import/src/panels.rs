//! The panels of one matrix, one at a time, converted where that is asked for.

use crate::Error;
use crate::quantize::quantize_row;
use rin_engine::weights::{format_of, pack_tensor_panel};
use rin_kernels::Format;
use rin_kernels::pack::{LANES, pack_panel, unpack_row};
use rin_model::{ModelFile, TensorInfo};

/// Reads a matrix of the source panel by panel.
pub(crate) struct Panels<'a> {
    tensor: &'a TensorInfo,
    bytes: &'a [u8],
    from: Format,
    rows: usize,
    next: usize,
    /// The panel as the source's type has it, 16 rows.
    panel: Vec<u8>,
    conversion: Option<Conversion>,
}

struct Conversion {
    to: Format,
    /// One row in numbers.
    row: Vec<f32>,
    /// Bytes of a row of the target.
    row_bytes: usize,
    /// The rows of a panel, as a file of the target type would have them.
    rows: Vec<u8>,
    panel: Vec<u8>,
}

impl<'a> Panels<'a> {
    /// The panels of `tensor` in the type `to`.
    pub(crate) fn new(file: &'a ModelFile, tensor: &'a TensorInfo, to: Format) -> Result<Self, Error> {
        let too_large = || Error::TooLarge { tensor: tensor.name.clone() };
        let from = format_of(tensor.dtype).ok_or_else(too_large)?;
        let (rows, cols) = matrix_shape(tensor).ok_or_else(too_large)?;
        let panel = vec![0; from.panel_bytes(cols).ok_or_else(too_large)?];
        let conversion = if from == to {
            None
        } else {
            let row_bytes = to.row_bytes(cols).ok_or_else(too_large)?;
            let panel = vec![0; to.panel_bytes(cols).ok_or_else(too_large)?];
            Some(Conversion { to, row: vec![0.0; cols], row_bytes, rows: Vec::new(), panel })
        };
        Ok(Self { tensor, bytes: file.bytes(tensor), from, rows, next: 0, panel, conversion })
    }

    /// The next panel; none after the last.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, Error> {
        let first_row = self.next.saturating_mul(LANES);
        if first_row >= self.rows {
            return Ok(None);
        }
        pack_tensor_panel(self.tensor, self.bytes, self.from, self.next, &mut self.panel)?;
        self.next = self.next.saturating_add(1);
        let Some(c) = &mut self.conversion else { return Ok(Some(&self.panel)) };
        c.rows.clear();
        for lane in 0..LANES.min(self.rows.saturating_sub(first_row)) {
            unpack_row(self.from, &self.panel, lane, &mut c.row);
            quantize_row(c.to, &c.row, &mut c.rows);
        }
        pack_panel(c.to, c.row.len(), |lane| c.rows.chunks_exact(c.row_bytes).nth(lane), &mut c.panel).map_err(
            |at| Error::OutOfRange {
                tensor: self.tensor.name.clone(),
                row: first_row.saturating_add(at.lane),
                col: at.col,
                format: c.to,
            },
        )?;
        Ok(Some(&c.panel))
    }
}

/// Rows and columns of a matrix.
pub(crate) fn matrix_shape(tensor: &TensorInfo) -> Option<(usize, usize)> {
    match tensor.shape[..] {
        [rows, cols] => Some((usize::try_from(rows).ok()?, usize::try_from(cols).ok()?)),
        _ => None,
    }
}
