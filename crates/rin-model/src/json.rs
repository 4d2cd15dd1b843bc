//! JSON from files that nobody vouches for: bounded depth, and objects that keep every key.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, fault, fault_at};

/// Deepest nesting of any JSON that RIN reads by its own parsers.
const MAX_DEPTH: u32 = 32;

/// Most entries of an object that is kept: more than the largest models have tensors.
const MAX_ENTRIES: usize = 1 << 18;
/// Most dimensions of a tensor.
const MAX_DIMS: usize = 8;

/// Parses a whole document; `DepthLimit` where it is nested too deep, `BadHeader` where it is not what `T` says.
pub(crate) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], section: &'static str) -> Result<T, Error> {
    check_depth(bytes, section)?;
    serde_json::from_slice(bytes)
        .map_err(|error| Error::BadHeader(fault(section, "", "JSON as the format has it", error)))
}

/// Longest configuration, in bytes.
const MAX_CONFIG: usize = 1 << 20;

/// `BudgetExceeded` for a configuration beyond all measure.
pub(crate) fn check_size(bytes: &[u8], section: &'static str) -> Result<(), Error> {
    if bytes.len() <= MAX_CONFIG {
        return Ok(());
    }
    let expected = format!("at most {MAX_CONFIG} bytes of JSON");
    Err(Error::BudgetExceeded(fault(section, "", expected, bytes.len())))
}

/// Counts brackets outside of strings: a parser that recurses never sees more of them than this allows.
fn check_depth(bytes: &[u8], section: &'static str) -> Result<(), Error> {
    let (mut depth, mut in_string, mut escaped) = (0_u32, false, false);
    for (at, &byte) in bytes.iter().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth = depth.saturating_add(1),
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            let expected = format!("at most {MAX_DEPTH} levels");
            return Err(Error::DepthLimit(fault_at(section, "", at, expected, "deeper nesting")));
        }
    }
    Ok(())
}

/// An object as the list of its entries, in file order, doubles included.
#[derive(Debug, Clone)]
pub(crate) struct Entries<V>(pub(crate) Vec<(String, V)>);

impl<V> Entries<V> {
    /// The entries; `Duplicate` where a key occurs twice.
    pub(crate) fn unique(self, section: &'static str) -> Result<Vec<(String, V)>, Error> {
        let mut keys: Vec<&str> = self.0.iter().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        for pair in keys.windows(2) {
            if let [a, b] = pair
                && a == b
            {
                return Err(Error::Duplicate(fault(section, *a, "each key once", "the key twice")));
            }
        }
        Ok(self.0)
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Entries<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

struct EntriesVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for EntriesVisitor<V> {
    type Value = Entries<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entries<V>, M::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            push_entry(&mut entries, entry)?;
        }
        Ok(Entries(entries))
    }
}

/// Adds an entry; an error where there are too many.
pub(crate) fn push_entry<T, E: serde::de::Error>(entries: &mut Vec<T>, entry: T) -> Result<(), E> {
    if entries.len() >= MAX_ENTRIES {
        return Err(E::custom(format!("more than {MAX_ENTRIES} entries")));
    }
    entries.push(entry);
    Ok(())
}

/// Reads a shape; an error at the first dimension too many, so that a long list takes no memory.
pub(crate) fn shape<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    struct ShapeVisitor;
    impl<'de> Visitor<'de> for ShapeVisitor {
        type Value = Vec<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX_DIMS} dimensions")
        }

        fn visit_seq<S: SeqAccess<'de>>(self, mut dimensions: S) -> Result<Vec<u64>, S::Error> {
            let mut shape = Vec::with_capacity(4);
            while let Some(n) = dimensions.next_element()? {
                if shape.len() >= MAX_DIMS {
                    return Err(S::Error::invalid_length(shape.len().saturating_add(1), &self));
                }
                shape.push(n);
            }
            Ok(shape)
        }
    }
    deserializer.deserialize_seq(ShapeVisitor)
}
