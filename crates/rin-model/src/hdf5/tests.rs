use super::*;
use serde_json::Value;

fn conformance(name: &str) -> Vec<u8> {
    let path = rin_testkit::data::conformance("nir").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn find<'g>(root: &'g Group, path: &str) -> &'g Dataset {
    let (mut group, mut parts) = (root, path.split('/').peekable());
    while let Some(part) = parts.next() {
        match group.get(part) {
            Some(Object::Group(next)) => group = next,
            Some(Object::Dataset(dataset)) if parts.peek().is_none() => return dataset,
            other => panic!("{path}: {other:?}"),
        }
    }
    panic!("{path} is a group");
}

#[test]
fn h5py_files_read_as_they_were_written() {
    let expected: Value = serde_json::from_slice(&conformance("hdf5.json")).unwrap();
    for name in ["hdf5-earliest.h5", "hdf5-latest.h5"] {
        let root = read(&conformance(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let datasets = expected[name].as_object().unwrap();
        assert!(datasets.len() > 15);
        for (path, want) in datasets {
            let dataset = find(&root, path);
            assert_eq!(serde_json::json!(dataset.shape), want["shape"], "{name}: {path}");
            let values = want["values"].as_array().unwrap();
            match &dataset.elements {
                Elements::Integers(found) => {
                    let wanted: Vec<i64> =
                        values.iter().map(|v| v.as_i64().unwrap_or_else(|| i64::from(v.as_bool().unwrap()))).collect();
                    assert_eq!(*found, wanted, "{name}: {path}");
                }
                Elements::Floats(found) => {
                    let wanted: Vec<f64> = values.iter().map(|v| v.as_str().unwrap().parse().unwrap()).collect();
                    assert_eq!(*found, wanted, "{name}: {path}");
                }
                Elements::Strings(found) => {
                    let wanted: Vec<&str> = values.iter().map(|v| v.as_str().unwrap()).collect();
                    assert_eq!(*found, wanted, "{name}: {path}");
                }
            }
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error_or_the_same_file() {
    for name in ["hdf5-earliest.h5", "hdf5-latest.h5"] {
        let whole = conformance(name);
        let root = read(&whole).unwrap();
        for cut in (0..whole.len()).step_by(if cfg!(miri) { 997 } else { 7 }) {
            if let Ok(found) = read(&whole[..cut]) {
                assert_eq!(found, root, "{name} cut to {cut}");
            }
        }
    }
}

/// No flipped byte makes the reader panic, hang or take memory out of proportion.
#[test]
fn damaged_files_end_in_an_error_or_in_other_values() {
    for name in ["hdf5-earliest.h5", "hdf5-latest.h5"] {
        let mut bytes = conformance(name);
        let mut errors = 0;
        for at in (0..bytes.len()).step_by(if bytes.len() > 20_000 { 5 } else { 1 }) {
            for value in [0xff, 0x80, 0] {
                let old = std::mem::replace(&mut bytes[at], value);
                if value != old {
                    errors += usize::from(read(&bytes).is_err());
                }
                bytes[at] = old;
            }
        }
        assert!(errors > 1000, "{name}: {errors} errors");
    }
}

#[test]
fn what_is_not_read_is_named() {
    assert!(matches!(read(b"\x89HDF\r\n\x1a"), Err(Error::BadMagic(_) | Error::Truncated(_))));
    assert!(matches!(read(b"no HDF5 file at all"), Err(Error::BadMagic(_))));
    let mut bytes = conformance("hdf5-earliest.h5");
    bytes[8] = 4;
    assert!(matches!(read(&bytes), Err(Error::UnsupportedVersion(_))));
    bytes[8] = 0;
    bytes[13] = 4;
    assert!(matches!(read(&bytes), Err(Error::Unsupported(_))));
}
