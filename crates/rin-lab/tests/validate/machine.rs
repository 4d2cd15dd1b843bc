//! Machines made of files.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rin_energy::protocol::Protocol;

/// An empty folder that is gone at the end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("validate-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, path: &str, content: &str) -> PathBuf {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A protocol of a second.
pub(crate) fn short() -> Protocol {
    let ms = Duration::from_millis;
    Protocol { rounds: 6, window: ms(60), idle: ms(20), settle: ms(1) }
}

/// A counter of energy that a thread writes: a constant power, and what is added.
pub(crate) struct Counter {
    pub(crate) folder: Folder,
    pub(crate) microjoules: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Counter {
    pub(crate) fn new(name: &str, watts: f64) -> Self {
        let folder = Folder::new(name);
        let zone = "sys/devices/virtual/powercap/intel-rapl/intel-rapl:0";
        folder.file(&format!("{zone}/name"), "package-0\n");
        folder.file(&format!("{zone}/max_energy_range_uj"), "262143328850\n");
        let path = folder.file(&format!("{zone}/energy_uj"), "000000000000\n");
        let (end, microjoules) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop, added) = (Arc::clone(&end), Arc::clone(&microjoules));
        let thread = std::thread::spawn(move || {
            let file = File::options().write(true).open(path).unwrap();
            let began = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                let sum = began.elapsed().as_secs_f64() * watts * 1e6 + added.load(Ordering::Relaxed) as f64;
                file.write_all_at(format!("{sum:012.0}\n").as_bytes(), 0).unwrap();
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        Self { folder, microjoules, end, thread: Some(thread) }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(std::thread::JoinHandle::join));
    }
}
