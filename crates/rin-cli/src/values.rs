//! Values of flags that are more than one number or word.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use rin_bench::report::Form;
use rin_energy::PowerRange;
use rin_engine::topology::Policy;
use rin_import::DTYPES;
use rin_import::quantize::TARGETS;
use rin_kernels::ops::attention::KvType;
use rin_kernels::{Format, Tier};
use rin_model::Mode;

/// `[NAME=]FILE`: a file, and the input or output of a network that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedFile {
    pub(crate) name: Option<String>,
    pub(crate) path: PathBuf,
}

impl FromStr for NamedFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = match text.split_once('=') {
            // A path may have the sign in it.
            Some((name, path)) if !name.contains(['/', '\\']) => (Some(name.to_owned()), path),
            _ => (None, text),
        };
        if path.is_empty() || name.as_deref() == Some("") {
            return Err("expected FILE or NAME=FILE".to_owned());
        }
        Ok(Self { name, path: path.into() })
    }
}

impl fmt::Display for NamedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}=")?;
        }
        write!(f, "{}", self.path.display())
    }
}

/// `NAME=SIZE`: a size that a model leaves open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedSize(pub(crate) String, pub(crate) usize);

impl FromStr for NamedSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = text.rsplit_once('=').filter(|(name, _)| !name.is_empty());
        let (name, size) = found.ok_or_else(|| "expected NAME=SIZE".to_owned())?;
        let size = size.parse().ok().filter(|&size| size > 0);
        size.map(|size| Self(name.to_owned(), size)).ok_or_else(|| "expected a SIZE above 0".to_owned())
    }
}

/// Token ids, separated by commas or white space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ids(pub(crate) Vec<u32>);

impl FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ids = text.split([',', ' ', '\n', '\t', '\r']).filter(|id| !id.is_empty());
        if text.split(',').any(|id| id.trim().is_empty()) {
            return Err("an id is missing; give ids as 1,2,3".to_owned());
        }
        let parse = |id: &str| id.parse().map_err(|_| format!("`{id}` is no token id; give ids as 1,2,3"));
        ids.map(parse).collect::<Result<_, _>>().map(Self)
    }
}

/// `ID=V`: what is added to the logit of a token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bias {
    pub(crate) id: u32,
    pub(crate) value: f32,
}

impl FromStr for Bias {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once('=')
            .and_then(|(id, value)| Some(Self { id: id.trim().parse().ok()?, value: value.trim().parse().ok()? }));
        parsed.ok_or_else(|| "expected ID=V, as 13=-2.5 or 13=-inf".to_owned())
    }
}

/// A number of bytes, as 1500000000, 1500MB, 2G or 2GiB. K, M, G, T and KiB … are powers of 1024, KB … of 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let unit = unit.trim().to_ascii_lowercase();
        let power = match unit.chars().next() {
            None | Some('b') => 0,
            Some('k') => 1,
            Some('m') => 2,
            Some('g') => 3,
            Some('t') => 4,
            Some(_) => u32::MAX,
        };
        let base: u64 = match (unit.get(1..).unwrap_or_default(), power) {
            ("" | "ib", 1..=4) | ("", 0) => 1024,
            ("b", 1..=4) => 1000,
            _ => return Err("expected a number of bytes, as 1500000000, 1500MB, 2G or 2GiB".to_owned()),
        };
        let number: u64 = number.parse().map_err(|_| "expected a whole number before the unit".to_owned())?;
        let bytes = base.checked_pow(power).and_then(|unit| number.checked_mul(unit));
        bytes.map(Self).ok_or_else(|| "more bytes than 64 bits can count".to_owned())
    }
}

/// A number above 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Positive(pub(crate) f64);

impl FromStr for Positive {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().parse::<f64>().ok().filter(|number| *number > 0.0 && number.is_finite());
        number.map(Self).ok_or_else(|| "expected a number above 0".to_owned())
    }
}

/// `idle=W,max=W`: what a machine takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Power(pub(crate) PowerRange);

impl FromStr for Power {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = text.split_once(',').and_then(|(idle, max)| {
            let idle = idle.trim().strip_prefix("idle=")?.parse().ok()?;
            PowerRange::new(idle, max.trim().strip_prefix("max=")?.parse().ok()?)
        });
        range
            .map(Self)
            .ok_or_else(|| "expected idle=W,max=W with W at most as large as that of max, as idle=15,max=65".to_owned())
    }
}

