//! `rin.toml` and the user's `config.toml`: values for flags that the command line and the variables leave out.
//!
//! A key at the top is the long name of a flag and counts for every command that has it; a table named after a command
//! counts for that command.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

use crate::exit::Usage;

/// Most bytes of a configuration file.
const MAX_BYTES: u64 = 1 << 20;

/// The values of one file.
#[derive(Debug, Default)]
struct ConfigFile {
    /// By the long name of a flag.
    top: BTreeMap<String, Vec<String>>,
    /// By command, then by flag.
    commands: BTreeMap<String, BTreeMap<String, Vec<String>>>,
}

/// The files, the one that counts first in front.
#[derive(Debug, Default)]
pub(crate) struct ConfigFiles(Vec<ConfigFile>);

/// Where configuration is looked for, the file that counts first in front.
pub(crate) fn places() -> Vec<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")));
    let user = user.map(|folder| folder.join("rin").join("config.toml"));
    std::iter::once(PathBuf::from("rin.toml")).chain(user).collect()
}

impl ConfigFiles {
    /// Reads all files that exist and checks them against the list of flags.
    ///
    /// # Errors
    /// [`Usage`] with the file, and the key where there is one.
    pub(crate) fn read(flags: &Command) -> Result<Self> {
        let mut files = Vec::new();
        for path in places() {
            let bad = || Usage(format!("configuration file {}", path.display()));
            if let Some(text) = read(&path).with_context(bad)? {
                files.push(ConfigFile::parse(&text, flags).with_context(bad)?);
            }
        }
        Ok(Self(files))
    }

    /// The values that the files give a flag of a command.
    pub(crate) fn values(&self, command: &str, long: &str) -> Option<&[String]> {
        self.0.iter().find_map(|file| {
            let of_command = file.commands.get(command).and_then(|table| table.get(long));
            of_command.or_else(|| file.top.get(long)).map(Vec::as_slice)
        })
    }
}

/// The text of a file, if there is one.
fn read(path: &Path) -> Result<Option<String>> {
    use std::io::Read;

    // Asked before opening: opening a pipe would wait for its writer.
    match std::fs::metadata(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        found => {
            if !found?.is_file() {
                bail!("no regular file");
            }
        }
    }
    let file = std::fs::File::open(path)?;
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        bail!("longer than {MAX_BYTES} bytes");
    }
    Ok(Some(text))
}

impl ConfigFile {
    fn parse(text: &str, flags: &Command) -> Result<Self> {
        let table: Table = text.parse()?;
        let mut file = Self::default();
        for (key, value) in table {
            match value {
                Value::Table(table) => {
                    let Some(command) = flags.find_subcommand(&key) else {
                        let known: Vec<_> = flags.get_subcommands().map(Command::get_name).collect();
                        bail!("table `{key}`: no such command; known: {}", known.join(", "));
                    };
                    let values = table.into_iter().map(|(name, value)| {
                        let values = check(&name, &value, std::iter::once(command));
                        Ok((name.clone(), values.with_context(|| format!("key `{key}.{name}`"))?))
                    });
                    let values = values.collect::<Result<_>>()?;
                    file.commands.insert(key, values);
                }
                value => {
                    let values = check(&key, &value, flags.get_subcommands());
                    let values = values.with_context(|| format!("key `{key}`"))?;
                    file.top.insert(key, values);
                }
            }
        }
        Ok(file)
    }
}

/// Holds a value against every command that has the flag.
fn check<'a>(long: &str, value: &Value, commands: impl Iterator<Item = &'a Command>) -> Result<Vec<String>> {
    let flags: Vec<&Arg> =
        commands.flat_map(Command::get_arguments).filter(|arg| arg.get_long() == Some(long)).collect();
    if flags.is_empty() {
        bail!("no such flag; keys are the long names of flags, as `max-tokens`");
    }
    let values = match value {
        Value::Array(items) => items.iter().map(scalar).collect::<Result<Vec<_>>>()?,
        value => vec![scalar(value)?],
    };
    for flag in flags {
        check_flag(flag, long, &values)?;
    }
    Ok(values)
}

fn scalar(value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(truth) => Ok(truth.to_string()),
        other => bail!("expected a string, a number, a truth value or an array of them, found a {}", other.type_str()),
    }
}

/// Parses values as the command line would.
fn check_flag(flag: &Arg, long: &str, values: &[String]) -> Result<()> {
    if matches!(flag.get_action(), ArgAction::SetTrue) {
        return match values {
            [value] if value == "true" || value == "false" => Ok(()),
            _ => bail!("expected true or false, found {}", values.join(", ")),
        };
    }
    let several = matches!(flag.get_action(), ArgAction::Append);
    if values.len() != 1 && !several {
        bail!("expected one value, found {}", values.len());
    }
    let probe = Command::new("rin").no_binary_name(true).disable_help_flag(true).arg(flag.clone().required(false));
    let given = values.iter().map(|value| format!("--{long}={value}"));
    match probe.try_get_matches_from(given) {
        Ok(_) => Ok(()),
        Err(error) => {
            let message = error.render().to_string();
            let first = message.lines().next().unwrap_or_default();
            bail!("{}", first.trim_start_matches("error: "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::bare_command;

    fn parse(text: &str) -> Result<ConfigFile, String> {
        ConfigFile::parse(text, &bare_command()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn tables_count_before_the_top_and_files_in_their_order() {
        let first = parse("seed = 1\n[run]\nseed = 2\nstop = [\"a\", \"b\"]").unwrap();
        let second = parse("seed = 3\nctx = 4\nmlock = true").unwrap();
        let files = ConfigFiles(vec![first, second]);
        assert_eq!(files.values("run", "seed").unwrap(), ["2"]);
        assert_eq!(files.values("inspect", "seed").unwrap(), ["1"]);
        assert_eq!(files.values("run", "stop").unwrap(), ["a", "b"]);
        assert_eq!(files.values("run", "ctx").unwrap(), ["4"]);
        assert_eq!(files.values("run", "mlock").unwrap(), ["true"]);
        assert_eq!(files.values("run", "temp"), None);
    }

    #[test]
    fn what_is_wrong_names_the_key() {
        for (text, key) in [
            ("max_tokens = 3", "key `max_tokens`: no such flag"),
            ("[run]\nplan = true", "key `run.plan`: no such flag"),
            ("[walk]\nseed = 1", "table `walk`: no such command"),
            ("ctx = \"long\"", "key `ctx`: invalid value 'long' for '--ctx <N>'"),
            ("ctx = [1, 2]", "key `ctx`: expected one value, found 2"),
            ("tier = \"sse9\"", "key `tier`: invalid value 'sse9' for '--tier <TIER>'"),
            ("mlock = 1", "key `mlock`: expected true or false, found 1"),
            ("seed = 1979-05-27", "key `seed`: expected a string"),
            ("seed = ", "TOML parse error at line 1"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.starts_with(key), "{text}: {message}");
        }
    }
}
