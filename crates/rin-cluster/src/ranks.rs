//! Rank 0: who is there, who gets what, and how it ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rin_engine::chain::{ChainError, Failure};
use rin_engine::limits::MemoryLimit;
use rin_engine::plan::{Cut, Stage};
use rin_engine::{Engine, Error, LoadOptions};
use rin_kernels::Tier;
use rin_model::ModelFile;

use crate::fingerprint::fingerprint;
use crate::ring::{Ring, State};
use crate::wire::{Answer, Hello, LoadOrder, Order, USAGE};
use crate::world::{self, Tag, World, hear, lost, tell};

/// Exit code of a network that does not fit.
const MEMORY: u8 = 4;

/// The ranks as the first of them has them; or one that is alone.
#[derive(Debug)]
pub struct Ranks {
    world: Option<Arc<dyn World>>,
    hellos: Vec<Hello>,
    ring: Arc<Mutex<State>>,
    notes: Mutex<Vec<String>>,
    /// Ranks that share the rows of each layer.
    tp: usize,
}

impl Ranks {
    /// One process, which does all by itself.
    pub fn alone() -> Self {
        Self { world: None, hellos: Vec::new(), ring: Arc::default(), notes: Mutex::default(), tp: 1 }
    }

    /// The same, where so many ranks share the rows of each layer; otherwise each has layers of its own.
    #[must_use]
    pub fn sharing_rows(self, tp: usize) -> Self {
        Self { tp, ..self }
    }

    fn cut(&self) -> Cut {
        if self.tp > 1 { Cut::Rows } else { Cut::Layers }
    }

    /// Whether as many ranks are there as share rows.
    fn check_tp(&self) -> Result<(), Error> {
        let (tp, n) = (self.tp, self.count());
        if tp == 1 || tp == n {
            let speeds = self.hellos.iter().any(|hello| hello.speed.is_some());
            if tp > 1 && speeds {
                let expected = "left out beside --tp: all ranks have as many rows".to_owned();
                return Err(Error::BadOption { field: "--rank-speed", expected, found: "given".to_owned() });
            }
            return Ok(());
        }
        let expected = if n == 1 {
            "1 in one process; start more of them, as mpirun -n 2 rin … --tp 2".to_owned()
        } else {
            format!("{n}, the number of ranks, or left out: all ranks share the rows of each layer, or each has layers")
        };
        Err(Error::BadOption { field: "--tp", expected, found: tp.to_string() })
    }

    /// Rank 0, once all others have said who they are. What they say is held against each other by [`check`](Self::check).
    ///
    /// # Errors
    ///
    /// [`ChainError::Lost`] where a rank is gone, or says what this version does not know.
    pub fn gather(world: Arc<dyn World>, own: Hello) -> Result<Self, Error> {
        let mut hellos = vec![own];
        for rank in 1..world.size() {
            hellos.push(hear(world.as_ref(), rank, Tag::Answer)?);
        }
        let world = Some(world).filter(|world| world.size() > 1);
        Ok(Self { world, hellos, ..Self::alone() })
    }

    pub(crate) fn world(&self) -> Option<&Arc<dyn World>> {
        self.world.as_ref()
    }

    /// Whether there are others.
    pub fn several(&self) -> bool {
        self.world.is_some()
    }

    /// How many ranks there are.
    pub fn count(&self) -> usize {
        self.world.as_ref().map_or(1, |world| world.size())
    }

    /// Who there is, in the order of the ranks; nobody for one that is alone.
    pub fn hellos(&self) -> &[Hello] {
        &self.hellos
    }

