//! Writes safetensors files, right ones and wrong ones.

use std::fmt::Write as _;

/// A safetensors file under construction. Nothing is checked: what it is told, it writes.
#[derive(Debug, Clone, Default)]
pub struct SafetensorsWriter {
    metadata: Vec<(String, String)>,
    entries: Vec<(String, String)>,
    data: Vec<u8>,
    align: usize,
}

/// A JSON string.
pub fn quoted(text: &str) -> String {
    let mut json = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(json, "\\u{:04x}", u32::from(c));
            }
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

/// A file of any header, with its true length in front.
pub fn file(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
}

impl SafetensorsWriter {
    /// An empty file.
    pub fn new() -> Self {
        Self { align: 1, ..Self::default() }
    }

    /// Starts the data at a multiple of so many bytes, by spaces behind the header, as `.rin` needs it.
    #[must_use]
    pub fn align(mut self, bytes: usize) -> Self {
        self.align = bytes.max(1);
        self
    }

    /// A string of `__metadata__`.
    #[must_use]
    pub fn metadata(mut self, key: &str, value: &str) -> Self {
        self.metadata.push((key.to_owned(), value.to_owned()));
        self
    }

    /// A tensor behind the others.
    #[must_use]
    pub fn tensor(mut self, name: &str, dtype: &str, shape: &[u64], bytes: &[u8]) -> Self {
        let begin = self.data.len() as u64;
        self.data.extend(bytes);
        let end = self.data.len() as u64;
        self.entry(name, dtype, shape, (begin, end))
    }

    /// A description of a tensor, without bytes.
    #[must_use]
    pub fn entry(mut self, name: &str, dtype: &str, shape: &[u64], offsets: (u64, u64)) -> Self {
        let dtype = quoted(dtype);
        let json = format!("{{\"dtype\":{dtype},\"shape\":{shape:?},\"data_offsets\":[{},{}]}}", offsets.0, offsets.1);
        self.entries.push((name.to_owned(), json));
        self
    }

    /// Bytes that belong to no tensor.
    #[must_use]
    pub fn data(mut self, bytes: &[u8]) -> Self {
        self.data.extend(bytes);
        self
    }

    /// The bytes after the header so far.
    pub fn data_so_far(&self) -> &[u8] {
        &self.data
    }

    /// The file.
    pub fn finish(&self) -> Vec<u8> {
        let pair = |(key, value): &(String, String)| format!("{}:{}", quoted(key), quoted(value));
        let mut parts = Vec::new();
        if !self.metadata.is_empty() {
            let strings: Vec<String> = self.metadata.iter().map(pair).collect();
            parts.push(format!("\"__metadata__\":{{{}}}", strings.join(",")));
        }
        parts.extend(self.entries.iter().map(|(name, json)| format!("{}:{json}", quoted(name))));
        let mut header = format!("{{{}}}", parts.join(","));
        while !(header.len() + 8).is_multiple_of(self.align) {
            header.push(' ');
        }
        file(header.as_bytes(), &self.data)
    }
}
