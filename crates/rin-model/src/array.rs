//! Arrays of numbers that are data rather than weights: `.npy`, `.csv`, raw bytes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, fault};

/// Longest header of an `.npy` file.
const MAX_HEADER: usize = 1 << 16;
/// Longest file.
const MAX_FILE: u64 = 1 << 36;
/// Endings of files of raw bytes.
const RAW: [&str; 2] = ["bin", "raw"];

/// Numbers and their shape, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Sizes of the dimensions, slowest first.
    pub shape: Vec<usize>,
    /// As many as the shape says.
    pub values: Vec<f32>,
    /// Numbers of each row, where rows differ; those after them are zeros.
    pub lengths: Option<Vec<usize>>,
}

impl Array {
    fn new(shape: Vec<usize>, values: Vec<f32>) -> Self {
        Self { shape, values, lengths: None }
    }

    /// Reads a file by its ending: `.npy` is NumPy's, `.csv` holds lines of numbers, each byte of `.bin` and `.raw` is a
    /// number from 0 to 255.
    ///
    /// # Errors
    /// `Io`, `NotAModel` for another ending, `BudgetExceeded`, `BadHeader`, `BadType`, `Truncated`, `BadUtf8`; `BadShape`
    /// also where rows differ in length.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let array = Self::read_of_any_length(path)?;
        let Some(lengths) = &array.lengths else { return Ok(array) };
        let found =
            format!("rows of {} to {} numbers", lengths.iter().min().unwrap_or(&0), lengths.iter().max().unwrap_or(&0));
        Err(Error::BadShape(fault("CSV", "", "rows of one length", found)).in_file(path))
    }

    /// As [`read`](Self::read); the rows of a `.csv` may differ in length.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn read_of_any_length(path: &Path) -> Result<Self, Error> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let extension = extension.to_ascii_lowercase();
        if !RAW.contains(&extension.as_str()) && extension != "npy" && extension != "csv" {
            let found = fault("data", "", "a file called .npy, .csv, .bin or .raw", format!(".{extension}"));
            return Err(Error::NotAModel(found).in_file(path));
        }
        let refused = |error| Error::io(path, error);
        let file = File::open(path).map_err(refused)?;
        let length = file.metadata().map_err(refused)?.len();
        if length > MAX_FILE {
            let expected = format!("at most {MAX_FILE} bytes");
            return Err(Error::BudgetExceeded(fault("data", "", expected, length)).in_file(path));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes).map_err(refused)?;
        let array = match extension.as_str() {
            "npy" => Self::of_npy(&bytes),
            "csv" => Self::of_csv(&bytes),
            _ => Ok(Self::of_bytes(&bytes)),
        };
        array.map_err(|error| error.in_file(path))
    }

    /// How many rows of `width` numbers these are: the first dimension counts rows; one dimension alone is rows one after
    /// the other, and an array of exactly `width` numbers is a row.
    pub fn rows(&self, width: usize) -> Option<usize> {
        let row = self.shape.iter().skip(1).try_fold(1_usize, |product, &n| product.checked_mul(n));
        match self.shape[..] {
            _ if self.lengths.is_some() => None,
            [n] if width > 0 && n.is_multiple_of(width) => n.checked_div(width),
            [n, _, ..] if row == Some(width) => Some(n),
            _ if self.values.len() == width => Some(1),
            _ => None,
        }
    }

    /// How many rows of how many positions of `unit` numbers these are: the first dimension counts rows, the second
    /// positions; without the first it is one row.
    pub fn sequences(&self, unit: usize) -> Option<[usize; 2]> {
        let is_unit =
            |rest: &[usize]| rest.iter().try_fold(1_usize, |product, &n| product.checked_mul(n)) == Some(unit);
        match self.shape[..] {
            [rows, positions, ref rest @ ..] if is_unit(rest) => Some([rows, positions]),
            [positions, ref rest @ ..] if is_unit(rest) => Some([1, positions]),
            _ => None,
        }
    }

    /// Each byte is a number, in one dimension.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self::new(vec![bytes.len()], bytes.iter().map(|&b| f32::from(b)).collect())
    }

    /// Lines of numbers between commas; a first line of words is a heading. Rows shorter than the longest are filled up
    /// with zeros, and `lengths` then says how long each is.
    ///
    /// # Errors
    /// `BadUtf8`, `BadType`, `BadShape`.
    pub fn of_csv(bytes: &[u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(bytes).map_err(|_| Error::BadUtf8(fault("CSV", "", "UTF-8", "other bytes")))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (mut values, mut lengths) = (Vec::new(), Vec::new());
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let before = values.len();
            let mut failed = None;
            for field in line.split(',').map(str::trim) {
                match field.trim_matches('"').parse::<f32>() {
                    Ok(value) => values.push(value),
                    Err(_) => failed = Some(field),
                }
            }
            match failed {
                // Words above the first numbers name the columns.
                Some(_) if lengths.is_empty() && before == values.len() => {}
                Some(field) => {
                    let line = format!("line {}", number.saturating_add(1));
                    return Err(Error::BadType(fault("CSV", line, "numbers", field)));
                }
                None => lengths.push(values.len().saturating_sub(before)),
            }
        }
        let Some(&longest) = lengths.iter().max() else {
            return Err(Error::BadShape(fault("CSV", "", "lines of numbers between commas", "none")));
        };
        let shape = vec![lengths.len(), longest];
        if lengths.iter().all(|&length| length == longest) {
            return Ok(Self::new(shape, values));
        }
        let size = lengths
            .len()
            .checked_mul(longest)
            .filter(|&size| u64::try_from(size).is_ok_and(|size| size <= MAX_FILE / 4));
        let size =
            size.ok_or_else(|| Error::BadShape(fault("CSV", "", "rows of about one length", format!("{shape:?}"))))?;
        let mut filled = Vec::with_capacity(size);
        let mut rest = values.as_slice();
        for &length in &lengths {
            let (row, after) = rest.split_at_checked(length).unwrap_or_default();
            let end = filled.len().saturating_add(longest);
            filled.extend_from_slice(row);
            filled.resize(end, 0.0);
            rest = after;
        }
        Ok(Self { shape, values: filled, lengths: Some(lengths) })
    }

    /// A NumPy array of floats, integers or booleans in C order, versions 1 to 3 of its format.
    ///
    /// Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.
    ///
    /// # Errors
    /// `BadHeader`, `BadType`, `BadShape`, `Truncated`.
    pub fn of_npy(bytes: &[u8]) -> Result<Self, Error> {
        let section = "NumPy array";
        let cut = || Error::Truncated(fault(section, "header", "a header", "the end of the file"));
        let bad = |expected: &str, found: &str| Error::BadHeader(fault(section, "header", expected, found));
        let rest =
            bytes.strip_prefix(b"\x93NUMPY").ok_or_else(|| bad("a start as .npy files have it", "other bytes"))?;
        let (&[major, _], rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
        let (length, rest) = match major {
            1 => rest.split_first_chunk::<2>().map(|(n, rest)| (u32::from(u16::from_le_bytes(*n)), rest)),
            2 | 3 => rest.split_first_chunk::<4>().map(|(n, rest)| (u32::from_le_bytes(*n), rest)),
            other => return Err(bad("version 1, 2 or 3", &other.to_string())),
        }
        .ok_or_else(cut)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MAX_HEADER {
            return Err(bad("a header of at most 64 KiB", &length.to_string()));
        }
        let (header, data) = rest.split_at_checked(length).ok_or_else(cut)?;
        let header = std::str::from_utf8(header).map_err(|_| bad("text", "other bytes"))?;
        let after = |key: &str| header.split_once(key).map(|(_, rest)| rest.trim_start_matches([':', ' ']));
        let fortran = after("'fortran_order'").is_some_and(|rest| rest.starts_with("True"));
        let shape = after("'shape'").and_then(|rest| rest.strip_prefix('(')?.split_once(')')).map(|(shape, _)| shape);
        let sizes = shape.ok_or_else(|| bad("a shape", "none"))?.split(',').map(str::trim);
        let shape: Result<Vec<usize>, _> = sizes.filter(|size| !size.is_empty()).map(str::parse).collect();
        let shape = shape.map_err(|_| bad("a shape of sizes", "something else"))?;
        if fortran && shape.len() > 1 {
            return Err(bad("C order (numpy.ascontiguousarray)", "Fortran order"));
        }
        let descr = after("'descr'").and_then(|rest| rest.split('\'').nth(1)).unwrap_or_default();
        let n = shape.iter().try_fold(1_usize, |count, &size| count.checked_mul(size));
        let n = n.ok_or_else(|| Error::BadShape(fault(section, "shape", "a size in memory", format!("{shape:?}"))))?;
        Ok(Self::new(shape, numbers(descr, data, n)?))
    }
}