    /// What the systems of the others did not grant, as of the last network that was loaded.
    pub fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the ranks belong together: one version, command lines that can be done, speeds of all or of none, as many as
    /// share rows.
    ///
    /// # Errors
    ///
    /// [`ChainError::Failed`] names the first rank that does not; [`Error::BadOption`] for another number of ranks.
    pub fn check(&self) -> Result<(), Error> {
        self.check_tp()?;
        let Some(first) = self.hellos.first() else { return Ok(()) };
        for hello in &self.hellos {
            if hello.version != first.version {
                let message = format!("it runs rin {}, and rank 0 runs {}", hello.version, first.version);
                return Err(failed(self.failure(hello.rank, USAGE, "OtherVersion", message)));
            }
            if let Some(failure) = &hello.failure {
                return Err(failed(failure.clone()));
            }
            if hello.speed.is_some() != first.speed.is_some() {
                let [has, has_not] = if first.speed.is_some() { [0, hello.rank] } else { [hello.rank, 0] };
                let message = format!("it says no --rank-speed, and rank {has} does: all say it, or none");
                return Err(failed(self.failure(has_not, USAGE, "Usage", message)));
            }
        }
        Ok(())
    }

    /// The stage that rank 0 has of a network; none for one that is alone.
    ///
    /// # Errors
    ///
    /// As for [`stages`](crate::stages).
    pub fn first_stage(&self, file: &ModelFile) -> Result<Option<Stage>, Error> {
        Ok(self.stages(file)?.first().copied())
    }

    /// Who has which layers, by bytes and the speeds that the ranks say, or which rows; nothing for one that is alone.
    fn stages(&self, file: &ModelFile) -> Result<Vec<Stage>, Error> {
        if !self.several() {
            return Ok(Vec::new());
        }
        let speeds: Vec<f64> = self.hellos.iter().map(|hello| hello.speed.unwrap_or(1.0)).collect();
        crate::stages(file, self.cut(), &speeds)
    }

    /// Loads a network over all ranks, `model` being its number on the command line. All open their files at the same time;
    /// where one cannot, none loads.
    ///
    /// `beside` are bytes that rank 0 has mapped of something else. They count with what the ranks of its host take; what it has in
    /// memory of its own is no longer among what its system says that there is.
    ///
    /// # Errors
    ///
    /// As for [`Engine::load`]; [`ChainError::Failed`] for what goes wrong in another rank, or where its file is another one;
    /// [`ChainError::OneAtATime`] while an engine is out.
    pub fn load(
        &self,
        model: usize,
        file: ModelFile,
        options: &LoadOptions,
        beside: u64,
        progress: impl FnMut(usize),
    ) -> Result<Engine, Error> {
        let Some(world) = &self.world else { return Engine::load(file, options, progress) };
        if self.ring().in_use {
            return Err(ChainError::OneAtATime.into());
        }
        let stages = self.stages(&file)?;
        let own = LoadOptions { stage: stages.first().copied(), ..options.clone() };
        let plan = own.plan(&file)?;
        let limit = MemoryLimit::of_this_machine(None).map(|limit| limit.bytes);
        let of_rank_0 = Answer::Planned { bytes: (plan.total_bytes() as u64).saturating_add(beside), limit };
        self.tell_all(&Order::Load(LoadOrder {
            model,
            fingerprint: fingerprint(&file),
            stages,
            ctx: plan.options.ctx,
            n_batch: plan.options.n_batch,
            n_sequences: plan.options.n_sequences,
            n_logits: plan.options.n_logits,
            kv_positions: plan.options.kv_positions,
            kv_type: plan.kv_type.name().to_owned(),
            threads: options.threads,
            tier: options.tier.map(|tier| Tier::name(tier).to_owned()),
        }))?;
        let planned = self.answers()?.and_then(|answers| self.admit_hosts(of_rank_0, answers));
        if let Err(failure) = planned {
            self.tell_all(&Order::Withdraw)?;
            return Err(failed(failure));
        }
        self.tell_all(&Order::Proceed)?;
        let engine = Engine::load(file, &own, progress);
        let (mut engine, answers) = match (engine, self.answers()?) {
            (Ok(engine), Ok(answers)) => (engine, answers),
            (engine, answers) => {
                self.tell_all(&Order::Withdraw)?;
                return Err(engine.err().or(answers.err().map(failed)).unwrap_or(ChainError::OneAtATime.into()));
            }
        };
        let note = |(hello, answer): (&Hello, Answer)| match answer {
            Answer::Loaded { notes } => {
                notes.iter().map(|n| format!("rank {} on {}: {n}", hello.rank, hello.host)).collect()
            }
            _ => Vec::new(),
        };
        let notes = self.hellos.iter().skip(1).zip(answers).flat_map(note).collect();
        *self.notes.lock().unwrap_or_else(PoisonError::into_inner) = notes;
        self.tell_all(&Order::Proceed)?;
        engine.join(Box::new(Ring::new(Arc::clone(world), Arc::clone(&self.ring))))?;
        Ok(engine)
    }

