//! Interrupts and readers that leave.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::program::{Place, stderr};

/// A generation that takes minutes if it is left alone, after its first bytes of text.
fn started(place: &Place, more: &[&str]) -> (Child, [u8; 1]) {
    let mut command = place.tiny(&["-p", "a", "--ctx", "50000", "--ignore-eos", "--threads", "1"]);
    command.args(more).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    (child, first)
}

pub(crate) fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn one_interrupt_ends_the_generation_cleanly() {
    let place = Place::new();
    let (child, _) = started(&place, &["--logits", "out.npy"]);
    interrupt(&child);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", stderr(&ended));
    let header = std::fs::read(place.path("out.npy")).unwrap();
    assert!(!header[..128].windows(3).any(|part| part == b"(0,"), "the rows so far are kept");
}

#[test]
fn a_reader_that_leaves_ends_the_generation_without_a_word() {
    let place = Place::new();
    let (mut child, _) = started(&place, &[]);
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(stderr(&ended), "");
}

#[test]
fn a_cancelled_generation_says_so() {
    let place = Place::new();
    let mut command = place.tiny(&["-p", "a", "--ctx", "50000", "--ignore-eos", "--threads", "1", "--json"]);
    command.args(["--logits", "out.npy"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    // The generation runs once the temporary file of its logits has its first bytes.
    let started = || {
        let entries = std::fs::read_dir(&place.folder).unwrap();
        entries.flatten().any(|entry| entry.metadata().is_ok_and(|found| found.len() > 0))
    };
    while !started() {
        std::thread::sleep(Duration::from_millis(5));
    }
    interrupt(&child);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", stderr(&ended));
    let object: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(object["finish_reason"], "cancelled");
    assert!(object["generated_tokens"].as_u64().unwrap() > 0);
}

/// Waits until the program has a handler for interrupts.
pub(crate) fn wait_for_handler(child: &Child) {
    const INTERRUPT_BIT: u64 = 1 << 1;
    loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        if u64::from_str_radix(caught.trim(), 16).unwrap() & INTERRUPT_BIT != 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_interrupt_outside_a_generation_is_130() {
    let place = Place::new();
    let mut command = place.tiny(&[]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It waits for its prompt.
    let input = child.stdin.take().unwrap();
    wait_for_handler(&child);
    interrupt(&child);
    let ended = child.wait_with_output().unwrap();
    drop(input);
    assert_eq!(ended.status.code(), Some(130));
}

#[test]
fn a_second_interrupt_ends_the_program_and_leaves_no_half_file() {
    // An interrupt that comes before the prompt is begun ends the generation cleanly; then this is tried again.
    let code = (0..20).map(|_| interrupted_twice()).find(|code| *code != Some(0));
    assert_eq!(code, Some(Some(130)));
}

/// The exit code of a run that is interrupted until it ends.
fn interrupted_twice() -> Option<i32> {
    let place = Place::new();
    // A prompt that takes minutes: within it a generation cannot be ended cleanly.
    let ids = vec!["70"; 30_000].join(",");
    let mut command = place.tiny(&["--ctx", "50000", "--threads", "1", "--tier", "scalar", "--logits", "out.npy"]);
    let mut child = command.env("RIN_TOKENS", ids).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while std::fs::read_dir(&place.folder).unwrap().count() == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let status = loop {
        std::thread::sleep(Duration::from_millis(20));
        interrupt(&child);
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
    };
    if status.code() != Some(0) {
        assert_eq!(std::fs::read_dir(&place.folder).unwrap().count(), 0);
    }
    status.code()
}