/// `n` numbers, which are all of `data`.
#[expect(clippy::cast_possible_truncation, reason = "data is taken in f32")]
fn numbers(descr: &str, data: &[u8], n: usize) -> Result<Vec<f32>, Error> {
    fn read<const N: usize>(data: &[u8], n: usize, number: impl Fn([u8; N]) -> f32) -> Result<Vec<f32>, Error> {
        let (found, rest) = data.as_chunks::<N>();
        if found.len() != n || !rest.is_empty() {
            let expected = format!("{n} numbers of {N} bytes, which its shape takes");
            return Err(Error::BadShape(fault("NumPy array", "data", expected, format!("{} bytes", data.len()))));
        }
        Ok(found.iter().map(|&bytes| number(bytes)).collect())
    }
    match descr {
        "<f4" => read(data, n, f32::from_le_bytes),
        "<f8" => read(data, n, |b| f64::from_le_bytes(b) as f32),
        "<f2" => read(data, n, |b| half(u16::from_le_bytes(b))),
        "|u1" => read(data, n, |[b]| f32::from(b)),
        "|i1" => read(data, n, |[b]| f32::from(b.cast_signed())),
        "|b1" => read(data, n, |[b]| f32::from(u8::from(b != 0))),
        "<i2" => read(data, n, |b| f32::from(i16::from_le_bytes(b))),
        "<u2" => read(data, n, |b| f32::from(u16::from_le_bytes(b))),
        "<i4" => read(data, n, |b| i32::from_le_bytes(b) as f32),
        "<u4" => read(data, n, |b| u32::from_le_bytes(b) as f32),
        "<i8" => read(data, n, |b| i64::from_le_bytes(b) as f32),
        "<u8" => read(data, n, |b| u64::from_le_bytes(b) as f32),
        other => {
            let expected = "little-endian float16, 32 or 64, integers of 8 to 64 bits, or bool";
            Err(Error::BadType(fault("NumPy array", "descr", expected, other)))
        }
    }
}

