//! A machine in memory: files, counters, a clock that moves when it is looked at.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rin_energy::{Handle, Host, Meter, Now, Sensors};

pub(crate) const EPERM: i32 = 1;
pub(crate) const ENOENT: i32 = 2;
pub(crate) const EIO: i32 = 5;
pub(crate) const EACCES: i32 = 13;
pub(crate) const ENODEV: i32 = 19;
pub(crate) const EINVAL: i32 = 22;

type At = Box<dyn Fn(Duration) -> Vec<u8> + Send>;

enum Content {
    Bytes(Vec<u8>),
    /// Depends on the time.
    Live(At),
    /// Cannot be opened or read.
    Fails(i32),
}

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, Content>,
    counters: BTreeMap<(u32, u64, u32), Content>,
    now: Now,
    opened: usize,
    reads: usize,
}

/// A machine. Clones are the same machine.
#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<State>>);

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fake")
    }
}

/// How far a look at the clock moves it.
const LOOK: Duration = Duration::from_micros(1);

impl Fake {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn state<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }

    fn set(&self, path: &str, content: Content) -> &Self {
        self.state(|state| state.files.insert(Path::new("/").join(path), content));
        self
    }

    /// A file with a text and a line end.
    pub(crate) fn file(&self, path: &str, text: &str) -> &Self {
        self.bytes(path, format!("{text}\n").as_bytes())
    }

    pub(crate) fn bytes(&self, path: &str, bytes: &[u8]) -> &Self {
        self.set(path, Content::Bytes(bytes.to_vec()))
    }

    /// A file with a number that depends on the time in seconds.
    pub(crate) fn live(&self, path: &str, value: impl Fn(f64) -> u64 + Send + 'static) -> &Self {
        self.set(path, Content::Live(Box::new(move |at| format!("{}\n", value(at.as_secs_f64())).into_bytes())))
    }

    pub(crate) fn fails(&self, path: &str, errno: i32) -> &Self {
        self.set(path, Content::Fails(errno))
    }

    /// Takes away everything below a path.
    pub(crate) fn remove(&self, path: &str) -> &Self {
        let path = Path::new("/").join(path);
        self.state(|state| state.files.retain(|file, _| !file.starts_with(&path)));
        self
    }

    pub(crate) fn counter(&self, at: (u32, u64, u32), value: impl Fn(f64) -> u64 + Send + 'static) -> &Self {
        let live = Content::Live(Box::new(move |at| value(at.as_secs_f64()).to_ne_bytes().to_vec()));
        self.state(|state| state.counters.insert(at, live));
        self
    }

    pub(crate) fn short_counter(&self, at: (u32, u64, u32), bytes: &[u8]) -> &Self {
        self.state(|state| state.counters.insert(at, Content::Bytes(bytes.to_vec())));
        self
    }

    pub(crate) fn counter_fails(&self, at: (u32, u64, u32), errno: i32) -> &Self {
        self.state(|state| state.counters.insert(at, Content::Fails(errno)));
        self
    }

    /// Time passes.
    pub(crate) fn pass(&self, seconds: f64) -> &Self {
        self.state(|state| state.now.at += Duration::from_secs_f64(seconds));
        self
    }

    /// The machine sleeps.
    pub(crate) fn suspend(&self, seconds: f64) -> &Self {
        self.state(|state| state.now.suspended += Duration::from_secs_f64(seconds));
        self
    }

    /// How often something was opened.
    pub(crate) fn opened(&self) -> usize {
        self.state(|state| state.opened)
    }

    /// How often something that is open was read.
    pub(crate) fn reads(&self) -> usize {
        self.state(|state| state.reads)
    }

    pub(crate) fn sensors(&self) -> Sensors {
        Sensors::discover_with("/", Arc::new(self.clone()))
    }

    pub(crate) fn meter(&self) -> Meter {
        self.sensors().meter().unwrap()
    }

    /// A zone of powercap: `intel-rapl:0:1` lies within `intel-rapl:0` within `intel-rapl`.
    pub(crate) fn zone(&self, id: &str, name: &str, max: u64, uj: impl Fn(f64) -> u64 + Send + 'static) -> &Self {
        let folder = zone(id);
        self.file(&format!("{folder}/name"), name).file(&format!("{folder}/max_energy_range_uj"), &max.to_string());
        self.live(&format!("{folder}/energy_uj"), uj)
    }
}

