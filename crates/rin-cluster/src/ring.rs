//! The way from each stage to the next, over a world.

use std::sync::{Arc, Mutex, PoisonError};

use rin_engine::chain::{Failure, Link, LinkError};

use crate::world::{Tag, World, before, take, wait};

/// What is known of the ring beside the engine that holds it.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Whether an engine holds it.
    pub(crate) in_use: bool,
    /// The first failure that another rank has told.
    pub(crate) failure: Option<Failure>,
}

/// A stage's end of the ring.
#[derive(Debug)]
pub(crate) struct Ring {
    world: Arc<dyn World>,
    state: Arc<Mutex<State>>,
}

impl Ring {
    pub(crate) fn new(world: Arc<dyn World>, state: Arc<Mutex<State>>) -> Self {
        state.lock().unwrap_or_else(PoisonError::into_inner).in_use = true;
        Self { world, state }
    }
}

impl Link for Ring {
    fn send(&mut self, message: &[u8]) -> Result<(), LinkError> {
        let next = (self.world.rank() + 1) % self.world.size();
        self.world.send(next, Tag::Ring, message).map_err(LinkError::Lost)
    }

    fn receive(&mut self, message: &mut [u8]) -> Result<usize, LinkError> {
        let world = self.world.as_ref();
        // Beside what comes round: rank 0 may hear that another one has failed, and the others that rank 0 wants something
        // else.
        let beside = if world.rank() == 0 { (None, Tag::Failure) } else { (Some(0), Tag::Order) };
        let arrived = wait(world, &[(Some(before(world)), Tag::Ring), beside]).map_err(LinkError::Lost)?;
        match arrived.tag {
            Tag::Ring => {
                let into = message.get_mut(..arrived.len).ok_or_else(|| {
                    LinkError::Lost(format!("a message of {} bytes is longer than was planned for", arrived.len))
                })?;
                world.take(arrived.from, arrived.tag, into).map_err(LinkError::Lost)?;
                Ok(arrived.len)
            }
            Tag::Failure => {
                let bytes = take(world, arrived).map_err(LinkError::Lost)?;
                let failure: Failure =
                    serde_json::from_slice(&bytes).map_err(|error| LinkError::Lost(error.to_string()))?;
                self.state.lock().unwrap_or_else(PoisonError::into_inner).failure.get_or_insert(failure.clone());
                Err(LinkError::Failed(failure))
            }
            // It stays where it is: the follower takes it.
            _ => Err(LinkError::Lost("the first stage has ended".to_owned())),
        }
    }

    fn exchange(&mut self, going: &[u8], coming: &mut [u8]) -> Result<usize, LinkError> {
        let world = Arc::clone(&self.world);
        let next = (world.rank() + 1) % world.size();
        let mut came = None;
        let sent = world.send_while(next, Tag::Ring, going, &mut || came = Some(self.receive(coming)));
        sent.map_err(LinkError::Lost)?;
        came.unwrap_or_else(|| Err(LinkError::Lost("nothing was waited for".to_owned())))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).in_use = false;
    }
}
