//! Networks from rows of numbers to rows of numbers: written, read, planned and run.

mod mlp;
mod model;
