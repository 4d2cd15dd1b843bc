//! Files of a gzipped tar archive.

use std::collections::BTreeMap;
use std::path::Path;

/// All files by name.
pub(crate) fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let gzip = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(gzip[..3], [0x1f, 0x8b, 8], "gzip");
    // RFC 1952: ten bytes, and a name where the fourth says so.
    let start = if gzip[3] & 8 == 0 { 10 } else { 10 + gzip[10..].iter().position(|&b| b == 0).unwrap() + 1 };
    let tar = miniz_oxide::inflate::decompress_to_vec(&gzip[start..]).unwrap();
    let mut found = BTreeMap::new();
    let (mut at, mut long) = (0, None);
    while at + 512 <= tar.len() && tar[at] != 0 {
        let header = &tar[at..at + 512];
        let text = |range: std::ops::Range<usize>| {
            String::from_utf8_lossy(&header[range]).trim_end_matches(['\0', ' ']).to_owned()
        };
        let size = usize::from_str_radix(&text(124..136), 8).unwrap();
        let (prefix, name) = (text(345..500), text(0..100));
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let content = &tar[at + 512..][..size];
        match header[156] {
            // GNU tar puts a name of more than 100 bytes in front.
            b'L' => long = Some(String::from_utf8_lossy(content).trim_end_matches('\0').to_owned()),
            // So does the format of POSIX, as "LENGTH path=NAME" among other lines.
            b'x' => {
                let records = String::from_utf8_lossy(content).into_owned();
                long = records.lines().find_map(|line| line.split_once(" path=")).map(|(_, name)| name.to_owned());
            }
            b'0' | 0 => {
                found.insert(long.take().unwrap_or(name), content.to_vec());
            }
            _ => long = None,
        }
        at += 512 + size.next_multiple_of(512);
    }
    found
}
