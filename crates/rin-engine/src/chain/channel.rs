//! Stages in one process, on threads of their own: for tests, and for nodes of one machine.

use super::{Link, LinkError};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// A way through memory.
#[derive(Debug)]
struct Channel {
    next: SyncSender<Vec<u8>>,
    before: Receiver<Vec<u8>>,
    /// Whether it sends before it receives where it does both: not all can.
    begins: bool,
}

/// The links of `n` stages in a ring. Each message is handed over: whoever sends waits until it is taken.
pub fn in_process(n: usize) -> Vec<Box<dyn Link>> {
    let (mut senders, receivers): (Vec<_>, Vec<_>) = (0..n).map(|_| sync_channel(0)).unzip();
    // The sender of stage i reaches the receiver of the next one.
    if n > 0 {
        senders.rotate_left(1);
    }
    let link =
        |(i, (next, before))| Box::new(Channel { next, before, begins: usize::is_multiple_of(i, 2) }) as Box<dyn Link>;
    senders.into_iter().zip(receivers).enumerate().map(link).collect()
}

impl Link for Channel {
    fn send(&mut self, message: &[u8]) -> Result<(), LinkError> {
        self.next.send(message.to_vec()).map_err(|_| lost("the next stage has ended"))
    }

    fn receive(&mut self, message: &mut [u8]) -> Result<usize, LinkError> {
        let came = self.before.recv().map_err(|_| lost("the stage before has ended"))?;
        let to = message.get_mut(..came.len()).ok_or_else(|| lost("a message is longer than was planned for"))?;
        to.copy_from_slice(&came);
        Ok(came.len())
    }

    fn exchange(&mut self, going: &[u8], coming: &mut [u8]) -> Result<usize, LinkError> {
        if self.begins {
            self.send(going)?;
            return self.receive(coming);
        }
        let len = self.receive(coming)?;
        self.send(going)?;
        Ok(len)
    }
}

fn lost(reason: &str) -> LinkError {
    LinkError::Lost(reason.to_owned())
}