/// Half precision, exactly.
fn half(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (bits >> 10 & 0x1f, f32::from(bits & 0x3ff));
    let power = |e: u16| f32::from_bits(u32::from(e).wrapping_add(112) << 23);
    match exponent {
        // 2^-24 times the mantissa.
        0 => sign * mantissa * f32::from_bits(103 << 23),
        31 if mantissa == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        _ => sign * power(exponent) * (1.0 + mantissa / 1024.0),
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
        assert_eq!(array, Array::new(vec![1, 3], vec![1.5, -2.0, 0.0]));
        assert_eq!(Array::of_npy(&npy("|b1", "(2,)", &[1, 7])).unwrap().values, [1.0, 1.0]);
        assert_eq!(Array::of_npy(&npy("<f4", "(3,)", &floats)).unwrap().shape, [3]);
        let data: Vec<u8> = (0_i64..6).flat_map(i64::to_le_bytes).collect();
        let array = Array::of_npy(&npy("<i8", "(2, 3)", &data)).unwrap();
        assert_eq!((array.rows(3), array.rows(6), array.rows(2)), (Some(2), Some(1), None));
        assert_eq!((array.sequences(1), array.sequences(3), array.sequences(6)), (Some([2, 3]), Some([1, 2]), None));
        let row = Array::of_npy(&npy("|u1", "(3,)", &[7, 8, 9])).unwrap();
        assert_eq!((row.rows(3), row.rows(1), row.rows(2)), (Some(1), Some(3), None));
    }

    #[test]
    fn half_precision_is_exact() {
        // As numpy.float16 prints them.
        let known = [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0400, 6.103_515_6e-5),
            (0x0001, 5.960_464_5e-8),
            (0x3555, 0.333_251_95),
            (0x8000, -0.0),
            (0x7c00, f32::INFINITY),
        ];
        for (bits, value) in known {
            assert_eq!(half(bits).to_bits(), f32::to_bits(value), "{bits:04x}");
        }
        assert!(half(0x7e00).is_nan());
    }

    #[test]
    fn tables_may_have_a_heading_and_rows_of_different_lengths() {
        let array = Array::of_csv(b"a,\"b\"\n1, 2.5\n\n-3e1,\"4\"\r\n").unwrap();
        assert_eq!(array, Array::new(vec![2, 2], vec![1.0, 2.5, -30.0, 4.0]));
        let array = Array::of_csv(b"1\n2,3,4\n").unwrap();
        assert_eq!((array.shape, array.values), (vec![2, 3], vec![1.0, 0.0, 0.0, 2.0, 3.0, 4.0]));
        assert_eq!(array.lengths, Some(vec![1, 3]));
        assert!(Array::of_csv(b"1,2\n3,x\n").unwrap_err().to_string().contains("line 2"));
        assert!(Array::of_csv(b"1,2\n3,x\n").unwrap_err().to_string().contains("found x"));
        assert!(Array::of_csv(b"a,b\n").is_err() && Array::of_csv(b"").is_err() && Array::of_csv(b"\xff").is_err());
    }

    #[test]
    fn bytes_are_numbers() {
        let array = Array::of_bytes(&[0, 255, 7, 8]);
        assert_eq!((array.rows(2), array.rows(3), array.values[1]), (Some(2), None, 255.0));
    }

    #[test]
    fn damaged_arrays_are_refused() {
        let of = |bytes: &[u8]| Array::of_npy(bytes).unwrap_err().to_string();
        let fortran = npy("<f4", "(2, 3)", &[0; 24]);
        let at = fortran.windows(5).position(|part| part == b"False").unwrap();
        let mut changed = fortran;
        changed[at..at + 5].copy_from_slice(b"True ");
        assert!(of(&changed).contains("Fortran"));
        assert!(of(&npy("<f4", "(7,)", &[0; 24])).contains("7 numbers of 4 bytes"));
        assert!(of(&npy(">f4", "(6,)", &[0; 24])).contains(">f4"));
        assert!(of(&npy("<f4", "(4294967295, 4294967295, 2)", &[0; 24])).contains("memory"));
        for bad in [npy("<f4", "(2,)", &[0; 4]), npy("<c8", "(1,)", &[0; 8]), npy("|u1", "(x,)", &[0]), b"PK".to_vec()]
        {
            assert!(Array::of_npy(&bad).is_err());
        }
        let whole = npy("|u1", "(2,)", &[1, 0]);
        assert!((0..whole.len()).all(|cut| Array::of_npy(&whole[..cut]).is_err()));
        let unnamed = Array::read(Path::new("rows.txt")).unwrap_err().to_string();
        assert!(unnamed.contains(".npy") && unnamed.contains("rows.txt"), "{unnamed}");
    }
}
