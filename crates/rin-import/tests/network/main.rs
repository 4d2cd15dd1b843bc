//! Networks from rows of numbers to rows of numbers: written, read, planned and run.

#[cfg(test)]
mod mlp;
#[cfg(test)]
mod model;
