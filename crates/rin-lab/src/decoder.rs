//! A plain decoder whose parts can be exchanged: softmax, norms, gates of the feed-forward network, weights.
//!
//! It computes what the engine computes for a llama-style model without quantised activations, window by window, with the
//! engine's own float products, and everything else written out. It is the laboratory's yardstick, not a fast path: what a
//! component does to the loss of a trained model is seen by exchanging that component alone.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rin_engine::eval::LogSoftmax;
use rin_engine::weights::{matrix_values, vector_values};
use rin_kernels::ops::linear::{Epilogue, Input, Linear};
use rin_kernels::pack::{LANES, pack_panel};
use rin_kernels::{Cpu, Format, MatMut};
use rin_model::{Config, ModelFile, RopeScaling};

use crate::Error;
use crate::dct::{TIME, TimeCoder};
use crate::experiment::Context;
use crate::norm::{Bspn, IntRmsNorm, MAX_ELEMENT};
use crate::random::Random;
use crate::softmax::{self, IntSoftmax, UNIT_BITS};

/// How scores become weights.
#[derive(Clone, Debug, PartialEq)]
pub enum Softmax {
    /// In double precision.
    Float,
    /// [`IntSoftmax::exact`].
    Exact(IntSoftmax),
    /// [`IntSoftmax::denominator_power`].
    DenominatorPower(IntSoftmax),
    /// [`IntSoftmax::powers_only`].
    PowersOnly(IntSoftmax),
}

/// How rows are normalised.
#[derive(Clone, Debug, PartialEq)]
pub enum Norm {
    /// RMSNorm in single precision.
    Float,
    /// [`IntRmsNorm`] on elements rounded to so many bits of the row's largest, with 16 fractional bits of result.
    Integer {
        /// Bits of an element's magnitude.
        bits: u32,
    },
    /// [`Bspn`], times constants that belong to the gains.
    PowerOfTwo {
        /// Which.
        norm: Bspn,
        /// The constant of each norm of the network, in the order in which they are computed.
        gains: Vec<f64>,
    },
}

/// Which hidden values of the feed-forward network are left out, their weights with them.
#[derive(Clone, Debug, PartialEq)]
pub enum Gate {
    /// None.
    All,
    /// Where the product of gate and up part is smaller than the layer's threshold: columns of the down matrix.
    Hidden(Vec<f32>),
    /// Where the activated gate is smaller than the layer's threshold: rows of the up matrix and columns of the down matrix.
    Activation(Vec<f32>),
    /// A random share, for comparison.
    Random {
        /// The share that is left out.
        share: f64,
        /// Of the random numbers.
        seed: u32,
    },
}

/// What is computed how.
#[derive(Clone, Debug, PartialEq)]
pub struct Arithmetic {
    /// The softmax of attention.
    pub softmax: Softmax,
    /// The norms.
    pub norm: Norm,
    /// The gates.
    pub gate: Gate,
    /// How keys and values are kept, but for those of the last tokens; none: in floats.
    pub cache: Option<TimeCoder>,
}

impl Arithmetic {
    /// Everything in floats.
    pub const FLOAT: Self = Self { softmax: Softmax::Float, norm: Norm::Float, gate: Gate::All, cache: None };
}

/// The magnitudes of values, ascending.
pub fn magnitudes(values: &[f32]) -> Vec<f32> {
    let mut sizes: Vec<f32> = values.iter().map(|x| x.abs()).collect();
    sizes.sort_unstable_by(f32::total_cmp);
    sizes
}

/// The number below which a share of ascending numbers lies; infinity for all of them.
pub fn cut_off(ascending: &[f32], share: f64) -> f32 {
    ascending.get((ascending.len() as f64 * share) as usize).copied().unwrap_or(f32::INFINITY)
}

/// A matrix of `rows` outputs.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Its name in the file.
    pub name: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    values: Vec<f32>,
    panels: Vec<u8>,
}

impl Matrix {
    fn read(file: &ModelFile, name: &str) -> Result<Self, Error> {
        let missing = |what: &str| Error::input("model", format!("{name}: {what}"));
        let tensor = file.tensor(name).ok_or_else(|| missing("no such tensor"))?;
        let [rows, cols] = tensor.shape[..] else { return Err(missing("no matrix")) };
        let values = matrix_values(tensor, file.bytes(tensor))?;
        let (rows, cols) = (rows as usize, cols as usize);
        Self::of(name, rows, cols, values)
    }

