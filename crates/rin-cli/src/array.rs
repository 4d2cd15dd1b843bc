//! Rows of numbers from files: `.npy` and `.csv`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// Longest header of an `.npy` file.
const MAX_HEADER: usize = 1 << 16;
/// Longest file.
const MAX_FILE: u64 = 1 << 36;

/// Numbers with their shape.
#[derive(Debug, PartialEq)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

impl Array {
    /// Reads a file, whose name says what it is.
    ///
    /// # Errors
    /// Where it cannot be read, or holds no numbers.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let read = || {
            let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            let parse = match extension.to_ascii_lowercase().as_str() {
                "npy" => npy,
                "csv" => csv,
                _ => bail!("its name ends neither in .npy nor in .csv; save the rows as one of these"),
            };
            let file = File::open(path)?;
            let length = file.metadata()?.len();
            ensure!(length <= MAX_FILE, "it has {length} bytes, more than the {MAX_FILE} that are read");
            let mut bytes = Vec::new();
            file.take(MAX_FILE).read_to_end(&mut bytes)?;
            parse(&bytes)
        };
        read().with_context(|| format!("input {}", path.display()))
    }

    /// How many rows of `width` numbers these are: the first dimension counts rows, and an array of exactly `width`
    /// numbers without one is a row.
    pub(crate) fn rows(&self, width: usize) -> Option<usize> {
        let row: usize = self.shape.get(1..).unwrap_or_default().iter().product();
        match self.shape.first() {
            Some(&n) if row == width && self.shape.len() > 1 => Some(n),
            Some(&n) if self.shape.len() == 1 && width == 1 => Some(n),
            _ if self.values.len() == width => Some(1),
            _ => None,
        }
    }
}

/// Lines of numbers between commas; a first line of words is a heading.
fn csv(bytes: &[u8]) -> Result<Array> {
    let text = std::str::from_utf8(bytes).context("it is no UTF-8 text")?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut values, mut width, mut rows) = (Vec::new(), 0, 0);
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let before = values.len();
        let mut failed = None;
        for cell in line.split(',') {
            match cell.trim().trim_matches('"').parse::<f32>() {
                Ok(value) => values.push(value),
                Err(_) => failed = Some(cell.trim()),
            }
        }
        match failed {
            // Words above the first numbers name the columns.
            Some(_) if rows == 0 && before == values.len() => continue,
            Some(cell) => bail!("`{}` in line {} is no number", cell.chars().take(40).collect::<String>(), i + 1),
            None => {}
        }
        let found = values.len() - before;
        ensure!(rows == 0 || found == width, "line {} has {found} numbers, those above have {width}", i + 1);
        (width, rows) = (found, rows + 1);
    }
    ensure!(rows > 0, "it holds no numbers");
    Ok(Array { shape: vec![rows, width], values })
}

/// NumPy's format, versions 1 to 3: little-endian numbers in C order.
fn npy(bytes: &[u8]) -> Result<Array> {
    let rest = bytes.strip_prefix(b"\x93NUMPY").context("it does not begin as .npy files do")?;
    let (version, rest) = rest.split_first_chunk::<2>().context("it is cut short")?;
    let (length, rest) = if version[0] == 1 {
        let (length, rest) = rest.split_first_chunk::<2>().context("it is cut short")?;
        (usize::from(u16::from_le_bytes(*length)), rest)
    } else {
        ensure!(version[0] <= 3, "it is of version {}, and versions 1 to 3 are read", version[0]);
        let (length, rest) = rest.split_first_chunk::<4>().context("it is cut short")?;
        (usize::try_from(u32::from_le_bytes(*length))?, rest)
    };
    ensure!(length <= MAX_HEADER, "its header has {length} bytes, more than the {MAX_HEADER} that are read");
    let (header, data) = rest.split_at_checked(length).context("it is cut short")?;
    let header = std::str::from_utf8(header).context("its header is no text")?;
    let field = |key: &str| header.split_once(&format!("'{key}':")).map(|(_, value)| value.trim_start());
    let descr = field("descr").and_then(|value| value.split('\'').nth(1)).context("its header has no descr")?;
    let fortran = field("fortran_order").is_some_and(|value| value.starts_with("True"));
    let shape = field("shape").and_then(|value| value.strip_prefix('(')?.split(')').next());
    let shape = shape.context("its header has no shape")?.split(',').map(str::trim).filter(|n| !n.is_empty());
    let shape = shape.map(str::parse).collect::<Result<Vec<usize>, _>>().context("its shape is no list of numbers")?;
    ensure!(!fortran || shape.len() < 2, "its order is Fortran's; save it with numpy.ascontiguousarray");
    let n = shape.iter().try_fold(1_usize, |n, &m| n.checked_mul(m)).context("its shape is beyond all memory")?;
    let values = numbers(descr, data, n)?;
    Ok(Array { shape, values })
}