    /// Ends the job: all ranks leave with the same exit code, which comes back. It is `code`, or that of a failure that a
    /// rank has told and nobody has heard of.
    ///
    /// # Errors
    ///
    /// [`ChainError::Lost`] where a rank is gone.
    pub fn end(&self, code: u8) -> Result<(u8, Option<Failure>), Error> {
        let Some(world) = &self.world else { return Ok((code, None)) };
        let world = world.as_ref();
        let lost = |reason| lost(world, reason);
        self.tell_all(&Order::End)?;
        for rank in 1..world.size() {
            // What still comes round would keep its sender waiting.
            let wanted = [(Some(rank), Tag::Answer), (Some(world.size() - 1), Tag::Ring)];
            loop {
                let arrived = world::wait(world, &wanted).map_err(lost)?;
                let bytes = world::take(world, arrived).map_err(lost)?;
                if arrived.tag == Tag::Answer && serde_json::from_slice(&bytes).is_ok_and(|a: Answer| a == Answer::Yes)
                {
                    break;
                }
            }
        }
        // What has gone wrong when nobody waited for anything any more.
        let unheard = self.ring().failure.take().filter(|_| code == 0);
        let code = unheard.as_ref().map_or(code, |failure| failure.code);
        self.tell_all(&Order::Leave(code))?;
        Ok((code, unheard))
    }

    fn ring(&self) -> MutexGuard<'_, State> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_all(&self, order: &Order) -> Result<(), Error> {
        let Some(world) = &self.world else { return Ok(()) };
        (1..world.size()).try_for_each(|rank| tell(world.as_ref(), rank, Tag::Order, order))
    }

    /// An answer of each other rank, or the first that has failed.
    fn answers(&self) -> Result<Result<Vec<Answer>, Failure>, Error> {
        let Some(world) = &self.world else { return Ok(Ok(Vec::new())) };
        let mut answers = Ok(Vec::new());
        for rank in 1..world.size() {
            match (hear(world.as_ref(), rank, Tag::Answer)?, &mut answers) {
                (Answer::Failed(failure), Ok(_)) => answers = Err(failure),
                (answer, Ok(answers)) => answers.push(answer),
                (_, Err(_)) => {}
            }
        }
        Ok(answers)
    }

    /// Whether the plans of ranks on one host fit it together.
    fn admit_hosts(&self, of_rank_0: Answer, answers: Vec<Answer>) -> Result<(), Failure> {
        let mut hosts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (hello, answer) in self.hellos.iter().zip([of_rank_0].into_iter().chain(answers)) {
            let Answer::Planned { bytes, limit } = answer else { continue };
            let (sum, least) = hosts.entry(&hello.host).or_insert((0, u64::MAX));
            *sum = sum.saturating_add(bytes);
            *least = (*least).min(limit.unwrap_or(u64::MAX));
            if *sum > *least {
                let message = format!("the ranks up to this one on its host take {sum} bytes, and there are {least}");
                return Err(self.failure(hello.rank, MEMORY, "DoesNotFit", message));
            }
        }
        Ok(())
    }

    fn failure(&self, rank: usize, code: u8, kind: &str, message: String) -> Failure {
        let host = self.hellos.get(rank).map_or_else(String::new, |hello| hello.host.clone());
        Failure { rank, host, code, kind: kind.to_owned(), message }
    }
}

fn failed(failure: Failure) -> Error {
    ChainError::Failed(failure).into()
}