/// A parser of names that a table lists, so that help and completions show them.
fn one_of<T: Copy + Send + Sync + 'static>(
    all: &'static [T],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    let names = PossibleValuesParser::new(all.iter().map(|value| name(*value)));
    names.try_map(move |found| {
        let value = all.iter().copied().find(|value| name(*value).eq_ignore_ascii_case(&found));
        value.ok_or_else(|| format!("`{found}` is not known"))
    })
}

/// `--tier`.
pub(crate) fn tier() -> impl TypedValueParser<Value = Tier> {
    one_of(&Tier::ALL, Tier::name)
}

/// `--kv-type`.
pub(crate) fn kv_type() -> impl TypedValueParser<Value = KvType> {
    one_of(&KvType::ALL, KvType::name)
}

/// `--output-format`.
pub(crate) fn form() -> impl TypedValueParser<Value = Form> {
    one_of(&Form::ALL, Form::name)
}

/// `--quant`.
pub(crate) fn quant() -> impl TypedValueParser<Value = Format> {
    one_of(&TARGETS, Format::name)
}

/// `--mode` of an import.
pub(crate) fn import_mode() -> impl TypedValueParser<Value = Mode> {
    one_of(&[Mode::Rin], Mode::name)
}

/// `--dtype`.
pub(crate) fn export_dtype() -> impl TypedValueParser<Value = Format> {
    one_of(&DTYPES, Format::name)
}

const POLICIES: [Policy; 3] = [Policy::Compact, Policy::Scatter, Policy::None];

/// Name of a placement of threads.
pub(crate) const fn policy_name(policy: Policy) -> &'static str {
    match policy {
        Policy::Compact => "compact",
        Policy::Scatter => "scatter",
        Policy::None => "none",
    }
}

/// `--affinity`.
pub(crate) fn affinity() -> impl TypedValueParser<Value = Policy> {
    one_of(&POLICIES, policy_name)
}

/// `--rank-speed`.
pub(crate) fn speed() -> impl TypedValueParser<Value = f64> {
    |text: &str| {
        let speed = text.parse::<f64>().ok().filter(|speed| speed.is_finite() && *speed > 0.0);
        speed.ok_or_else(|| "expected a number above 0".to_owned())
    }
}

/// `--mode`.
pub(crate) fn mode() -> impl TypedValueParser<Value = Mode> {
    one_of(&Mode::ALL, Mode::name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        let read = |text: &str| text.parse::<Bytes>().map(|bytes| bytes.0);
        assert_eq!(read("0"), Ok(0));
        assert_eq!(read("12b"), Ok(12));
        assert_eq!(read("3K"), Ok(3 << 10));
        assert_eq!(read("3KiB"), Ok(3 << 10));
        assert_eq!(read("3 kb"), Ok(3000));
        assert_eq!(read("2GiB"), Ok(2 << 30));
        assert_eq!(read("5TB"), Ok(5_000_000_000_000));
        for bad in ["", "x", "1.5G", "-1", "G", "5Q", "5Gi", "18446744073709551615K", "5 GiBs"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_may_have_names() {
        let read = |text: &str| text.parse::<NamedFile>().map(|file| (file.name, file.path.display().to_string()));
        assert_eq!(read("x.npy"), Ok((None, "x.npy".to_owned())));
        assert_eq!(read("a=b/x=1.npy"), Ok((Some("a".to_owned()), "b/x=1.npy".to_owned())));
        assert_eq!(read("./a=b.npy"), Ok((None, "./a=b.npy".to_owned())));
        assert!(read("").is_err() && read("a=").is_err() && read("=a").is_err());
    }

    #[test]
    fn ids_and_biases_are_read() {
        assert_eq!("1, 2,3\n4 ".parse(), Ok(Ids(vec![1, 2, 3, 4])));
        assert!("".parse::<Ids>().is_err() && "1,,2".parse::<Ids>().is_err());
        assert!("1,-2".parse::<Ids>().is_err());
        assert_eq!("7=-inf".parse(), Ok(Bias { id: 7, value: f32::NEG_INFINITY }));
        assert_eq!("7=+0.5".parse(), Ok(Bias { id: 7, value: 0.5 }));
        assert!("7".parse::<Bias>().is_err() && "x=1".parse::<Bias>().is_err());
    }
}
