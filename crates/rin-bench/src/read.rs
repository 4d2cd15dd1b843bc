//! Results read back: those of `rin bench`, and those of llama-bench.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::{Error, Row};

/// Longest file.
pub const MAX_BYTES: u64 = 256 << 20;

/// The rows of a JSON array, of one JSON object, or of JSON lines.
///
/// # Errors
///
/// What [`Error`] lists for reading; each names the file.
pub fn read(path: &Path) -> Result<Vec<Row>, Error> {
    let file = || path.to_path_buf();
    let mut bytes = Vec::new();
    let opened = File::open(path).and_then(|opened| opened.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    opened.map_err(|source| Error::Read { file: file(), source })?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::TooLong { file: file(), limit: MAX_BYTES });
    }
    parse(path, &bytes)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Row>, Error> {
    let file = || path.to_path_buf();
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    let rows: Result<Vec<Row>, _> = match first {
        None => return Err(Error::NoRows { file: file() }),
        Some(b'[') => serde_json::from_slice(bytes),
        Some(_) => serde_json::Deserializer::from_slice(bytes).into_iter().collect(),
    };
    let rows = rows.map_err(|cause| Error::NotResults { file: file(), cause })?;
    if rows.is_empty() {
        return Err(Error::NoRows { file: file() });
    }
    for (i, row) in rows.iter().enumerate() {
        if let Some(reason) = fault(row) {
            return Err(Error::BadRow { file: file(), row: i + 1, reason: reason.to_owned() });
        }
    }
    Ok(rows)
}

/// What keeps a row from being compared.
fn fault(row: &Row) -> Option<&'static str> {
    if row.n_prompt == 0 && row.n_gen == 0 {
        return Some("says neither n_prompt nor n_gen, so what it measured is not known");
    }
    if row.samples_ts.is_empty() {
        return Some("has no samples_ts, without which nothing can be told about its spread");
    }
    if row.samples_ts.iter().any(|rate| !rate.is_finite() || *rate <= 0.0) {
        return Some("has a rate in samples_ts that is not above zero");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc_file::tests::Tree;

    const GOOD: &str = r#"{"n_prompt": 0, "n_gen": 8, "samples_ts": [1.5, 2.5], "model_type": "x"}"#;

    fn parsed(text: &str) -> Result<Vec<Row>, String> {
        parse(Path::new("a.json"), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn arrays_objects_and_lines_are_read() {
        assert_eq!(parsed(GOOD).unwrap().len(), 1);
        assert_eq!(parsed(&format!(" [{GOOD}, {GOOD}]\n")).unwrap().len(), 2);
        let lines = parsed(&format!("{GOOD}\n{GOOD}\n\n{GOOD}\n")).unwrap();
        assert_eq!((lines.len(), lines[2].samples_ts[1]), (3, 2.5));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("", "a.json holds no rows"),
            (" \n", "a.json holds no rows"),
            ("[]", "a.json holds no rows"),
            ("speed: 5", "a.json is no result of a bench: expected value"),
            ("[{\"n_gen\": \"x\"}]", "a.json is no result of a bench: invalid type"),
            ("[{\"n_gen\": 8}", "a.json is no result of a bench: EOF"),
            ("[1]", "a.json is no result of a bench: invalid type"),
            ("{\"samples_ts\": [1.0]}", "row 1 of a.json says neither n_prompt nor n_gen"),
            (&format!("[{GOOD}, {{\"n_gen\": 8}}]"), "row 2 of a.json has no samples_ts"),
            ("{\"n_gen\": 8, \"samples_ts\": [1.0, 0.0]}", "row 1 of a.json has a rate in samples_ts"),
            ("{\"n_gen\": 8, \"samples_ts\": [1e999]}", "a.json is no result of a bench: number out of range"),
        ] {
            let found = parsed(text).unwrap_err();
            assert!(found.starts_with(words), "{found}");
        }
    }

    #[test]
    fn files_are_named() {
        let tree = Tree::new("read");
        let path = tree.file("b.json", GOOD);
        assert_eq!(read(&path).unwrap().len(), 1);
        let words = read(&tree.root().join("c.json")).unwrap_err().to_string();
        assert!(words.ends_with("c.json cannot be read"), "{words}");
    }
}