/// The folder of a zone.
pub(crate) fn zone(id: &str) -> String {
    let mut folder = "sys/devices/virtual/powercap".to_owned();
    for (end, _) in id.match_indices(':').chain([(id.len(), "")]) {
        folder = format!("{folder}/{}", &id[..end]);
    }
    folder
}

/// A counter in µJ that takes so many W from 1 s on, brought up to date every ms, which wraps after `max`.
pub(crate) fn watts(watts: f64, max: u64) -> impl Fn(f64) -> u64 + Send {
    move |seconds| {
        let updated = (seconds * 1e3).floor() / 1e3;
        (5e6 + watts * 1e6 * updated) as u64 % (max + 61)
    }
}

/// Ranges of processors with steps of 2⁻¹⁴ J and 2⁻¹⁶ J, and of servers' memory.
pub(crate) const MAX_14: u64 = 262_143_328_850;
pub(crate) const MAX_16: u64 = 65_532_610_987;
pub(crate) const MAX_DRAM: u64 = 65_712_999_613;

fn read(content: Option<&Content>, at: Duration) -> io::Result<Vec<u8>> {
    match content {
        Some(Content::Bytes(bytes)) => Ok(bytes.clone()),
        Some(Content::Live(bytes)) => Ok(bytes(at)),
        Some(Content::Fails(errno)) => Err(io::Error::from_raw_os_error(*errno)),
        None => Err(io::Error::from_raw_os_error(ENODEV)),
    }
}

#[derive(Debug)]
enum Place {
    File(PathBuf),
    Counter(u32, u64, u32),
}

#[derive(Debug)]
struct Open {
    fake: Fake,
    place: Place,
}

impl Handle for Open {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fake.state(|state| {
            state.reads += 1;
            let content = match &self.place {
                Place::File(path) => state.files.get(path),
                Place::Counter(pmu, config, cpu) => state.counters.get(&(*pmu, *config, *cpu)),
            };
            read(content, state.now.at)
        })?;
        let n = bytes.len().min(buffer.len());
        buffer[..n].copy_from_slice(&bytes[..n]);
        Ok(n)
    }
}

impl Host for Fake {
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let names: std::collections::BTreeSet<String> = self.state(|state| {
            let below = |path: &PathBuf| path.strip_prefix(folder).ok()?.iter().next()?.to_str().map(str::to_owned);
            state.files.keys().filter_map(below).collect()
        });
        if names.is_empty() { Err(io::Error::from_raw_os_error(ENOENT)) } else { Ok(names.into_iter().collect()) }
    }

    fn head(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.state(|state| match state.files.get(path) {
            None => Err(io::Error::from_raw_os_error(ENOENT)),
            content => read(content, state.now.at),
        })
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        self.state(|state| state.opened += 1);
        self.state(|state| match state.files.get(path) {
            None => Err(io::Error::from_raw_os_error(ENOENT)),
            Some(Content::Fails(errno)) if *errno == EACCES => Err(io::Error::from_raw_os_error(EACCES)),
            Some(_) => Ok(()),
        })?;
        Ok(Box::new(Open { fake: self.clone(), place: Place::File(path.to_owned()) }))
    }

    fn counter(&self, pmu: u32, config: u64, cpu: u32) -> io::Result<Box<dyn Handle>> {
        self.state(|state| state.opened += 1);
        self.state(|state| match state.counters.get(&(pmu, config, cpu)) {
            None => Err(io::Error::from_raw_os_error(EINVAL)),
            Some(Content::Fails(errno)) => Err(io::Error::from_raw_os_error(*errno)),
            Some(_) => Ok(()),
        })?;
        Ok(Box::new(Open { fake: self.clone(), place: Place::Counter(pmu, config, cpu) }))
    }

    fn now(&self) -> Now {
        self.state(|state| {
            state.now.at += LOOK;
            state.now
        })
    }

    fn sleep(&self, time: Duration) {
        self.pass(time.as_secs_f64());
    }
}
