//! The bytes of a file, mapped.
//!
//! A mapping is only as steady as its file. A file that is replaced by a rename leaves the mapping whole (it keeps the
//! old file). A file that is cut short while it is mapped makes the operating system end the process with SIGBUS at the
//! next touch of a page that is gone; no check in advance can rule that out. [`FileBytes::check_unchanged`] therefore
//! compares length and time of change with those at opening, so that whoever serves for long can notice in time and
//! load again. A writer that respects the advice of `FileChanged` never triggers either.

use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::Mmap;

use crate::error::{Error, fault};

/// The smallest page that any supported system has.
const SMALL_PAGE: usize = 4096;

/// Bytes of one file, or bytes that were given.
#[derive(Debug)]
pub(crate) struct FileBytes {
    path: PathBuf,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    Mapped { map: Mmap, file: File, stamp: Stamp },
    Held(Cow<'static, [u8]>),
}

/// What tells one state of a file from the next.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(file: &File, path: &Path) -> Result<Self, Error> {
        let metadata = file.metadata().map_err(|source| Error::io(path, source))?;
        Ok(Self { length: metadata.len(), modified: metadata.modified().ok() })
    }
}

impl FileBytes {
    /// Maps a regular file for reading.
    pub(crate) fn map(path: &Path) -> Result<Self, Error> {
        // Asked before opening: opening a pipe would wait for its writer.
        let metadata = std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
        if !metadata.is_file() {
            return Err(Error::NotAModel(fault("file", "", "a regular file", "another kind of file")).in_file(path));
        }
        let file = File::open(path).map_err(|source| Error::io(path, source))?;
        let stamp = Stamp::of(&file, path)?;
        let path = path.to_path_buf();
        if stamp.length == 0 {
            return Ok(Self { path, storage: Storage::Held(Cow::Borrowed(&[])) });
        }
        let map = map_file(&file).map_err(|source| Error::io(&path, source))?;
        Ok(Self { path, storage: Storage::Mapped { map, file, stamp } })
    }

    /// Bytes that are in memory already.
    pub(crate) fn held(name: &str, bytes: Cow<'static, [u8]>) -> Self {
        Self { path: PathBuf::from(name), storage: Storage::Held(bytes) }
    }

    /// Whether this is a file on disk, with others beside it.
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self.storage, Storage::Mapped { .. })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.storage {
            Storage::Mapped { map, .. } => map,
            Storage::Held(bytes) => bytes,
        }
    }

    pub(crate) fn length(&self) -> u64 {
        u64::try_from(self.bytes().len()).unwrap_or(u64::MAX)
    }

    /// `FileChanged` where length or time of change are not those at opening.
    pub(crate) fn check_unchanged(&self) -> Result<(), Error> {
        let Storage::Mapped { file, stamp, .. } = &self.storage else { return Ok(()) };
        let now = Stamp::of(file, &self.path)?;
        if now == *stamp {
            return Ok(());
        }
        let found = if now.length == stamp.length {
            "bytes written since".to_owned()
        } else {
            format!("a length of {} bytes", now.length)
        };
        let expected = format!("{} bytes, as when it was opened", stamp.length);
        Err(Error::FileChanged(fault("file", "", expected, found)).in_file(&self.path))
    }

    /// Tells the operating system that the whole pages within a range are not needed for now.
    pub(crate) fn not_needed(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Storage::Mapped { map, .. } = &self.storage
            && range.start <= range.end
            && range.end <= map.len()
        {
            // A hint: a system that refuses it keeps the pages.
            drop_pages(map, range).ok();
        }
    }

    /// Reads the pages of a range in, so that no later look waits for one or faults.
    pub(crate) fn populate(&self, range: Range<usize>) {
        let Storage::Mapped { map, .. } = &self.storage else { return };
        let Some(bytes) = map.get(range.clone()) else { return };
        // One system call where the kernel (Linux 5.14) knows it.
        #[cfg(target_os = "linux")]
        if map.advise_range(memmap2::Advice::PopulateRead, range.start, bytes.len()).is_ok() {
            return;
        }
        bytes.iter().step_by(SMALL_PAGE).chain(bytes.last()).for_each(|byte| {
            std::hint::black_box(*byte);
        });
    }

    /// Keeps all pages in memory, out of reach of reclaim.
    pub(crate) fn lock(&self) -> std::io::Result<()> {
        match &self.storage {
            #[cfg(unix)]
            Storage::Mapped { map, .. } => map.lock(),
            #[cfg(not(unix))]
            Storage::Mapped { .. } => Err(std::io::ErrorKind::Unsupported.into()),
            Storage::Held(_) => Ok(()),
        }
    }

    /// Tells the operating system that all pages are about to be read.
    pub(crate) fn will_need(&self) {
        #[cfg(unix)]
        if let Storage::Mapped { map, .. } = &self.storage {
            // A hint: a system that refuses it reads the pages on first touch.
            map.advise(memmap2::Advice::WillNeed).ok();
        }
    }
}

