//! Ranks as threads of one process: for tests, and to hold a network in stages against itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::world::{Tag, World};

#[derive(Debug)]
struct Letter {
    from: usize,
    tag: Tag,
    bytes: Vec<u8>,
}

/// What has arrived at a rank; none once the rank is gone.
type Box = Mutex<Option<VecDeque<Letter>>>;

#[derive(Debug)]
struct Memory {
    rank: usize,
    boxes: Arc<[Box]>,
}

/// Worlds of `n` ranks in this process. A rank that is dropped is gone: who sends to it or waits for it is told.
pub fn in_memory(n: usize) -> Vec<Arc<dyn World>> {
    let boxes: Arc<[Box]> = (0..n).map(|_| Mutex::new(Some(VecDeque::new()))).collect();
    (0..n).map(|rank| Arc::new(Memory { rank, boxes: boxes.clone() }) as Arc<dyn World>).collect()
}

impl Memory {
    /// What `with` makes of the letters of a rank; none where it is gone.
    fn at<T>(&self, rank: usize, with: impl FnOnce(&mut VecDeque<Letter>) -> T) -> Option<T> {
        let mut letters = self.boxes.get(rank)?.lock().unwrap_or_else(PoisonError::into_inner);
        letters.as_mut().map(with)
    }
}

impl World for Memory {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.boxes.len()
    }

    fn host(&self) -> String {
        "localhost".to_owned()
    }

    fn send(&self, to: usize, tag: Tag, message: &[u8]) -> Result<(), String> {
        let letter = Letter { from: self.rank, tag, bytes: message.to_vec() };
        self.at(to, |letters| letters.push_back(letter)).ok_or_else(|| format!("rank {to} is gone"))
    }

    fn send_while(&self, to: usize, tag: Tag, message: &[u8], meanwhile: &mut dyn FnMut()) -> Result<(), String> {
        // Nobody waits for a message to be taken.
        self.send(to, tag, message)?;
        meanwhile();
        Ok(())
    }

    fn arrived(&self, from: Option<usize>, tag: Tag) -> Result<Option<(usize, usize)>, String> {
        let found = |letters: &mut VecDeque<Letter>| {
            let first = letters.iter().find(|l| l.tag == tag && from.is_none_or(|from| l.from == from));
            first.map(|letter| (letter.from, letter.bytes.len()))
        };
        let found = self.at(self.rank, found).flatten();
        match from {
            Some(from) if found.is_none() && self.at(from, |_| ()).is_none() => Err(format!("rank {from} is gone")),
            _ => Ok(found),
        }
    }

    fn take(&self, from: usize, tag: Tag, into: &mut [u8]) -> Result<(), String> {
        let first = |letters: &mut VecDeque<Letter>| {
            let place = letters.iter().position(|letter| letter.tag == tag && letter.from == from)?;
            letters.remove(place)
        };
        match self.at(self.rank, first).flatten() {
            Some(letter) if letter.bytes.len() == into.len() => {
                into.copy_from_slice(&letter.bytes);
                Ok(())
            }
            _ => Err("a message that nobody sent is asked for".to_owned()),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(own) = self.boxes.get(self.rank) {
            *own.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}
