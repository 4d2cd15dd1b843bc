//! Ranks in one process: they load, run, fail and end together.
#![expect(clippy::unwrap_used, reason = "a test")]

use rin_cluster::{Failure, Follower, Hello, LoadOrder, Program, Ranks, Tag, World, in_memory};
use rin_engine::chain::ChainError;
use rin_engine::topology::Policy;
use rin_engine::{Engine, Error, LoadOptions};
use rin_kernels::Tier;
use rin_model::ModelFile;
use rin_testkit::data::conformance;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, spawn};

const MODEL: &str = "models/tiny-llama-b32/tiny-llama-b32-q8_0.gguf";
const OTHER: &str = "models/tiny-qwen2/tiny-qwen2-bf16.gguf";

fn options() -> LoadOptions {
    LoadOptions { threads: Some(1), affinity: Policy::None, ctx: Some(256), ..LoadOptions::default() }
}

fn open(model: &str) -> ModelFile {
    ModelFile::open(&conformance(model)).unwrap()
}

fn hello(world: &dyn World) -> Hello {
    Hello {
        rank: world.rank(),
        host: world.host(),
        pid: std::process::id(),
        version: "1".to_owned(),
        speed: None,
        failure: None,
    }
}

/// A rank of a test: another tier for each second one, and the model that it has.
struct Of {
    rank: usize,
    model: String,
    heard: Arc<Mutex<Vec<(usize, u32)>>>,
}

impl Of {
    fn fails(&self, message: String) -> Failure {
        Failure { rank: self.rank, host: "here".to_owned(), code: 7, kind: "Test".to_owned(), message }
    }
}

impl Program for Of {
    fn open(&mut self, order: &LoadOrder) -> Result<(ModelFile, LoadOptions), Failure> {
        if self.model.is_empty() {
            return Err(self.fails("it has lost its file".to_owned()));
        }
        assert_eq!(order.model, 5);
        Ok((open(&self.model), LoadOptions { tier: (self.rank % 2 == 1).then_some(Tier::Scalar), ..options() }))
    }

    fn failure(&self, error: Error) -> Failure {
        self.fails(error.to_string())
    }

    fn hear(&mut self, noted: u32) -> Result<(), Error> {
        self.heard.lock().unwrap().push((self.rank, noted));
        Ok(())
    }
}

/// Ranks 1 and up, with the models that they have.
struct Job {
    ranks: Ranks,
    others: Vec<JoinHandle<Result<u8, Error>>>,
    heard: Arc<Mutex<Vec<(usize, u32)>>>,
}

impl Job {
    fn new(models: &[&str], change: fn(&mut Hello)) -> Self {
        let mut worlds = in_memory(models.len() + 1).into_iter();
        let first = worlds.next().unwrap();
        let heard = Arc::default();
        let start = |(world, model): (Arc<dyn World>, &&str)| {
            let mut program = Of { rank: world.rank(), model: (*model).to_owned(), heard: Arc::clone(&heard) };
            spawn(move || {
                let mut hello = hello(world.as_ref());
                change(&mut hello);
                Follower::greet(world, &hello)?.serve(&mut program)
            })
        };
        let others = worlds.zip(models).map(start).collect();
        let own = hello(first.as_ref());
        Self { ranks: Ranks::gather(first, own).unwrap(), others, heard }
    }

    fn sharing_rows(self, tp: usize) -> Self {
        Self { ranks: self.ranks.sharing_rows(tp), ..self }
    }

    fn load(&self) -> Result<Engine, Error> {
        self.ranks.load(5, open(MODEL), &options(), 0, |_| {})
    }

    /// The exit codes of all.
    fn end(self, code: u8) -> (u8, Option<Failure>) {
        let (code, unheard) = self.ranks.end(code).unwrap();
        for other in self.others {
            assert_eq!(other.join().unwrap().unwrap(), code, "all end with one code");
        }
        (code, unheard)
    }
}

/// The bits of the logits of a text.
fn bits(engine: &mut Engine) -> Vec<u32> {
    let ids: Vec<u32> = (0..150).map(|i| (i * 37) % 280).collect();
    let sequence = engine.sequence().unwrap();
    let mut bits = Vec::new();
    engine.feed_all(&sequence, &ids, |row| bits.extend(row.iter().map(|x| x.to_bits()))).unwrap();
    engine.note(3).unwrap();
    engine.release(sequence);
    bits
}