#[cfg(unix)]
#[expect(unsafe_code, reason = "the system call can drop data where a mapping is private and written to")]
fn drop_pages(map: &Mmap, range: Range<usize>) -> std::io::Result<()> {
    // SAFETY: the mapping is of a file and read-only, so nothing is lost: a later access reads the page from the file
    // again, with the same bytes as long as the file is the same, which every reader of a mapping relies on anyway.
    unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) }
}

/// Gives back the pages of this program's code that start-up and the reading of a model have touched: the system reads
/// them from the program's file again where they are needed. Before the memory of a plan is touched, that keeps the
/// peak of a process at its plan and what runs. Nothing happens where the system has no `/proc` or refuses.
pub fn release_code() {
    #[cfg(target_os = "linux")]
    {
        let here = (release_code as fn() as *const ()).addr();
        let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
        let own = maps.lines().find_map(|line| code_mapping(line).filter(|range| range.contains(&here)));
        if let Some(own) = own {
            // A hint: a system that refuses it keeps the pages.
            drop_code(own).ok();
        }
    }
}

/// The addresses of a line of `/proc/self/maps` that tells of code of a file which nothing can have written to.
#[cfg(target_os = "linux")]
fn code_mapping(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_code = words.next()? == "r-xp" && words.nth(3)?.starts_with('/');
    let address = |digits| usize::from_str_radix(digits, 16).ok();
    is_code.then_some(address(start)?..address(end)?)
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the system call can drop data where a mapping is private and written to")]
fn drop_code(range: Range<usize>) -> std::io::Result<()> {
    let start = std::ptr::with_exposed_provenance_mut(range.start);
    // SAFETY: the pages are code of a file, mapped for reading and running alone, as compilers of position-independent
    // programs make it: they hold what the file holds, which an access reads again. No reference to them is held.
    let done = unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "mapping a file is the one thing that this crate cannot say in safe Rust")]
fn map_file(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is read-only and private to this module, which lends out nothing but `&[u8]`. That nobody
    // writes to or cuts the file meanwhile cannot be had from the operating system; the module's documentation says what
    // follows from it, and no length or offset is trusted twice: every access goes through a bounds check on the slice,
    // and no value of the mapping is assumed to be the same when it is read again.
    unsafe { Mmap::map(file) }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn code_of_files_is_told_from_all_else() {
        let code = "55d0c0a00000-55d0c0b00000 r-xp 00460000 fe:00 1234   /usr/bin/rin";
        assert_eq!(code_mapping(code), Some(0x55d0_c0a0_0000..0x55d0_c0b0_0000));
        for other in
            ["r--p 00460000 fe:00 1234 /usr/bin/rin", "rwxp 0 fe:00 1 /usr/bin/rin", "r-xp 0 00:00 0 [vdso]", "r-xp"]
        {
            assert_eq!(code_mapping(&format!("55d0c0a00000-55d0c0b00000 {other}")), None, "{other}");
        }
    }

    /// Bytes of this program's code that are in memory.
    fn resident_code() -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let here = (release_code as fn() as *const ()).addr();
        let mut lines = maps.lines().skip_while(|line| code_mapping(line).is_none_or(|range| !range.contains(&here)));
        let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        rss.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    #[test]
    fn code_that_is_given_back_leaves_memory_and_still_runs() {
        // Much of a test program has run by now; what the measuring itself runs comes back at once.
        let before = resident_code();
        release_code();
        let after = resident_code();
        assert!(after < before, "{after} bytes of code in memory after {before}");
    }
}