    pub(crate) fn of(name: &str, rows: usize, cols: usize, values: Vec<f32>) -> Result<Self, Error> {
        let mut matrix = Self { name: name.to_owned(), rows, cols, values, panels: Vec::new() };
        matrix.pack()?;
        Ok(matrix)
    }

    /// Brings the panels up to date with the values.
    fn pack(&mut self) -> Result<(), Error> {
        let bytes: Vec<u8> = self.values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let row_bytes = 4 * self.cols;
        let misfit = || Error::input("model", format!("{}: a shape that does not fit", self.name));
        let panel_bytes = Format::F32.panel_bytes(self.cols).ok_or_else(misfit)?;
        let mut panels = vec![0; Format::F32.packed_bytes(self.rows, self.cols).ok_or_else(misfit)?];
        for (p, panel) in panels.chunks_exact_mut(panel_bytes).enumerate() {
            let row = |lane: usize| {
                let from = (p * LANES + lane) * row_bytes;
                bytes.get(from..from + row_bytes)
            };
            let number = |_| Error::input("model", format!("{}: a weight that is no number", self.name));
            pack_panel(Format::F32, self.cols, row, panel).map_err(number)?;
        }
        self.panels = panels;
        Ok(())
    }

    /// The weights, `rows × cols`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// `x (tokens, cols)` times the matrix: `(tokens, rows)`.
    pub(crate) fn times(&self, linear: &Linear, x: &[f32]) -> Vec<f32> {
        let tokens = x.len() / self.cols;
        let mut y = vec![0.0; tokens * self.rows];
        let input = Input::Float { x, cols: self.cols };
        linear.run(&mut MatMut::new(&mut y, tokens, self.rows), &self.panels, input, Epilogue::default());
        y
    }
}

#[derive(Clone, Debug)]
struct Layer {
    attn_norm: Vec<f32>,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    o: Matrix,
    ffn_norm: Vec<f32>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

/// A decoder in floats.
#[derive(Clone, Debug)]
pub struct Decoder {
    config: Config,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    linear: Linear,
}

/// What a pass over a window saw besides the logits.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The input of each norm, in the order in which they are computed, `(tokens, dim)`.
    pub norms: Vec<Vec<f32>>,
    /// Per layer, keys after rotation and values, each `(tokens, kv_dim)`.
    pub cache: Vec<[Vec<f32>; 2]>,
    /// Per layer, the hidden values of the feed-forward network before gating, `(tokens, ffn_dim)`.
    pub hidden: Vec<Vec<f32>>,
    /// Per layer, its activated gates, `(tokens, ffn_dim)`.
    pub activation: Vec<Vec<f32>>,
    /// Hidden values that were left out, and all of them.
    pub gated: (u64, u64),
}

impl Decoder {
    /// Reads a model.
    ///
    /// # Errors
    /// [`Error::Input`] for a model with biases, a window, untied embeddings or stretched rotations, which this does not
    /// compute.
    pub fn read(file: &ModelFile) -> Result<Self, Error> {
        let config = file.config()?.clone();
        let c = &config;
        let plain = !c.qkv_bias
            && !c.attn_output_bias
            && !c.mlp_bias
            && c.tied_embeddings
            && c.window.is_none()
            && c.rope.scaling == RopeScaling::None
            && c.rope.dims == c.head_dim;
        if !plain {
            return Err(Error::input("model", "it has parts that the laboratory's decoder does not have"));
        }
        let vector = |name: &str| -> Result<Vec<f32>, Error> {
            let tensor = file.tensor(name).ok_or_else(|| Error::input("model", format!("it lacks {name}")))?;
            Ok(vector_values(tensor, file.bytes(tensor))?)
        };
        let layers = (0..c.n_layers).map(|i| {
            let matrix = |part: &str| Matrix::read(file, &format!("blk.{i}.{part}.weight"));
            Ok(Layer {
                attn_norm: vector(&format!("blk.{i}.attn_norm.weight"))?,
                q: matrix("attn_q")?,
                k: matrix("attn_k")?,
                v: matrix("attn_v")?,
                o: matrix("attn_output")?,
                ffn_norm: vector(&format!("blk.{i}.ffn_norm.weight"))?,
                gate: matrix("ffn_gate")?,
                up: matrix("ffn_up")?,
                down: matrix("ffn_down")?,
            })
        });
        let layers = layers.collect::<Result<Vec<_>, Error>>()?;
        let embedding = Matrix::read(file, "token_embd.weight")?;
        let norm = vector("output_norm.weight")?;
        Ok(Self { layers, embedding, norm, linear: Linear::select(Format::F32, &Cpu::detect()), config })
    }