#[expect(clippy::cast_possible_truncation, reason = "numbers are brought to f32, which the networks take")]
fn numbers(descr: &str, data: &[u8], n: usize) -> Result<Vec<f32>> {
    fn read<const N: usize>(data: &[u8], n: usize, number: impl Fn([u8; N]) -> f32) -> Result<Vec<f32>> {
        let (found, rest) = data.as_chunks::<N>();
        let whole = found.len() == n && rest.is_empty();
        ensure!(whole, "it holds {} bytes of numbers where its shape takes {n} of {N} bytes", data.len());
        Ok(found.iter().map(|&bytes| number(bytes)).collect())
    }
    match descr {
        "<f4" => read(data, n, f32::from_le_bytes),
        "<f8" => read(data, n, |b| f64::from_le_bytes(b) as f32),
        "<f2" => read(data, n, |b| rin_kernels::half::f16_to_f32(u16::from_le_bytes(b))),
        "|u1" => read(data, n, |[b]| f32::from(b)),
        "|i1" => read(data, n, |[b]| f32::from(b.cast_signed())),
        "|b1" => read(data, n, |[b]| f32::from(u8::from(b != 0))),
        "<i2" => read(data, n, |b| f32::from(i16::from_le_bytes(b))),
        "<u2" => read(data, n, |b| f32::from(u16::from_le_bytes(b))),
        "<i4" => read(data, n, |b| i32::from_le_bytes(b) as f32),
        "<u4" => read(data, n, |b| u32::from_le_bytes(b) as f32),
        "<i8" => read(data, n, |b| i64::from_le_bytes(b) as f32),
        other => bail!("its numbers are of the type {other}; save them as float32"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy_bytes(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn arrays_of_numpy_are_read() {
        let header = "{'descr': '<i8', 'fortran_order': False, 'shape': (2, 3), }        \n";
        let data: Vec<u8> = (0_i64..6).flat_map(i64::to_le_bytes).collect();
        let array = npy(&npy_bytes(header, &data)).unwrap();
        assert_eq!(array, Array { shape: vec![2, 3], values: vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0] });
        assert_eq!((array.rows(3), array.rows(6), array.rows(2)), (Some(2), Some(1), None));
        let row = npy(&npy_bytes("{'descr': '|u1', 'fortran_order': True, 'shape': (3,), }", &[7, 8, 9])).unwrap();
        assert_eq!((row.rows(3), row.rows(1), row.rows(2)), (Some(1), Some(3), None));
    }

    #[test]
    fn arrays_that_lie_are_refused() {
        let of = |header: &str| npy(&npy_bytes(header, &[0; 24])).unwrap_err().to_string();
        let shape = of("{'descr': '<f4', 'fortran_order': False, 'shape': (7,), }");
        assert!(shape.contains("24 bytes") && shape.contains("7 of 4 bytes"), "{shape}");
        assert!(of("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }").contains("Fortran"));
        assert!(of("{'descr': '>f4', 'fortran_order': False, 'shape': (6,), }").contains(">f4"));
        let huge = "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967295, 4294967295, 2), }";
        assert!(of(huge).contains("beyond all memory"));
        for cut in 0..12 {
            assert!(npy(&npy_bytes("{'descr'", &[])[..cut]).is_err());
        }
    }

    #[test]
    fn tables_may_have_a_heading() {
        let array = csv(b"a,\"b\"\n1, 2.5\n\n-3e1,\"4\"\r\n").unwrap();
        assert_eq!(array, Array { shape: vec![2, 2], values: vec![1.0, 2.5, -30.0, 4.0] });
        assert!(csv(b"1,2\n3\n").unwrap_err().to_string().contains("line 2 has 1 numbers"));
        assert!(csv(b"1,2\n3,x\n").unwrap_err().to_string().contains("`x` in line 2"));
        assert!(csv(b"a,b\n").is_err() && csv(b"").is_err() && csv(b"\xff").is_err());
    }
}
