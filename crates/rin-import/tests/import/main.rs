//! Imports of real and of tiny models: what comes out runs as what went in, and what fails leaves nothing behind.

#[cfg(test)]
mod blocks;
#[cfg(test)]
mod equal;
#[cfg(test)]
mod export;
#[cfg(test)]
mod export_places;
#[cfg(test)]
mod export_tokenizers;
#[cfg(test)]
mod models;
#[cfg(test)]
mod parts;
#[cfg(test)]
mod places;
#[cfg(test)]
mod quantized;
#[cfg(test)]
mod rwkv;
#[cfg(test)]
mod written;
