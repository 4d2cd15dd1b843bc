//! Networks from rows of numbers to rows of numbers: written, imported, read, planned and run.

#[cfg(test)]
mod causal;
#[cfg(test)]
mod encoder;
#[cfg(test)]
mod foreign;
#[cfg(test)]
mod integer;
#[cfg(test)]
mod legacy;
#[cfg(test)]
mod mlp;
#[cfg(test)]
mod model;
#[cfg(test)]
mod spiking;
#[cfg(test)]
mod whole;
