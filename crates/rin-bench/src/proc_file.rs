//! The small files by which Linux describes itself.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// No file that is read here is longer, but for `cpuinfo` and `stat` of large machines, whose beginning is enough.
const MAX_BYTES: u64 = 256 << 10;

/// The text of a file; none where it cannot be read.
pub(crate) fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// What follows `key` and a colon at the start of a line.
pub(crate) fn value<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

/// A size as the cache files have it: `32768K`, `32M`.
pub(crate) fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text.get(digits.len()..)? {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// A tree of files for tests, removed when dropped.
#[cfg(test)]
pub(crate) mod tests {
    use std::path::{Path, PathBuf};

    pub(crate) struct Tree(PathBuf);

    impl Tree {
        pub(crate) fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("rin-bench-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&root).unwrap();
            Self(root)
        }

        pub(crate) fn root(&self) -> &Path {
            &self.0
        }

        pub(crate) fn file(&self, path: &str, text: &str) -> PathBuf {
            let path = self.0.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn sizes_and_values() {
        use super::{size, value};
        assert_eq!(size("32768K\n"), Some(32 << 20));
        assert_eq!(size("12"), Some(12));
        assert_eq!((size("K"), size("1X"), size("99999999999G")), (None, None, None));
        assert_eq!(value("a : 1\nmodel name\t: B C\n", "model name"), Some("B C"));
        assert_eq!(value("a : 1\n", "b"), None);
    }
}
