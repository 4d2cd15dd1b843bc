//! A meter: one source, read often enough, and the energy between two readings.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::channel::Channel;
use crate::measurement::covers;
use crate::source::MOST_DOMAINS;
use crate::{Domain, DomainKind, Error, Host, Line, Measurement, Now, Source};

/// How long a reading waits for the counter to move before it gives up.
const ALIGN_AT_MOST: Duration = Duration::from_millis(5);
/// A machine that was suspended was so for longer than two readings of the clocks lie apart.
const SUSPENDED_LEAST: Duration = Duration::from_millis(100);

/// All sums of a meter at one time. Making one allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    now: Now,
    joules: [f64; MOST_DOMAINS],
    faults: [u32; MOST_DOMAINS],
    /// Of a reading at the edge of an update: the time of the last look before and that at it, which is how well the
    /// edge is known.
    edge: Option<Duration>,
}

impl Reading {
    /// When it was made.
    pub fn at(&self) -> Duration {
        self.now.at
    }

    /// Whether it was made at the edge of an update of the counter.
    pub fn aligned(&self) -> bool {
        self.edge.is_some()
    }
}

/// Reads all domains of one source. A thread of its own reads them so often that no counter wraps unseen.
#[derive(Debug)]
pub struct Meter {
    shared: Arc<Shared>,
    domains: Vec<Domain>,
    source: Source,
    covers: Option<DomainKind>,
    began: Option<Reading>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    host: Arc<dyn Host>,
    channels: Mutex<Vec<Channel>>,
    end: AtomicBool,
}

impl Shared {
    fn channels(&self) -> MutexGuard<'_, Vec<Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sample(&self) {
        let mut channels = self.channels();
        for channel in channels.iter_mut() {
            channel.sample(self.host.now());
        }
    }
}

impl Meter {
    pub(crate) fn new(source: Source, channels: Vec<Channel>, host: Arc<dyn Host>) -> Self {
        let domains: Vec<Domain> = channels.iter().map(|channel| channel.domain.clone()).collect();
        let covers = covers(&domains.iter().collect::<Vec<_>>());
        let shared = Shared { host, channels: Mutex::new(channels), end: AtomicBool::new(false) };
        Self { shared: Arc::new(shared), domains, source, covers, began: None, reader: None }
    }

    /// Where it reads.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Where it reads and what stands for the whole, as in `perf (package)`.
    pub fn name(&self) -> String {
        self.source.name_of(self.covers)
    }

    /// What it reads.
    pub fn domains(&self) -> &[Domain] {
        &self.domains
    }

    /// What stands for the whole.
    pub fn covers(&self) -> Option<DomainKind> {
        self.covers
    }

    /// How often it has to be read so that nothing is lost.
    pub fn interval(&self) -> Duration {
        self.shared.channels().iter().map(Channel::interval).min().unwrap_or(Duration::from_secs(1))
    }

    /// How often the sensor of the whole is brought up to date.
    pub fn update(&self) -> Duration {
        self.shared.channels().iter().map(Channel::update).max().unwrap_or_default()
    }

    /// Starts the thread that reads, and waits for its first reading; where it runs already, nothing happens. Whoever takes a [`Reading`] at least once
    /// in every [`Meter::interval`] needs no thread.
    ///
    /// # Errors
    /// [`Error::Thread`] where the system does not permit it.
    pub fn watch(&mut self) -> Result<(), Error> {
        if self.reader.is_some() {
            return Ok(());
        }
        let (shared, interval) = (Arc::clone(&self.shared), self.interval());
        let (begin, begun) = mpsc::sync_channel(1);
        let read = move || {
            // What a thread allocates when it starts is over with its first reading.
            shared.sample();
            if begin.send(()).is_err() {
                return;
            }
            while !shared.end.load(Ordering::Relaxed) {
                thread::park_timeout(interval);
                shared.sample();
            }
        };
        let thread = thread::Builder::new().name("rin-energy".to_owned()).spawn(read);
        self.reader = Some(thread.map_err(|error| Error::Thread { message: error.to_string() })?);
        begun.recv().map_err(|_| Error::Thread { message: "it ended before its first reading".to_owned() })
    }

    /// Begins a measurement, at the edge of an update where the sensor counts energy.
    ///
    /// # Errors
    /// As [`Meter::watch`].
    pub fn start(&mut self) -> Result<(), Error> {
        self.watch()?;
        self.began = Some(self.edge());
        Ok(())
    }

    /// Ends the measurement that [`Meter::start`] began.
    ///
    /// # Errors
    /// [`Error::NotStarted`]; [`Error::Suspended`] where the machine was suspended meanwhile. What is wrong with a
    /// domain stands in its line.
    pub fn stop(&mut self) -> Result<Measurement, Error> {
        let began = self.began.take().ok_or(Error::NotStarted)?;
        let ended = self.edge();
        self.between(&began, &ended)
    }

    /// All sums now. Allocates nothing unless a sensor fails.
    pub fn read(&self) -> Reading {
        let mut channels = self.shared.channels();
        let mut reading =
            Reading { now: self.shared.host.now(), joules: [0.0; MOST_DOMAINS], faults: [0; MOST_DOMAINS], edge: None };
        for ((channel, joules), faults) in channels.iter_mut().zip(&mut reading.joules).zip(&mut reading.faults) {
            channel.sample(self.shared.host.now());
            (*joules, *faults) = (channel.joules(), channel.faults());
        }
        reading
    }

