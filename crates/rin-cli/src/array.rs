//! Arrays of numbers as input: `.npy` and `.csv`.

use std::path::Path;

use anyhow::{Context, Result};

use crate::exit::Usage;

/// Numbers and their shape, row-major.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

/// Reads a file by its ending: `.csv`, or else NumPy.
///
/// # Errors
/// Where the file cannot be read; [`Usage`] where it holds something else.
pub(crate) fn read(path: &Path) -> Result<Array> {
    let bytes = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let csv = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("csv"));
    let array = if csv { of_csv(&bytes) } else { of_npy(&bytes) };
    array.map_err(|what| Usage(format!("{}: {what}", path.display())).into())
}

/// Rows of numbers between commas; all rows of one length.
fn of_csv(bytes: &[u8]) -> Result<Array, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "this is no text; give UTF-8".to_owned())?;
    let mut values = Vec::new();
    let (mut rows, mut cols) = (0, 0);
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let before = values.len();
        for field in line.split(',') {
            let value = field.trim().parse::<f32>();
            values.push(value.map_err(|_| format!("line {}: `{}` is no number", number + 1, field.trim()))?);
        }
        let found = values.len() - before;
        if rows > 0 && found != cols {
            return Err(format!("line {}: {found} values, but the first row has {cols}", number + 1));
        }
        (rows, cols) = (rows + 1, found);
    }
    Ok(Array { shape: vec![rows, cols], values })
}

/// A NumPy array of floats, integers or booleans in C order.
///
/// Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.
fn of_npy(bytes: &[u8]) -> Result<Array, String> {
    let cut = || "the file is cut short".to_owned();
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("this is no .npy file; give one, or a .csv")?;
    let (&[major, _], rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
    let (length, rest) = match major {
        1 => rest.split_first_chunk::<2>().map(|(n, rest)| (usize::from(u16::from_le_bytes(*n)), rest)),
        _ => rest.split_first_chunk::<4>().map(|(n, rest)| (u32::from_le_bytes(*n) as usize, rest)),
    }
    .ok_or_else(cut)?;
    let (header, data) = rest.split_at_checked(length).ok_or_else(cut)?;
    let header = std::str::from_utf8(header).map_err(|_| "the header is damaged".to_owned())?;
    let after = |key: &str| header.split_once(key).map(|(_, rest)| rest.trim_start_matches([':', ' ']));
    if after("'fortran_order'").is_none_or(|rest| !rest.starts_with("False")) {
        return Err("the array is in Fortran order; save numpy.ascontiguousarray of it".to_owned());
    }
    let shape = after("'shape'").and_then(|rest| rest.strip_prefix('(')?.split_once(')')).map(|(shape, _)| shape);
    let sizes = shape.ok_or("the header has no shape")?.split(',').map(str::trim).filter(|size| !size.is_empty());
    let shape: Vec<usize> = sizes.map(str::parse).collect::<Result<_, _>>().map_err(|_| "the shape is no shape")?;
    let descr = after("'descr'").and_then(|rest| rest.split('\'').nth(1)).unwrap_or_default();
    #[expect(clippy::cast_possible_truncation, reason = "inputs are taken in f32")]
    let values: Vec<f32> = match descr {
        "<f4" => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        "<f8" => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        "<i8" => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f32).collect(),
        "<i4" => data.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as f32).collect(),
        "|u1" | "|b1" => data.iter().map(|&b| f32::from(b)).collect(),
        "|i1" => data.iter().map(|b| f32::from(b.cast_signed())).collect(),
        other => return Err(format!("elements of type {other}; save the array as float32")),
    };
    if shape.iter().try_fold(1_usize, |count, &size| count.checked_mul(size)) != Some(values.len()) {
        return Err(format!("the shape {shape:?} does not have the {} elements that follow", values.len()));
    }
    Ok(Array { shape, values })
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
        let array = of_npy(&npy("<f4", "(1, 3)", &floats)).unwrap();
        assert_eq!(array, Array { shape: vec![1, 3], values: vec![1.5, -2.0, 0.0] });
        assert_eq!(of_npy(&npy("|b1", "(2,)", &[1, 0])).unwrap().values, [1.0, 0.0]);
        assert_eq!(of_npy(&npy("<f4", "(3,)", &floats)).unwrap().shape, [3]);
        assert_eq!(of_csv(b"1, 2\n3,4.5\n\n").unwrap(), Array { shape: vec![2, 2], values: vec![1.0, 2.0, 3.0, 4.5] });
    }

    #[test]
    fn damaged_arrays_are_refused() {
        for bad in [npy("<f4", "(2,)", &[0; 4]), npy("<c8", "(1,)", &[0; 8]), npy("|u1", "(x,)", &[0]), b"PK".to_vec()] {
            assert!(of_npy(&bad).is_err());
        }
        assert!(of_csv(b"1,2\n3\n").unwrap_err().contains("line 2"));
        assert!(of_csv(b"a,2\n").unwrap_err().contains("`a`"));
        let whole = npy("|u1", "(2,)", &[1, 0]);
        assert!((0..whole.len()).all(|cut| of_npy(&whole[..cut]).is_err()));
    }
}
