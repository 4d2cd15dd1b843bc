//! The kernel's list notation for sets of processors: `0-3,8`.

use std::fmt;

/// Number of a logical processor, as the operating system counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub u32);

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu{}", self.0)
    }
}

/// Highest processor number that is accepted; Linux itself is built for at most 8192 processors.
pub const MAX_CPU_ID: u32 = 8191;

/// Reason why a text is no list of processors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CpuListError {
    /// A part between commas is neither a number nor `low-high`.
    #[error("`{0}` is neither a processor number nor a range low-high")]
    Malformed(String),
    /// A range runs downwards.
    #[error("the range {low}-{high} runs downwards")]
    Descending {
        /// First number of the range.
        low: u32,
        /// Last number of the range.
        high: u32,
    },
    /// A number above [`MAX_CPU_ID`].
    #[error("processor {0} is beyond the highest that is accepted, {MAX_CPU_ID}")]
    TooLarge(u64),
}

/// Reads a list such as `0-3,8` into ascending, distinct processors; the empty text is the empty list.
///
/// Memory is bounded by [`MAX_CPU_ID`], however long the ranges claim to be.
///
/// # Errors
/// What [`CpuListError`] lists.
pub fn parse_cpu_list(text: &str) -> Result<Vec<CpuId>, CpuListError> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut ranges = Vec::new();
    for part in text.split(',') {
        let (low, high) = match part.split_once('-') {
            Some((low, high)) => (number(low, part)?, number(high, part)?),
            None => number(part, part).map(|id| (id, id))?,
        };
        if low > high {
            return Err(CpuListError::Descending { low, high });
        }
        ranges.push((low, high));
    }
    ranges.sort_unstable();
    let mut cpus = Vec::new();
    let mut next = 0;
    for (low, high) in ranges {
        cpus.extend((low.max(next)..=high).map(CpuId));
        next = next.max(high + 1);
    }
    Ok(cpus)
}

fn number(digits: &str, part: &str) -> Result<u32, CpuListError> {
    let malformed = || CpuListError::Malformed(part.chars().take(40).collect());
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed());
    }
    let value = digits.parse::<u64>().map_err(|_| malformed())?;
    u32::try_from(value).ok().filter(|id| *id <= MAX_CPU_ID).ok_or(CpuListError::TooLarge(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Result<Vec<u32>, CpuListError> {
        parse_cpu_list(text).map(|list| list.into_iter().map(|cpu| cpu.0).collect())
    }

    #[test]
    fn lists_are_ascending_and_distinct() {
        assert_eq!(ids("0-3,8"), Ok(vec![0, 1, 2, 3, 8]));
        assert_eq!(ids("0\n"), Ok(vec![0]));
        assert_eq!(ids("8,0-3,2-4,3"), Ok(vec![0, 1, 2, 3, 4, 8]));
        assert_eq!(ids(""), Ok(vec![]));
        assert_eq!(ids(" \n"), Ok(vec![]));
        assert_eq!(ids("0-8191").map(|list| list.len()), Ok(8192));
    }

    #[test]
    fn malformed_lists_are_refused() {
        for text in ["abc", "ff", "0x3", "1,", ",1", "1-", "-1", "1--2", "1-2-3", "+1", "1 ,2", "00000003,0000000g"] {
            assert!(matches!(ids(text), Err(CpuListError::Malformed(_))), "{text}");
        }
        assert_eq!(ids("5-2"), Err(CpuListError::Descending { low: 5, high: 2 }));
        assert!(matches!(ids("99999999999999999999999"), Err(CpuListError::Malformed(_))));
    }

    #[test]
    fn ranges_cannot_make_the_list_grow_without_bound() {
        assert_eq!(ids("0-4294967295"), Err(CpuListError::TooLarge(4_294_967_295)));
        assert_eq!(ids("0-18446744073709551615"), Err(CpuListError::TooLarge(u64::MAX)));
        let repeated = vec!["0-8191"; 10_000].join(",");
        assert_eq!(ids(&repeated).map(|list| list.len()), Ok(8192));
    }
}