    /// All sums at the edge of an update of the counter of the whole: reads until it moves, for 5 ms at most. Several
    /// packages do not move together; the edge is that of the first.
    pub fn edge(&self) -> Reading {
        let host = &self.shared.host;
        let began = host.now().at;
        let kind = self.covers();
        let mut last = self.read();
        let mut first = self.domains.iter().enumerate().filter(|(_, domain)| Some(domain.kind) == kind);
        let Some((place, _)) = first.next() else { return last };
        let counts = self.shared.channels().get(place).is_some_and(Channel::counts);
        if !counts {
            return last;
        }
        loop {
            let next = self.read();
            let moved = next.joules.get(place) != last.joules.get(place);
            if moved {
                return Reading { edge: Some(next.now.at.saturating_sub(last.now.at)), ..next };
            }
            last = next;
            if last.now.at.saturating_sub(began) >= ALIGN_AT_MOST {
                return last;
            }
        }
    }

    /// The energy of the whole between two readings, even where it is within its uncertainty. Allocates nothing unless
    /// that fails.
    ///
    /// # Errors
    /// As [`Meter::between`]; what is wrong with a domain of the whole; [`Error::NoTotal`] where only parts are measured.
    pub fn span(&self, began: &Reading, ended: &Reading) -> Result<Span, Error> {
        let time = elapsed(began, ended)?;
        let channels = self.shared.channels();
        let values = began.joules.iter().zip(&ended.joules).zip(began.faults.iter().zip(&ended.faults));
        let (mut joules, mut square, mut parts) = (0.0, 0.0, 0_usize);
        for (channel, ((from, to), faults)) in channels.iter().zip(values) {
            if Some(channel.domain.kind) != self.covers {
                continue;
            }
            if let Some(error) = channel.last_fault().filter(|_| faults.0 != faults.1) {
                return Err(error.clone());
            }
            let uncertainty = uncertainty(channel, to - from, time, [None, None]);
            joules += to - from;
            square += uncertainty * uncertainty;
            parts += 1;
        }
        if parts == 0 {
            return Err(Error::NoTotal { names: self.domains.iter().map(|domain| domain.name.clone()).collect() });
        }
        Ok(Span { joules, uncertainty: square.sqrt(), time })
    }

    /// The energy between two readings.
    ///
    /// # Errors
    /// [`Error::Suspended`] where the machine was suspended meanwhile.
    pub fn between(&self, began: &Reading, ended: &Reading) -> Result<Measurement, Error> {
        let time = elapsed(began, ended)?;
        let channels = self.shared.channels();
        let kind = self.covers();
        let several = self.domains.iter().filter(|domain| Some(domain.kind) == kind).count() > 1;
        let values = began.joules.iter().zip(&ended.joules).zip(began.faults.iter().zip(&ended.faults));
        let lines = channels.iter().zip(values).enumerate().map(|(place, (channel, ((from, to), faults)))| {
            // Only the first domain of the whole is read at its own edge.
            let first = self.domains.iter().position(|domain| Some(domain.kind) == kind) == Some(place);
            let edges = if first && !several { [began.edge, ended.edge] } else { [None, None] };
            line(channel, to - from, faults.0 != faults.1, time, edges)
        });
        Ok(Measurement::of(self.source, time, lines.collect()))
    }
}

/// The energy of the whole in a span, which may be short: sums of several say more than one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// In J.
    pub joules: f64,
    /// Standard uncertainty in J.
    pub uncertainty: f64,
    /// Length.
    pub time: Duration,
}

impl Span {
    /// Mean power, in W.
    pub fn watts(&self) -> f64 {
        self.joules / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

impl std::ops::Add for Span {
    type Output = Self;

    /// Two spans that were measured apart.
    fn add(self, other: Self) -> Self {
        Self {
            joules: self.joules + other.joules,
            uncertainty: self.uncertainty.hypot(other.uncertainty),
            time: self.time + other.time,
        }
    }
}

/// Standard uncertainty of a domain's energy: the step of the counter, and the power that the time between an update and
/// its reading holds at either end. Each is uniform over its width, so √(2/12) of the width over two ends.
fn uncertainty(channel: &Channel, joules: f64, time: Duration, edges: [Option<Duration>; 2]) -> f64 {
    let seconds = time.as_secs_f64();
    let watts = if seconds > 0.0 { joules / seconds } else { 0.0 };
    let end = |edge: Option<Duration>| watts * edge.unwrap_or(channel.update()).as_secs_f64();
    let step = channel.resolution();
    let [a, b] = edges.map(end);
    ((2.0 * step * step + a * a + b * b) / 12.0).sqrt()
}

/// One domain's energy, or why it is not known.
fn line(channel: &Channel, joules: f64, faulty: bool, time: Duration, edges: [Option<Duration>; 2]) -> Line {
    let domain = channel.domain.clone();
    let uncertainty = uncertainty(channel, joules, time, edges);
    let fault = channel.last_fault().filter(|_| faulty).cloned();
    let joules = match fault {
        Some(error) => Err(error),
        // Also where the sum stood still.
        None if joules <= uncertainty => Err(Error::BelowResolution { name: domain.name.clone(), joules, uncertainty }),
        None => Ok(joules),
    };
    Line { domain, joules, uncertainty }
}

/// The time between two readings, in which the machine was not suspended.
fn elapsed(began: &Reading, ended: &Reading) -> Result<Duration, Error> {
    let suspended = ended.now.suspended.saturating_sub(began.now.suspended);
    if suspended >= SUSPENDED_LEAST {
        return Err(Error::Suspended { seconds: suspended.as_secs_f64() });
    }
    Ok(ended.now.at.saturating_sub(began.now.at))
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            reader.thread().unpark();
            // A reader that panicked has nothing more to say.
            drop(reader.join());
        }
    }
}
