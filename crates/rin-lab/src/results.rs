//! Raw results: one JSON line per case behind a header, so that an interrupted run goes on where it was.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::experiment::{Experiment, Scale};
use crate::{Error, machine};

/// The first line of a file of results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// The experiment's name.
    pub experiment: String,
    /// The revision of its cases.
    pub revision: u32,
    /// How much was run.
    pub scale: Scale,
    /// The version of RIN that began it.
    pub version: String,
    /// The machine that began it.
    pub machine: machine::Machine,
}

/// The result of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The case's name.
    pub case: String,
    /// How long it took.
    pub seconds: f64,
    /// The machine that ran it, where that is another than the header's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<machine::Machine>,
    /// What it found.
    pub value: Value,
}

/// The results of an experiment.
#[derive(Clone, Debug, PartialEq)]
pub struct Results {
    /// What they are results of.
    pub header: Header,
    /// One per case, in the order in which they ended.
    pub records: Vec<Record>,
}

/// Where the results of an experiment lie in a folder.
pub fn path(folder: &Path, name: &str, scale: Scale) -> PathBuf {
    folder.join(match scale {
        Scale::Full => format!("{name}.jsonl"),
        Scale::Quick => format!("{name}.quick.jsonl"),
    })
}

impl Results {
    /// Reads a file of results; none where there is no such file. A last line that was cut short is left out.
    ///
    /// # Errors
    /// Where it cannot be read or is damaged.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(path).map_err(Error::io(path))?;
        let damaged = |line: usize, error: serde_json::Error| Error::Damaged {
            path: path.to_owned(),
            line: line + 1,
            what: error.to_string(),
        };
        let mut lines = text.split_inclusive('\n').enumerate();
        let Some((_, first)) = lines.next() else { return Ok(None) };
        let header = serde_json::from_str(first).map_err(|error| damaged(0, error))?;
        let mut records = Vec::new();
        for (at, line) in lines {
            if line.ends_with('\n') {
                records.push(serde_json::from_str(line).map_err(|error| damaged(at, error))?);
            }
        }
        Ok(Some(Self { header, records }))
    }

    /// Full results that a test makes up.
    #[cfg(test)]
    pub(crate) fn made_up(experiment: &Experiment, cases: impl IntoIterator<Item = (String, Value)>) -> Self {
        let machine = machine::Machine { processor: String::new(), cores: 1, tier: String::new() };
        let (revision, scale) = (experiment.revision, Scale::Full);
        let header =
            Header { experiment: experiment.name.to_owned(), revision, scale, version: String::new(), machine };
        let record = |(case, value)| Record { case, seconds: 1.0, machine: None, value };
        Self { header, records: cases.into_iter().map(record).collect() }
    }

    /// The results of a case.
    pub fn case(&self, case: &str) -> Option<&Value> {
        self.records.iter().find(|record| record.case == case).map(|record| &record.value)
    }

    /// The machines that ran cases, the header's first, and how many cases each ran.
    pub fn machines(&self) -> Vec<(&machine::Machine, usize)> {
        let mut machines = vec![(&self.header.machine, 0)];
        for record in &self.records {
            let of = record.machine.as_ref().unwrap_or(&self.header.machine);
            match machines.iter_mut().find(|(machine, _)| *machine == of) {
                Some((_, cases)) => *cases += 1,
                None => machines.push((of, 1)),
            }
        }
        machines.retain(|(_, cases)| *cases > 0 || self.records.is_empty());
        machines
    }

    /// Whether every case has a result.
    pub fn is_complete(&self, experiment: &Experiment) -> bool {
        (experiment.cases)(self.header.scale).iter().all(|case| self.case(&case.name).is_some())
    }

    fn missing(&self, what: String) -> Error {
        Error::Missing { experiment: self.header.experiment.clone(), what }
    }

    /// The value at a JSON pointer (RFC 6901) within a case's result.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is none.
    pub fn at(&self, case: &str, pointer: &str) -> Result<&Value, Error> {
        let found = self.case(case).and_then(|value| value.pointer(pointer));
        found.ok_or_else(|| self.missing(format!("{pointer} of the case {case}")))
    }

    /// The number at a JSON pointer within a case's result.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is none.
    pub fn number(&self, case: &str, pointer: &str) -> Result<f64, Error> {
        let found = self.at(case, pointer)?.as_f64();
        found.ok_or_else(|| self.missing(format!("a number at {pointer} of the case {case}")))
    }

    /// The numbers of an array at a JSON pointer within a case's result.
    ///
    /// # Errors
    /// [`Error::Missing`] where there are none.
    pub fn numbers(&self, case: &str, pointer: &str) -> Result<Vec<f64>, Error> {
        let found = self.at(case, pointer)?.as_array();
        let numbers: Option<Vec<f64>> = found.and_then(|array| array.iter().map(Value::as_f64).collect());
        numbers.ok_or_else(|| self.missing(format!("numbers at {pointer} of the case {case}")))
    }
}

/// A file of results that grows case by case.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: fs::File,
    results: Results,
    here: machine::Machine,
}

impl Journal {
    /// Opens the results of an experiment in a folder, which is made where it is not there: those of an earlier run are
    /// gone on with, unless they shall be replaced.
    ///
    /// # Errors
    /// [`Error::OtherResults`] where the file holds results of another experiment, scale or revision; what the system
    /// answers.
    pub fn open(folder: &Path, experiment: &Experiment, scale: Scale, overwrite: bool) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = path(folder, experiment.name, scale);
        let header = Header {
            experiment: experiment.name.to_owned(),
            revision: experiment.revision,
            scale,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: machine::Machine::here(),
        };
        let here = header.machine.clone();
        let before = if overwrite { None } else { Results::read(&path)? };
        let results = match before {
            Some(found) if describes(&found.header) == describes(&header) => found,
            Some(found) => {
                let (found, expected) = (describes(&found.header), describes(&header));
                return Err(Error::OtherResults { path, found, expected });
            }
            None => Results { header, records: Vec::new() },
        };
        // Written anew as a whole: a line that was cut short is gone, and a crash leaves the old file or the new one.
        let mut text = line(&results.header, &path)?;
        for record in &results.records {
            text.push_str(&line(record, &path)?);
        }
        let new = path.with_extension("new");
        fs::write(&new, text).map_err(Error::io(&new))?;
        fs::rename(&new, &path).map_err(Error::io(&path))?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io(&path))?;
        Ok(Self { path, file, results, here })
    }

    /// What is stored so far.
    pub fn results(&self) -> &Results {
        &self.results
    }

    /// Where it is stored.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stores what a case found on this machine, and how many seconds that took.
    ///
    /// # Errors
    /// What the system answers.
    pub fn store(&mut self, case: &str, seconds: f64, value: Value) -> Result<(), Error> {
        let machine = (self.here != self.results.header.machine).then(|| self.here.clone());
        let record = Record { case: case.to_owned(), seconds, machine, value };
        let text = line(&record, &self.path)?;
        self.file.write_all(text.as_bytes()).and_then(|()| self.file.flush()).map_err(Error::io(&self.path))?;
        self.results.records.push(record);
        Ok(())
    }
}

fn describes(header: &Header) -> String {
    format!("{} ({}, revision {})", header.experiment, header.scale.name(), header.revision)
}

fn line(value: &impl Serialize, path: &Path) -> Result<String, Error> {
    let text = serde_json::to_string(value).map_err(|error| Error::io(path)(error.into()))?;
    Ok(text + "\n")
}