    /// What the model is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The matrices of the layers.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.layers.iter().flat_map(|l| [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down])
    }

    /// Exchanges the weights of the layers' matrices.
    ///
    /// # Errors
    /// [`Error::Input`] where `change` makes other numbers of them or what is no number.
    pub fn change_weights(&mut self, mut change: impl FnMut(&Matrix) -> Result<Vec<f32>, Error>) -> Result<(), Error> {
        let matrices = self.layers.iter_mut();
        let matrices =
            matrices.flat_map(|l| [&mut l.q, &mut l.k, &mut l.v, &mut l.o, &mut l.gate, &mut l.up, &mut l.down]);
        for matrix in matrices {
            let values = change(matrix)?;
            if values.len() != matrix.values.len() {
                return Err(Error::input("weights", format!("{}: another number of them", matrix.name)));
            }
            matrix.values = values;
            matrix.pack()?;
        }
        Ok(())
    }

    /// Logits `(tokens, vocab)` of a window that begins at position 0; `seen` keeps what it is given room for.
    ///
    /// # Errors
    /// [`Error::Input`] for an id beyond the vocabulary; what the arithmetic refuses.
    pub fn logits(&self, ids: &[u32], how: &Arithmetic, mut seen: Option<&mut Seen>) -> Result<Vec<f32>, Error> {
        let c = &self.config;
        let mut x = Vec::with_capacity(ids.len() * c.dim);
        for id in ids {
            let row = self.embedding.values.chunks_exact(c.dim).nth(*id as usize);
            x.extend_from_slice(row.ok_or_else(|| Error::input("tokens", format!("{id} of {}", c.vocab)))?);
        }
        for (at, layer) in self.layers.iter().enumerate() {
            let h = self.normed(&x, &layer.attn_norm, how, 2 * at, seen.as_deref_mut())?;
            let (mut q, mut k) = (layer.q.times(&self.linear, &h), layer.k.times(&self.linear, &h));
            let v = layer.v.times(&self.linear, &h);
            self.rotate(&mut q, c.n_heads);
            self.rotate(&mut k, c.n_kv_heads);
            let a = self.attend(at, [&q, &k, &v], how)?;
            if let Some(seen) = seen.as_deref_mut() {
                seen.cache.push([k, v]);
            }
            add(&mut x, &layer.o.times(&self.linear, &a));

            let h = self.normed(&x, &layer.ffn_norm, how, 2 * at + 1, seen.as_deref_mut())?;
            let (mut f, up) = (layer.gate.times(&self.linear, &h), layer.up.times(&self.linear, &h));
            for gate in &mut f {
                *gate /= 1.0 + rin_kernels::math::exp(-*gate);
            }
            if let Some(seen) = seen.as_deref_mut() {
                seen.activation.push(f.clone());
            }
            let left_out = gate_activation(&mut f, at, &how.gate);
            f.iter_mut().zip(&up).for_each(|(f, up)| *f *= up);
            if let Some(seen) = seen.as_deref_mut() {
                seen.hidden.push(f.clone());
            }
            let left_out = left_out + gate_hidden(&mut f, at, &how.gate);
            if let Some(seen) = seen.as_deref_mut() {
                seen.gated.0 += left_out;
                seen.gated.1 += f.len() as u64;
            }
            add(&mut x, &layer.down.times(&self.linear, &f));
        }
        let h = self.normed(&x, &self.norm, how, 2 * self.layers.len(), seen)?;
        Ok(self.embedding.times(&self.linear, &h))
    }

    fn normed(
        &self,
        x: &[f32],
        gain: &[f32],
        how: &Arithmetic,
        site: usize,
        seen: Option<&mut Seen>,
    ) -> Result<Vec<f32>, Error> {
        if let Some(seen) = seen {
            seen.norms.push(x.to_vec());
        }
        let mut out = Vec::with_capacity(x.len());
        for row in x.chunks_exact(gain.len()) {
            match &how.norm {
                Norm::Float => {
                    let squares: f64 = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
                    let scale = 1.0 / (squares / gain.len() as f64 + f64::from(self.config.norm_eps)).sqrt();
                    out.extend(row.iter().zip(gain).map(|(x, g)| (f64::from(*x) * scale) as f32 * g));
                }
                Norm::Integer { bits } => {
                    let most = row.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                    let unit = f64::from(most) / f64::from((1_i32 << *bits.min(&20)).min(MAX_ELEMENT));
                    let unit = if unit > 0.0 { unit } else { 1.0 };
                    let integers: Vec<i32> = row.iter().map(|x| libm::round(f64::from(*x) / unit) as i32).collect();
                    let mut normed = vec![0; row.len()];
                    IntRmsNorm::new(row.len(), 0, 16)?.run(&integers, &mut normed)?;
                    out.extend(normed.iter().zip(gain).map(|(x, g)| *x as f32 / 65_536.0 * g));
                }
                Norm::PowerOfTwo { norm, gains } => {
                    let wide: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
                    let factor = norm.factor(&wide) * gains.get(site).copied().unwrap_or(1.0);
                    out.extend(wide.iter().zip(gain).map(|(x, g)| (x * factor) as f32 * g));
                }
            }
        }
        Ok(out)
    }

    /// Turns pairs of neighbours, as the runtime's order has them.
    fn rotate(&self, x: &mut [f32], heads: usize) {
        let dim = self.config.head_dim;
        let base = f64::from(self.config.rope.base);
        let frequencies: Vec<f64> = (0..dim / 2).map(|i| libm::pow(base, -2.0 * i as f64 / dim as f64)).collect();
        for (position, row) in x.chunks_exact_mut(heads * dim).enumerate() {
            for (i, frequency) in frequencies.iter().enumerate() {
                let angle = position as f64 * frequency;
                let (sin, cos) = (libm::sin(angle) as f32, libm::cos(angle) as f32);
                for head in row.chunks_exact_mut(dim) {
                    let (a, b) = (head[2 * i], head[2 * i + 1]);
                    head[2 * i] = a * cos - b * sin;
                    head[2 * i + 1] = a * sin + b * cos;
                }
            }
        }
    }

    /// Attention of layer `at`, head by head; the products with keys and values are the engine's too.
    fn attend(&self, at: usize, [q, k, v]: [&[f32]; 3], how: &Arithmetic) -> Result<Vec<f32>, Error> {
        let c = &self.config;
        let (dim, q_dim, kv_dim, group) = (c.head_dim, c.q_dim(), c.kv_dim(), c.n_heads / c.n_kv_heads);
        let tokens = q.len() / q_dim;
        let scale = 1.0 / (dim as f64).sqrt();
        let mut out = vec![0.0; q.len()];
        for kv_head in 0..c.n_kv_heads {
            let part = |x: &[f32]| -> Vec<f32> {
                x.chunks_exact(kv_dim).flat_map(|row| row[kv_head * dim..][..dim].to_vec()).collect()
            };
            let (keys, values) = (part(k), part(v));
            // What is kept of tokens that are long past, beside the last ones as they are.
            let kept = how.cache.as_ref().map(|coder| [coder.run(at, 0, &keys, dim), coder.run(at, 1, &values, dim)]);
            let kept = kept.map(|[k, v]| Past::new(k, &v, dim)).transpose()?;
            let last = Past::new(keys, &values, dim)?;
            for head in kv_head * group..(kv_head + 1) * group {
                let queries: Vec<f32> =
                    q.chunks_exact(q_dim).flat_map(|row| row[head * dim..][..dim].to_vec()).collect();
                let mut scores = last.keys.times(&self.linear, &queries);
                if let Some(kept) = &kept {
                    let past = kept.keys.times(&self.linear, &queries);
                    let rows = scores.chunks_exact_mut(tokens).zip(past.chunks_exact(tokens));
                    for (t, (to, from)) in rows.enumerate() {
                        let complete = t / TIME * TIME;
                        to[..complete].copy_from_slice(&from[..complete]);
                    }
                }
                for (t, row) in scores.chunks_exact_mut(tokens).enumerate() {
                    let seen: Vec<f64> = row[..=t].iter().map(|x| f64::from(*x) * scale).collect();
                    row[..=t].copy_from_slice(&weights(&how.softmax, &seen)?);
                    row[t + 1..].fill(0.0);
                }
                let mut found = vec![0.0; queries.len()];
                if let Some(kept) = &kept {
                    let mut past = vec![0.0; scores.len()];
                    for (t, (from, to)) in
                        scores.chunks_exact_mut(tokens).zip(past.chunks_exact_mut(tokens)).enumerate()
                    {
                        let complete = t / TIME * TIME;
                        to[..complete].copy_from_slice(&from[..complete]);
                        from[..complete].fill(0.0);
                    }
                    found = kept.values.times(&self.linear, &past);
                }
                add(&mut found, &last.values.times(&self.linear, &scores));
                for (out, found) in out.chunks_exact_mut(q_dim).zip(found.chunks_exact(dim)) {
                    out[head * dim..][..dim].copy_from_slice(found);
                }
            }
        }
        Ok(out)
    }
}

