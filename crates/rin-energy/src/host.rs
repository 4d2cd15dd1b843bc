//! The machine as a meter sees it: files, performance counters, time. Tests put another in its place.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Time since some fixed moment, which neither suspension nor corrections of the clock lengthen.
    pub at: Duration,
    /// How long the machine has been suspended until now.
    pub suspended: Duration,
}

/// Something that is read again and again.
pub trait Handle: Debug + Send {
    /// Reads from the begin. Allocates nothing.
    ///
    /// # Errors
    /// What the system answers.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

/// A machine.
pub trait Host: Debug + Send + Sync {
    /// Names in a folder.
    ///
    /// # Errors
    /// What the system answers.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// The head of a small file.
    ///
    /// # Errors
    /// What the system answers.
    fn head(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Opens a file that is read again and again.
    ///
    /// # Errors
    /// What the system answers.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Handle>>;

    /// Opens a counter of a performance monitoring unit on one processor, for all processes. It reads as eight bytes in
    /// the machine's order and never wraps.
    ///
    /// # Errors
    /// What the system answers.
    fn counter(&self, pmu: u32, config: u64, cpu: u32) -> io::Result<Box<dyn Handle>>;

    /// The time.
    fn now(&self) -> Now;

    /// Waits.
    fn sleep(&self, time: Duration);
}

/// This machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemHost;

/// Most bytes of a file that is read once. `/proc/stat` of a large machine is the longest.
const HEAD_BYTES: u64 = 1 << 20;

impl Host for SystemHost {
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(folder)?;
        let mut names = Vec::new();
        for entry in entries {
            // A name that is no text belongs to no sensor.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn head(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(HEAD_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        Ok(Box::new(OpenFile(File::open(path)?)))
    }

    fn counter(&self, pmu: u32, config: u64, cpu: u32) -> io::Result<Box<dyn Handle>> {
        perf::open(pmu, config, cpu)
    }

    #[cfg(target_os = "linux")]
    fn now(&self) -> Now {
        use rustix::time::{ClockId, clock_gettime};
        let time = |id| Duration::try_from(clock_gettime(id)).unwrap_or_default();
        let (running, all) = (time(ClockId::Monotonic), time(ClockId::Boottime));
        Now { at: time(ClockId::MonotonicRaw), suspended: all.saturating_sub(running) }
    }

    #[cfg(not(target_os = "linux"))]
    fn now(&self) -> Now {
        use std::sync::OnceLock;
        use std::time::Instant;
        static BEGIN: OnceLock<Instant> = OnceLock::new();
        Now { at: BEGIN.get_or_init(Instant::now).elapsed(), suspended: Duration::ZERO }
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

#[derive(Debug)]
struct OpenFile(File);

impl Handle for OpenFile {
    #[cfg(unix)]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        // At offset 0 the kernel makes the text anew.
        self.0.read_at(buffer, 0)
    }

    #[cfg(not(unix))]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::io::Seek;
        self.0.rewind()?;
        self.0.read(buffer)
    }
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
mod perf {
    use std::io;

    use perf_event::events::Raw;
    use perf_event::{Builder, Counter, ReadFormat};

    use super::Handle;

    #[derive(Debug)]
    struct OpenCounter(Counter);

    pub(super) fn open(pmu: u32, config: u64, cpu: u32) -> io::Result<Box<dyn Handle>> {
        let cpu = usize::try_from(cpu).map_err(io::Error::other)?;
        let mut builder = Builder::new(Raw::new(config));
        builder.attrs_mut().type_ = pmu;
        // A unit that counts for the whole package refuses to leave anything out.
        builder.any_pid().one_cpu(cpu).exclude_kernel(false).exclude_hv(false).read_format(ReadFormat::empty());
        let mut counter = builder.build()?;
        counter.enable()?;
        Ok(Box::new(OpenCounter(counter)))
    }

    impl Handle for OpenCounter {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let value = self.0.read()?.to_ne_bytes();
            let n = value.len().min(buffer.len());
            for (to, from) in buffer.iter_mut().zip(value) {
                *to = from;
            }
            Ok(n)
        }
    }
}

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))))]
mod perf {
    use std::io;

    use super::Handle;

    pub(super) fn open(_: u32, _: u64, _: u32) -> io::Result<Box<dyn Handle>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
