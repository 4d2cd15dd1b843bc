//! Values in files of the kernel: strict, because what looks like a number and is none would become a figure.

use std::path::Path;

use crate::Error;

/// Bytes that hold every value that a sensor gives: 20 digits, a sign, a line end.
pub(crate) const VALUE_BYTES: usize = 32;

/// Digits alone, and at most one line end. The buffer must not be full: a longer text was cut off.
pub(crate) fn unsigned(bytes: &[u8]) -> Option<u64> {
    if bytes.len() >= VALUE_BYTES {
        return None;
    }
    let digits = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// As [`unsigned`], with a minus before it or not; the amount alone.
pub(crate) fn magnitude(bytes: &[u8]) -> Option<u64> {
    unsigned(bytes.strip_prefix(b"-").unwrap_or(bytes))
}

/// The head of a text, on one line.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 24;
    let text = String::from_utf8_lossy(bytes.get(..MOST.min(bytes.len())).unwrap_or_default());
    let more = if bytes.len() > MOST { "…" } else { "" };
    format!("{}{more}", text.trim_end_matches('\n').escape_debug())
}

/// The error for a text that is no value.
pub(crate) fn malformed(path: &Path, bytes: &[u8]) -> Error {
    Error::Malformed { path: path.to_owned(), text: shown(bytes) }
}

/// A list of processors as the kernel writes it: `0,64`, `0-1,64-66`. At most 4096 of them.
pub(crate) fn cpu_list(text: &str) -> Option<Vec<u32>> {
    const MOST: usize = 4096;
    let mut cpus = Vec::new();
    for part in text.trim_end().split(',') {
        let number = |text: &str| -> Option<u32> { unsigned(text.as_bytes())?.try_into().ok() };
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if last < first || usize::try_from(last - first).is_ok_and(|n| n >= MOST) {
            return None;
        }
        cpus.extend(first..=last);
        if cpus.len() > MOST {
            return None;
        }
    }
    Some(cpus)
}

/// A number that is whole and not negative.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be within")]
pub(crate) fn whole(value: f64) -> Option<u64> {
    (value >= 0.0 && value < 2_f64.powi(63) && value.fract() == 0.0).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_are_values() {
        assert_eq!(unsigned(b"262143328850\n"), Some(262_143_328_850));
        assert_eq!(unsigned(b"7"), Some(7), "without a line end");
        assert_eq!(unsigned(b"18446744073709551615"), Some(u64::MAX));
        let long = [b'1'; 5000];
        for bad in [
            &b""[..],
            b"\n",
            b"abc",
            b"-1",
            b"+1",
            b"1e6",
            b"1.5",
            b" 1",
            b"1 \n",
            b"1\n\n",
            b"18446744073709551616",
            b"1\0",
            &long,
            &long[..VALUE_BYTES],
        ] {
            assert_eq!(unsigned(bad), None, "{bad:?}");
        }
        assert_eq!((magnitude(b"-1500\n"), magnitude(b"1500"), magnitude(b"--1")), (Some(1500), Some(1500), None));
    }

    #[test]
    fn lists_of_processors() {
        assert_eq!(cpu_list("0\n"), Some(vec![0]));
        assert_eq!(cpu_list("0,64\n"), Some(vec![0, 64]));
        assert_eq!(cpu_list("0-1,64-66\n"), Some(vec![0, 1, 64, 65, 66]));
        for bad in ["", "\n", "a", "1-", "2-1", "0,,1", "0-4294967295", "0-1-2", "-1"] {
            assert_eq!(cpu_list(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_shown_is_short_and_on_one_line() {
        assert_eq!(shown(b"ab\0c\n"), "ab\\0c");
        assert_eq!(shown(&[b'x'; 5000]).chars().count(), 25);
    }
}
