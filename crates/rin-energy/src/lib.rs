//! Joules for a span of work, from the sensors that a machine has, with an uncertainty; or the plain statement that there
//! is none.
//!
//! [`Sensors`] looks for what there is and says why the rest is not. A [`Meter`] reads one source, on a thread of its own
//! so often that no counter wraps unseen, and tells the energy of all domains between two [`Reading`]s. What is not
//! known is an [`Error`], never a zero.
//! [`protocol`] repeats work in an order that cancels drift and reports intervals, [`environment`] says whether the
//! machine stayed the same meanwhile, [`attribution`] shares energy out among kinds of work, [`tuner`] decides how
//! to meet a power cap, a [`Pacer`] does it.
//!
//! ```no_run
//! # fn main() -> Result<(), rin_energy::Error> {
//! let sensors = rin_energy::Sensors::discover("/");
//! let mut meter = sensors.meter()?;
//! meter.start()?;
//! let sum: u64 = (0..1_000_000_000).sum();
//! let used = meter.stop()?;
//! println!("{sum}: {:.3} J ± {:.3} J from {}", used.joules()?, used.uncertainty, used.source);
//! # Ok(())
//! # }
//! ```
//!
//! Nothing is subtracted, scaled by a share of the processors or guessed: a figure is what the named domains took, for
//! everything that ran on them.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::panic, clippy::expect_used, clippy::unwrap_used))]

pub mod attribution;
mod channel;
mod counter;
mod domain;
pub mod environment;
mod error;
mod host;
mod measurement;
mod meter;
mod pacer;
pub mod protocol;
mod record;
mod sensors;
mod source;
pub mod stats;
mod text;
pub mod tuner;

pub use domain::{Domain, DomainKind};
pub use error::Error;
pub use host::{Handle, Host, Now, SystemHost};
pub use measurement::{Line, Measurement};
pub use meter::{Meter, Reading, Span};
pub use pacer::Pacer;
pub use record::{Estimate, PowerRange, Record, Status};
pub use sensors::{Sensors, SourceReport, SourceState};
pub use source::Source;
