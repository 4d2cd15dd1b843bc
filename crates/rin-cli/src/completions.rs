//! `rin completions`: what a shell needs to complete commands and flags.

use anyhow::Result;
use serde::Serialize;

use crate::args::{CompletionsArgs, bare_command};
use crate::output;

#[derive(Serialize)]
struct CompletionsJson {
    shell: String,
    script: String,
}

/// Writes the completions.
///
/// # Errors
/// Where standard output cannot be written.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut bare_command(), "rin", &mut script);
    let script = String::from_utf8(script)?;
    if args.output.json {
        return output::json(&CompletionsJson { shell: args.shell.to_string(), script });
    }
    output::text(&script)
}