/// Keys `(tokens, dim)` and values `(dim, tokens)` of a head.
struct Past {
    keys: Matrix,
    values: Matrix,
}

impl Past {
    fn new(keys: Vec<f32>, values: &[f32], dim: usize) -> Result<Self, Error> {
        let tokens = keys.len() / dim;
        let turned = (0..dim).flat_map(|i| values.iter().skip(i).step_by(dim).copied()).collect();
        Ok(Self { keys: Matrix::of("keys", tokens, dim, keys)?, values: Matrix::of("values", dim, tokens, turned)? })
    }
}

fn add(x: &mut [f32], more: &[f32]) {
    x.iter_mut().zip(more).for_each(|(x, more)| *x += more);
}

fn weights(softmax: &Softmax, scores: &[f64]) -> Result<Vec<f32>, Error> {
    let unit = 1.0 / (1_u32 << UNIT_BITS) as f32;
    let integers = match softmax {
        Softmax::Float => return Ok(softmax::float(scores).into_iter().map(|p| p as f32).collect()),
        Softmax::Exact(how) => how.exact(&how.exponents(scores)?),
        Softmax::DenominatorPower(how) => how.denominator_power(&how.exponents(scores)?),
        Softmax::PowersOnly(how) => how.powers_only(&how.exponents(scores)?),
    };
    Ok(integers.into_iter().map(|w| w as f32 * unit).collect())
}

