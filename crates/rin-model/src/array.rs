//! Arrays of numbers that are data rather than weights: `.npy` and `.csv`.

use std::path::Path;

use crate::error::{Error, fault};

/// Numbers and their shape, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Sizes of the dimensions, slowest first.
    pub shape: Vec<usize>,
    /// As many as the shape says.
    pub values: Vec<f32>,
}

impl Array {
    /// Reads a file by its ending: `.csv`, or else NumPy.
    ///
    /// # Errors
    /// `Io`, `BadHeader`, `BadType`, `BadShape`, `Truncated`, `BadUtf8`.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
        let csv = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("csv"));
        let array = if csv { Self::of_csv(&bytes) } else { Self::of_npy(&bytes) };
        array.map_err(|error| error.in_file(path))
    }

    /// Rows of numbers between commas; all rows of one length.
    ///
    /// # Errors
    /// `BadUtf8`, `BadType`, `BadShape`.
    pub fn of_csv(bytes: &[u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(bytes).map_err(|_| Error::BadUtf8(fault("CSV", "", "UTF-8", "other bytes")))?;
        let mut values = Vec::new();
        let (mut rows, mut cols) = (0_usize, 0);
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let line_name = || format!("line {}", number.saturating_add(1));
            let before = values.len();
            for field in line.split(',') {
                let value = field.trim().parse::<f32>();
                let value = value.map_err(|_| Error::BadType(fault("CSV", line_name(), "numbers", field.trim())));
                values.push(value?);
            }
            let found = values.len().saturating_sub(before);
            if rows > 0 && found != cols {
                let expected = format!("{cols} values, as in the first row");
                return Err(Error::BadShape(fault("CSV", line_name(), expected, found)));
            }
            (rows, cols) = (rows.saturating_add(1), found);
        }
        Ok(Self { shape: vec![rows, cols], values })
    }

    /// A NumPy array of floats, integers or booleans in C order.
    ///
    /// Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.
    ///
    /// # Errors
    /// `BadHeader`, `BadType`, `BadShape`, `Truncated`.
    pub fn of_npy(bytes: &[u8]) -> Result<Self, Error> {
        let section = "NumPy array";
        let cut = || Error::Truncated(fault(section, "header", "a header", "the end of the file"));
        let bad = |expected: &str, found: &str| Error::BadHeader(fault(section, "header", expected, found));
        let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or_else(|| bad("a .npy or a .csv file", "other bytes"))?;
        let (&[major, _], rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
        let (length, rest) = match major {
            1 => rest.split_first_chunk::<2>().map(|(n, rest)| (u32::from(u16::from_le_bytes(*n)), rest)),
            _ => rest.split_first_chunk::<4>().map(|(n, rest)| (u32::from_le_bytes(*n), rest)),
        }
        .ok_or_else(cut)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (header, data) = rest.split_at_checked(length).ok_or_else(cut)?;
        let header = std::str::from_utf8(header).map_err(|_| bad("text", "other bytes"))?;
        let after = |key: &str| header.split_once(key).map(|(_, rest)| rest.trim_start_matches([':', ' ']));
        if after("'fortran_order'").is_none_or(|rest| !rest.starts_with("False")) {
            return Err(bad("C order (numpy.ascontiguousarray)", "Fortran order"));
        }
        let shape = after("'shape'").and_then(|rest| rest.strip_prefix('(')?.split_once(')')).map(|(shape, _)| shape);
        let sizes = shape.ok_or_else(|| bad("a shape", "none"))?.split(',').map(str::trim);
        let shape: Result<Vec<usize>, _> = sizes.filter(|size| !size.is_empty()).map(str::parse).collect();
        let shape = shape.map_err(|_| bad("a shape of sizes", "something else"))?;
        let descr = after("'descr'").and_then(|rest| rest.split('\'').nth(1)).unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, reason = "data is taken in f32")]
        let values: Vec<f32> = match descr {
            "<f4" => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            "<f8" => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            "<i8" => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f32).collect(),
            "<i4" => data.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as f32).collect(),
            "|u1" | "|b1" => data.iter().map(|&b| f32::from(b)).collect(),
            "|i1" => data.iter().map(|b| f32::from(b.cast_signed())).collect(),
            other => {
                let expected = "float32, float64, int8, uint8, int32, int64 or bool";
                return Err(Error::BadType(fault(section, "descr", expected, other)));
            }
        };
        if shape.iter().try_fold(1_usize, |count, &size| count.checked_mul(size)) != Some(values.len()) {
            let expected = format!("the {} elements of the data", values.len());
            return Err(Error::BadShape(fault(section, "shape", expected, format!("{shape:?}"))));
        }
        Ok(Self { shape, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
    }

    #[test]
    fn arrays_are_read() {
        let floats: Vec<u8> = [1.5_f32, -2.0, 0.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let array = Array::of_npy(&npy("<f4", "(1, 3)", &floats)).unwrap();
        assert_eq!(array, Array { shape: vec![1, 3], values: vec![1.5, -2.0, 0.0] });
        assert_eq!(Array::of_npy(&npy("|b1", "(2,)", &[1, 0])).unwrap().values, [1.0, 0.0]);
        assert_eq!(Array::of_npy(&npy("<f4", "(3,)", &floats)).unwrap().shape, [3]);
        assert_eq!(
            Array::of_csv(b"1, 2\n3,4.5\n\n").unwrap(),
            Array { shape: vec![2, 2], values: vec![1.0, 2.0, 3.0, 4.5] }
        );
    }

    #[test]
    fn damaged_arrays_are_refused() {
        for bad in [npy("<f4", "(2,)", &[0; 4]), npy("<c8", "(1,)", &[0; 8]), npy("|u1", "(x,)", &[0]), b"PK".to_vec()]
        {
            assert!(Array::of_npy(&bad).is_err());
        }
        assert!(Array::of_csv(b"1,2\n3\n").unwrap_err().to_string().contains("line 2"));
        assert!(Array::of_csv(b"a,2\n").unwrap_err().to_string().contains("found a"));
        let whole = npy("|u1", "(2,)", &[1, 0]);
        assert!((0..whole.len()).all(|cut| Array::of_npy(&whole[..cut]).is_err()));
    }
}
