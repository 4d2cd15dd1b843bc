//! A model in a host program: loaded, with its settings and its sums.
//!
//! What `librin` and the Python package share, so that both give the same results and the same failures. A [`Session`]
//! holds at most one model: one that continues text, one from rows of numbers to rows of numbers, or a spiking one. A
//! [`Shared`] is a session that several threads use, one after another. [`Failure`] says of everything that can go wrong
//! what to answer a program ([`RinStatus`]), the name of the error, its place and its message. There is no unsafe code: the
//! boundaries to other languages lie above.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::panic, clippy::expect_used, clippy::unwrap_used))]

mod describe;
mod failure;
mod import;
mod rows;
mod session;
mod shared;
mod status;
mod text;
mod totals;
mod train;
mod write;

pub use describe::{Info, PlanBytes};
pub use failure::{Failure, invalid};
pub use import::{ImportRequest, import_model};
pub use rows::{Output, Ports};
pub use session::{Hear, Session, Silent, default_load_options};
pub use shared::Shared;
pub use status::RinStatus;
pub use text::{Generated, LogitRows};
pub use train::{TrainRequest, train};
pub use write::{DecoderRequest, TensorRequest, write_decoder, write_network};
