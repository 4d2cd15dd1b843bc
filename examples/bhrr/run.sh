#!/bin/sh
# Trains a model with BHRR memories on a text and lets it write: run.sh TEXT [PROMPT]
# RIN names the program, built with `cargo build --release --features train`.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
rin=${RIN:-$here/../../target/release/rin}
cp "${1:?which text?}" "$here/text.txt"
"$rin" train "$here/bhrr.toml"
"$rin" inspect --plan "$here/out/bhrr.rin"
"$rin" run "$here/out/bhrr.rin" -p "${2:-ROMEO:}" -n 200
