//! The ranks behind the first.

use std::sync::Arc;

use rin_engine::chain::Failure;
use rin_engine::limits::MemoryLimit;
use rin_engine::{Engine, Error, LoadOptions};
use rin_kernels::ops::attention::KvType;
use rin_model::ModelFile;

use crate::fingerprint::fingerprint;
use crate::ring::Ring;
use crate::wire::{Answer, Hello, LoadOrder, Order, USAGE};
use crate::world::{Tag, World, before, hear, lost, take, tell, wait};

/// A rank that does what rank 0 says.
#[derive(Debug)]
pub struct Follower {
    world: Arc<dyn World>,
}

/// What a follower's program knows and this does not.
pub trait Program {
    /// Opens the model of an order, with this rank's own options.
    ///
    /// # Errors
    ///
    /// What went wrong, as this rank tells it.
    fn open(&mut self, order: &LoadOrder) -> Result<(ModelFile, LoadOptions), Failure>;

    /// An error as this rank tells it.
    fn failure(&self, error: Error) -> Failure;

    /// Rank 0 has [noted](Engine::note) a number: everything before it is done.
    ///
    /// # Errors
    ///
    /// What went wrong; the rank fails then.
    fn hear(&mut self, _noted: u32) -> Result<(), Error> {
        Ok(())
    }
}

impl Follower {
    /// Tells rank 0 who this is.
    ///
    /// # Errors
    ///
    /// Where rank 0 is gone.
    pub fn greet(world: Arc<dyn World>, hello: &Hello) -> Result<Self, Error> {
        tell(world.as_ref(), 0, Tag::Answer, hello)?;
        Ok(Self { world })
    }

    /// Loads and runs whatever rank 0 says, until the end; returns the exit code of the job. What goes wrong here is told to
    /// rank 0, which ends the job.
    ///
    /// # Errors
    ///
    /// Where rank 0 is gone.
    pub fn serve(&self, program: &mut impl Program) -> Result<u8, Error> {
        loop {
            match self.order()? {
                Order::Load(order) => self.load(&order, program)?,
                Order::End => {
                    self.answer(&Answer::Yes)?;
                    self.drain()?;
                }
                Order::Leave(code) => return Ok(code),
                Order::Proceed | Order::Withdraw => {}
            }
        }
    }

    fn order(&self) -> Result<Order, Error> {
        hear(self.world.as_ref(), 0, Tag::Order)
    }

    fn answer(&self, answer: &Answer) -> Result<(), Error> {
        tell(self.world.as_ref(), 0, Tag::Answer, answer)
    }

    fn load(&self, order: &LoadOrder, program: &mut impl Program) -> Result<(), Error> {
        let (file, options) = match self.plan(order, program) {
            Ok((file, options, bytes)) => {
                let limit = MemoryLimit::of_this_machine(None).map(|limit| limit.bytes);
                self.answer(&Answer::Planned { bytes, limit })?;
                (file, options)
            }
            Err(failure) => {
                self.answer(&Answer::Failed(failure))?;
                self.order()?;
                return Ok(());
            }
        };
        if self.order()? != Order::Proceed {
            return Ok(());
        }
        let ring = Ring::new(Arc::clone(&self.world), Arc::default());
        let loaded = Engine::load(file, &options, |_| {}).and_then(|mut engine| {
            engine.join(Box::new(ring))?;
            Ok(engine)
        });
        let mut engine = match loaded {
            Ok(engine) => {
                self.answer(&Answer::Loaded { notes: engine.notes().map(str::to_owned).collect() })?;
                engine
            }
            Err(error) => {
                self.answer(&Answer::Failed(program.failure(error)))?;
                self.order()?;
                return Ok(());
            }
        };
        if self.order()? != Order::Proceed {
            return Ok(());
        }
        let Err(error) = engine.follow_and_hear(|noted| program.hear(noted)) else { return Ok(()) };
        // Who is asked for something else meanwhile has not failed.
        let asked = self.world.arrived(Some(0), Tag::Order).map_err(|reason| lost(self.world.as_ref(), reason))?;
        if asked.is_none() {
            tell(self.world.as_ref(), 0, Tag::Failure, &program.failure(error))?;
        }
        self.drain()
    }

    /// Throws away what comes round until rank 0 says something, so that nobody waits to send it.
    fn drain(&self) -> Result<(), Error> {
        let world = self.world.as_ref();
        loop {
            let wanted = [(Some(0), Tag::Order), (Some(before(world)), Tag::Ring)];
            let arrived = wait(world, &wanted).map_err(|reason| lost(world, reason))?;
            if arrived.tag == Tag::Order {
                return Ok(());
            }
            take(world, arrived).map_err(|reason| lost(world, reason))?;
        }
    }

    /// Opens the file, holds it against rank 0's, and plans this rank's stage.
    fn plan(&self, order: &LoadOrder, program: &mut impl Program) -> Result<(ModelFile, LoadOptions, u64), Failure> {
        let (file, own) = program.open(order)?;
        let unlike = |kind: &str, message: &str| Failure {
            rank: self.world.rank(),
            host: self.world.host(),
            code: USAGE,
            kind: kind.to_owned(),
            message: message.to_owned(),
        };
        if fingerprint(&file) != order.fingerprint {
            let message =
                format!("its {} is not the model that rank 0 has; give all ranks one file", file.path().display());
            return Err(unlike("OtherModel", &message));
        }
        let stage = order.stages.get(self.world.rank()).copied();
        let kv_type = KvType::ALL.into_iter().find(|kv_type| kv_type.name() == order.kv_type);
        if stage.is_none() || kv_type.is_none() {
            return Err(unlike("OtherVersion", "it does not know what rank 0 says; start one version everywhere"));
        }
        let options = LoadOptions {
            ctx: Some(order.ctx),
            n_batch: order.n_batch,
            n_sequences: order.n_sequences,
            n_logits: order.n_logits,
            kv_positions: order.kv_positions,
            kv_type,
            stage,
            text: None,
            ..own
        };
        let plan = options.plan(&file).map_err(|error| program.failure(error))?;
        options.admit(&[&plan]).map_err(|error| program.failure(error))?;
        let bytes = plan.total_bytes() as u64;
        Ok((file, options, bytes))
    }
}
