//! `rin.h` is what cbindgen makes of the crate. `RIN_WRITE_HEADER=1` writes it anew.

use std::path::Path;

#[test]
fn the_header_is_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).unwrap();
    let mut made = Vec::new();
    // cbindgen follows the modules of lib.rs that declare functions; named here they would be declared twice.
    let sources = ["../rin-session/src/status.rs", "src/types.rs", "src/lib.rs"];
    let builder =
        sources.iter().fold(cbindgen::Builder::new(), |builder, source| builder.with_src(folder.join(source)));
    builder.with_config(config).generate().unwrap().write(&mut made);
    let path = folder.join("include/rin.h");
    if std::env::var_os("RIN_WRITE_HEADER").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let committed = std::fs::read(&path).unwrap_or_default();
    let made = String::from_utf8(made).unwrap();
    assert!(
        committed == made.as_bytes(),
        "include/rin.h is out of date: RIN_WRITE_HEADER=1 cargo test -p rin-capi --test header"
    );
    // Every symbol of the library is declared.
    for source in ["src/lib.rs", "src/compute.rs", "src/convert.rs"] {
        let text = std::fs::read_to_string(folder.join(source)).unwrap();
        let names = text.split("extern \"C\" fn ").skip(1).filter_map(|rest| rest.split('(').next());
        for name in names {
            assert!(made.contains(&format!("{name}(")), "{name} is not in rin.h");
        }
    }
}