fn refusal(found: Result<Engine, Error>) -> Failure {
    match found {
        Err(Error::Chain(ChainError::Failed(failure))) => failure,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was loaded"),
    }
}

#[test]
fn any_number_of_ranks_has_the_bits_of_one() {
    let want = bits(&mut Engine::load(open(MODEL), &options(), |_| {}).unwrap());
    for n in 1..=3 {
        let job = Job::new(&vec![MODEL; n - 1], |_| {});
        job.ranks.check().unwrap();
        assert_eq!((job.ranks.count(), job.ranks.several()), (n, n > 1));
        // One after the other; two at a time are refused.
        for _ in 0..2 {
            let mut engine = job.load().unwrap();
            if n > 1 {
                assert!(matches!(job.load(), Err(Error::Chain(ChainError::OneAtATime))));
            }
            assert!(bits(&mut engine) == want, "{n} ranks");
        }
        let heard = Arc::clone(&job.heard);
        assert_eq!(job.end(6), (6, None));
        let mut heard = heard.lock().unwrap().clone();
        heard.sort_unstable();
        assert_eq!(heard, (1..n).flat_map(|rank| [(rank, 3); 2]).collect::<Vec<_>>());
    }
}

#[test]
fn ranks_that_share_rows_have_the_bits_of_one() {
    let want = bits(&mut Engine::load(open(MODEL), &options(), |_| {}).unwrap());
    let job = Job::new(&[MODEL], |_| {}).sharing_rows(2);
    job.ranks.check().unwrap();
    for _ in 0..2 {
        assert!(bits(&mut job.load().unwrap()) == want);
    }
    // What goes wrong in one while the others wait for it ends all.
    let mut engine = job.load().unwrap();
    let sequence = engine.sequence().unwrap();
    engine.feed(&sequence, &[1, 2, 3]).unwrap();
    let failed =
        refusal(engine.save(&sequence, &[1, 2, 3], Path::new("/no such folder/state")).map(|()| panic!("saved")));
    assert_eq!((failed.rank, failed.code), (1, 7));
    drop(engine);
    assert_eq!(job.end(7), (7, None));
}

#[test]
fn as_many_ranks_share_rows_as_there_are() {
    let refused = |job: &Job| job.ranks.check().unwrap_err().to_string();
    let job = Job::new(&[MODEL, MODEL], |_| {}).sharing_rows(2);
    assert!(
        refused(&job).starts_with("--tp is 2, but must be 3, the number of ranks, or left out"),
        "{}",
        refused(&job)
    );
    job.end(2);
    let job = Job::new(&[MODEL, MODEL], |hello| hello.speed = Some(1.0)).sharing_rows(3);
    assert_eq!(refused(&job), "--rank-speed is given, but must be left out beside --tp: all ranks have as many rows");
    job.end(2);
    // As many as there are, and more than the network has key heads.
    let job = Job::new(&[MODEL, MODEL], |_| {}).sharing_rows(3);
    job.ranks.check().unwrap();
    let few = job.load().map(|_| ()).unwrap_err().to_string();
    assert!(few.starts_with("--tp is 3, but must be at most 2"), "{few}");
    job.end(2);
    let alone = Ranks::alone().sharing_rows(2).check().unwrap_err().to_string();
    assert!(alone.contains("start more of them, as mpirun -n 2"), "{alone}");
}

