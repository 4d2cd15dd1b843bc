//! ONNX models: imported, planned and run.

#[cfg(test)]
mod archive;
#[cfg(test)]
mod book;
#[cfg(test)]
mod data;
#[cfg(test)]
mod models;
#[cfg(test)]
mod node_tests;
#[cfg(test)]
mod real;
#[cfg(test)]
mod refusals;