fn gate_activation(f: &mut [f32], layer: usize, gate: &Gate) -> u64 {
    match gate {
        Gate::Activation(thresholds) => below(f, thresholds.get(layer).copied().unwrap_or(0.0)),
        Gate::Random { share, seed } => {
            let mut random = Random::new(*seed, layer as u32);
            let mut left_out = 0;
            for f in f.iter_mut() {
                if random.chance(*share) {
                    *f = 0.0;
                    left_out += 1;
                }
            }
            left_out
        }
        Gate::All | Gate::Hidden(_) => 0,
    }
}

fn gate_hidden(f: &mut [f32], layer: usize, gate: &Gate) -> u64 {
    match gate {
        Gate::Hidden(thresholds) => below(f, thresholds.get(layer).copied().unwrap_or(0.0)),
        _ => 0,
    }
}

fn below(f: &mut [f32], threshold: f32) -> u64 {
    let mut left_out = 0;
    for f in f.iter_mut().filter(|f| f.abs() < threshold) {
        *f = 0.0;
        left_out += 1;
    }
    left_out
}

/// The loss of each character but the first of every window of `ctx` tokens, in nats, in the order of the text; and the
/// share of hidden values that were left out.
///
/// # Errors
/// As [`Decoder::logits`]; [`Error::Cancelled`] where the user ends it.
pub fn losses(
    decoder: &Decoder,
    ids: &[u32],
    how: &Arithmetic,
    context: &Context<'_>,
) -> Result<(Vec<f64>, f64), Error> {
    let windows: Vec<&[u32]> = ids.chunks(decoder.config.ctx).filter(|window| window.len() > 1).collect();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(windows.iter().map(|_| None).collect::<Vec<Option<Result<WindowLosses, Error>>>>());
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(window) = windows.get(at) else { return };
                    let result = context.check().and_then(|()| window_losses(decoder, window, how));
                    let failed = result.is_err();
                    if let Ok(mut found) = found.lock() {
                        found[at] = Some(result);
                    }
                    if failed {
                        return;
                    }
                }
            });
        }
    });
    let mut losses = Vec::with_capacity(ids.len());
    let (mut left_out, mut all) = (0, 0);
    let found = found.into_inner().map_err(|_| Error::input("window", "a thread ended early"))?;
    for result in found {
        let (more, gated) = result.ok_or(Error::Cancelled)??;
        losses.extend(more);
        left_out += gated.0;
        all += gated.1;
    }
    Ok((losses, left_out as f64 / all.max(1) as f64))
}

type WindowLosses = (Vec<f64>, (u64, u64));