#[test]
fn ranks_that_do_not_belong_together_are_refused_by_name() {
    // Another file; none at all.
    let job = Job::new(&[MODEL, OTHER], |_| {});
    let refused = refusal(job.load());
    assert_eq!((refused.rank, refused.code, refused.kind.as_str()), (2, 2, "OtherModel"));
    assert!(refused.message.contains(OTHER), "{refused}");
    job.end(refused.code);
    let job = Job::new(&["", MODEL], |_| {});
    let refused = refusal(job.load());
    assert_eq!(refused.to_string(), "rank 1 on here: it has lost its file");
    assert_eq!(refused.code, 7);
    job.end(refused.code);
    // A host that has no room beside what the first one has mapped.
    let job = Job::new(&[MODEL], |_| {});
    let refused = refusal(job.ranks.load(5, open(MODEL), &options(), u64::MAX, |_| {}));
    assert_eq!((refused.rank, refused.code, refused.kind.as_str()), (0, 4, "DoesNotFit"));
    drop(job.load().unwrap());
    job.end(0);
    // Another version, a speed of some, a command line that cannot be done.
    let versions: fn(&mut Hello) = |hello| hello.version = format!("{}", hello.rank);
    let speeds: fn(&mut Hello) = |hello| hello.speed = (hello.rank == 2).then_some(3.0);
    let lines: fn(&mut Hello) = |hello| {
        let (host, kind, message) = (hello.host.clone(), "Usage".to_owned(), "what is --tire?".to_owned());
        hello.failure = (hello.rank == 1).then_some(Failure { rank: 1, host, code: 2, kind, message });
    };
    for (change, rank, words) in [(versions, 2, "runs rin 2"), (speeds, 0, "no --rank-speed"), (lines, 1, "--tire")] {
        let job = Job::new(&[MODEL, MODEL], change);
        let refused = refusal(job.ranks.check().and_then(|()| job.load()));
        assert_eq!(refused.rank, rank);
        assert!(refused.to_string().contains(words), "{refused}");
        job.end(2);
    }
}

#[test]
fn what_goes_wrong_in_a_rank_is_told_by_the_first() {
    let job = Job::new(&[MODEL, MODEL], |_| {});
    let mut engine = job.load().unwrap();
    let sequence = engine.sequence().unwrap();
    engine.feed(&sequence, &[1, 2, 3]).unwrap();
    let nowhere = PathBuf::from("/no such folder/state");
    let failed = refusal(engine.save(&sequence, &[1, 2, 3], &nowhere).map(|()| panic!("saved")));
    assert_eq!((failed.rank, failed.code), (1, 7));
    assert!(failed.message.contains("no such folder"), "{failed}");
    // And again for whoever goes on.
    assert_eq!(refusal(engine.feed(&sequence, &[4]).map(|_| panic!("fed"))), failed);
    drop(engine);
    assert_eq!(job.end(7), (7, None));
}

#[test]
fn what_nobody_has_heard_of_decides_how_the_job_ends() {
    let mut worlds = in_memory(2);
    let (other, first) = (worlds.pop().unwrap(), worlds.pop().unwrap());
    let own = hello(first.as_ref());
    let program = Of { rank: 1, model: MODEL.to_owned(), heard: Arc::default() };
    let failure = program.fails("too late".to_owned());
    let told = serde_json::to_vec(&failure).unwrap();
    let serving = spawn(move || {
        let follower = Follower::greet(Arc::clone(&other), &hello(other.as_ref())).unwrap();
        // As a rank would that fails after the last step.
        other.send(0, Tag::Failure, &told).unwrap();
        follower.serve(&mut { program })
    });
    let ranks = Ranks::gather(first, own).unwrap();
    drop(ranks.load(5, open(MODEL), &options(), 0, |_| {}).unwrap());
    assert_eq!(ranks.end(0).unwrap(), (7, Some(failure)));
    assert_eq!(serving.join().unwrap().unwrap(), 7);
}

#[test]
fn a_rank_that_is_gone_is_told() {
    let mut worlds = in_memory(2);
    let (other, first) = (worlds.pop().unwrap(), worlds.pop().unwrap());
    drop(Follower::greet(other, &hello(first.as_ref())).unwrap());
    let ranks = Ranks::gather(Arc::clone(&first), hello(first.as_ref())).unwrap();
    let lost = ranks.load(5, open(MODEL), &options(), 0, |_| {}).unwrap_err();
    assert!(matches!(lost, Error::Chain(ChainError::Lost { .. })), "{lost}");
}

#[test]
fn a_fingerprint_is_of_what_the_network_holds() {
    let print = |path: &Path| rin_cluster::fingerprint(&ModelFile::open(path).unwrap());
    let path = conformance(MODEL);
    assert_eq!(print(&path), print(&path));
    assert_ne!(print(&path), print(&conformance(OTHER)));
    // One byte at the end of the last tensor.
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let changed = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("changed.gguf");
    std::fs::write(&changed, bytes).unwrap();
    assert_ne!(print(&path), print(&changed));
}