fn window_losses(decoder: &Decoder, window: &[u32], how: &Arithmetic) -> Result<WindowLosses, Error> {
    let mut seen = Seen::default();
    let logits = decoder.logits(window, how, Some(&mut seen))?;
    let rows = logits.chunks_exact(decoder.config.vocab);
    let losses = rows.zip(&window[1..]).map(|(row, next)| {
        LogSoftmax::of(row, &mut Vec::new()).map_or(f64::NAN, |softmax| -softmax.log_p(row[*next as usize]))
    });
    Ok((losses.collect(), seen.gated))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rin_engine::{Engine, LoadOptions};

    fn ids() -> Vec<u32> {
        let mut random = Random::new(1, 900);
        (0..120).map(|_| random.below(65) as u32).collect()
    }

    /// The engine rounds activations to 8 bits, so it is near and not the same; a wrong rotation or head would be far off.
    #[test]
    fn logits_are_near_the_engines() {
        let ids = ids();
        let decoder = Decoder::read(&rin_embedded::model().unwrap()).unwrap();
        let found = decoder.logits(&ids, &Arithmetic::FLOAT, None).unwrap();
        let options = LoadOptions { ctx: Some(128), n_logits: 128, ..LoadOptions::default() };
        let mut engine = Engine::load(rin_embedded::model().unwrap(), &options, |_| {}).unwrap();
        let sequence = engine.sequence().unwrap();
        let mut expected = Vec::new();
        engine.feed_all(&sequence, &ids, |row| expected.extend_from_slice(row)).unwrap();
        assert_eq!(found.len(), expected.len());
        let mean = |values: &[f32]| values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / values.len() as f64;
        let differences: Vec<f32> = found.iter().zip(&expected).map(|(a, b)| a - b).collect();
        let relative = (mean(&differences) / mean(&expected)).sqrt();
        assert!(relative < 0.02 && relative > 0.0, "{relative}");
    }

    #[test]
    fn exchanged_parts_matter_as_much_as_they_should() {
        let ids = ids();
        let decoder = Decoder::read(&rin_embedded::model().unwrap()).unwrap();
        let float = decoder.logits(&ids, &Arithmetic::FLOAT, None).unwrap();
        let distance = |how: &Arithmetic| {
            let found = decoder.logits(&ids, how, None).unwrap();
            let wrong: f32 = found.iter().zip(&float).map(|(a, b)| (a - b) * (a - b)).sum();
            (wrong / float.iter().map(|x| x * x).sum::<f32>()).sqrt()
        };
        let soft = |softmax| Arithmetic { softmax, ..Arithmetic::FLOAT };
        let fine = IntSoftmax::new(8).unwrap();
        assert!(distance(&soft(Softmax::Exact(fine.clone()))) < 0.01);
        assert!(distance(&soft(Softmax::PowersOnly(fine))) > 0.02);
        assert!(distance(&Arithmetic { norm: Norm::Integer { bits: 15 }, ..Arithmetic::FLOAT }) < 2e-3);
        let gate = |share| Arithmetic { gate: Gate::Random { share, seed: 1 }, ..Arithmetic::FLOAT };
        assert!(distance(&gate(0.0)) < 1e-6 && distance(&gate(0.5)) > 0.05);
        let mut seen = Seen::default();
        decoder.logits(&ids, &gate(0.25), Some(&mut seen)).unwrap();
        let share = seen.gated.0 as f64 / seen.gated.1 as f64;
        assert!((share - 0.25).abs() < 0.01 && seen.norms.len() == 13 && seen.hidden.len() == 6, "{share}");
    }

    #[test]
    fn losses_are_those_of_the_logits_and_ids_are_checked() {
        let decoder = Decoder::read(&rin_embedded::model().unwrap()).unwrap();
        let cancel = std::sync::atomic::AtomicBool::new(false);
        let context = Context { data: std::path::Path::new(""), python: None, cancel: &cancel };
        let ids = ids();
        let (found, left_out) = losses(&decoder, &ids, &Arithmetic::FLOAT, &context).unwrap();
        assert!(found.len() == ids.len() - 1 && left_out.abs() < 1e-12);
        let logits = decoder.logits(&ids, &Arithmetic::FLOAT, None).unwrap();
        let row: Vec<f64> = logits[..decoder.config().vocab].iter().map(|x| f64::from(*x)).collect();
        let expected = -libm::log(softmax::float(&row)[ids[1] as usize]);
        assert!((found[0] - expected).abs() < 1e-9);
        assert!(decoder.logits(&[9999], &Arithmetic::FLOAT, None).is_err());
        cancel.store(true, Ordering::Relaxed);
        assert!(matches!(losses(&decoder, &ids, &Arithmetic::FLOAT, &context), Err(Error::Cancelled)));
    }
}
