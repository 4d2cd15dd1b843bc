//! Running a network: rows of input shared out among the workers, each row step by step and layer by layer.

use super::coding::{self, Row};
use super::layout::{Layout, Piece, padded};
use super::network::{Coding, MAX_LAYERS, Network, Readout, Source};
use super::{DENSE_PERCENT, SnnError};
use crate::Error;
use crate::arena::{Arena, ArenaError, ArenaOptions, cast, cast_mut};
use crate::engine::{LoadOptions, make_pool};
use crate::pool::{Pool, partition};
use crate::run::split::deal;
use bytemuck::{AnyBitPattern, NoUninit};
use rin_kernels::Cpu;
use rin_kernels::ops::lif::{AddSpikes, DenseSpikes, LifNeurons, LifStep, collect_spikes, pack_dense};
use std::ops::Range;

/// How a network is made ready.
#[derive(Clone, Copy, Debug)]
pub struct SimulatorOptions {
    /// The instruction tiers that may be used.
    pub cpu: Cpu,
    /// Huge pages, locked memory.
    pub arena: ArenaOptions,
    /// Spikes of a hundred inputs above which the product with all inputs is taken: [`DENSE_PERCENT`] unless a
    /// measurement asks for one of the kernels alone (0 or 100). No value changes a result.
    pub dense_percent: usize,
}

impl SimulatorOptions {
    /// The defaults on a processor.
    pub fn new(cpu: Cpu) -> Self {
        Self { cpu, arena: ArenaOptions::default(), dense_percent: DENSE_PERCENT }
    }
}

/// What the rows of a run took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Spikes of each layer.
    pub spikes: Vec<u64>,
    /// Spikes of the input, or for a direct input its values that are not 0.
    pub input_spikes: u64,
    /// Weights that were added: each spike times its targets.
    pub synaptic_operations: u64,
}

impl Activity {
    /// The sum over all workers.
    pub(crate) fn of(counts: &[Counts], layers: usize) -> Self {
        let mut sum = Self { spikes: vec![0; layers], ..Self::default() };
        for counts in counts {
            sum.spikes.iter_mut().zip(counts.spikes).for_each(|(sum, spikes)| *sum += spikes);
            sum.input_spikes += counts.input;
            sum.synaptic_operations += counts.operations;
        }
        sum
    }
}

/// What a layer did in a step, for those who watch.
#[derive(Clone, Copy, Debug)]
pub struct Watch<'a> {
    /// The row.
    pub row: usize,
    /// The time step.
    pub step: usize,
    /// The layer.
    pub layer: usize,
    /// 1 for each neuron that spiked.
    pub fired: &'a [u8],
    /// The membranes after the step.
    pub v: &'a [i32],
}

/// The operations of a step, resolved once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpikingKernels {
    add: AddSpikes,
    dense: DenseSpikes,
    step: LifStep,
}

impl SpikingKernels {
    /// Picks the best variants that `cpu` can run.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as all kernels take it")]
    pub(crate) fn select(cpu: &Cpu) -> Self {
        Self { add: AddSpikes::select(cpu), dense: DenseSpikes::select(cpu), step: LifStep::select(cpu) }
    }
}

/// A network in memory, ready to run.
#[derive(Debug)]
pub struct Simulator {
    network: Network,
    layout: Layout,
    arena: Arena,
    pool: Pool,
    kernels: SpikingKernels,
    dense_percent: usize,
    activity: Vec<Counts>,
}

/// The counts of one worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    spikes: [u64; MAX_LAYERS],
    input: u64,
    operations: u64,
}

impl Counts {
    pub(crate) const ZERO: Self = Self { spikes: [0; MAX_LAYERS], input: 0, operations: 0 };
}

/// A worker's share of a run.
struct Share<'a> {
    first: usize,
    input: &'a [f32],
    out: &'a mut [f32],
    state: &'a mut [u8],
    counts: &'a mut Counts,
}

impl Simulator {
    /// Bytes that a network will take with this many workers, and what they are for; weights and constants first, then the
    /// state of one worker.
    ///
    /// # Errors
    ///
    /// When the network is unsound.
    pub fn plan(network: &Network, threads: usize) -> Result<(usize, Vec<Piece>), SnnError> {
        network.check()?;
        let layout = Layout::new(network)?;
        let what = "more bytes than memory can have".to_owned();
        let total = layout.state_bytes.checked_mul(threads).and_then(|state| state.checked_add(layout.weights_bytes));
        Ok((total.ok_or(SnnError { place: "size".to_owned(), what })?, layout.pieces))
    }

    /// Lays the weights out for the kernels. Nothing allocates after this.
    ///
    /// # Errors
    ///
    /// When the network is unsound, or the memory cannot be had.
    pub fn new(network: Network, pool: Pool, options: SimulatorOptions) -> Result<Self, Error> {
        let (total, _) = Self::plan(&network, pool.threads())?;
        let layout = Layout::new(&network)?;
        let mut arena = Arena::new(total as u64, options.arena)?;
        lay_out(&network, &layout, &mut arena.bytes_mut()[..layout.weights_bytes])?;
        let kernels = SpikingKernels::select(&options.cpu);
        let activity = vec![Counts::ZERO; pool.threads()];
        Ok(Self { network, layout, arena, pool, kernels, dense_percent: options.dense_percent, activity })
    }

    /// Checks that the network fits this machine, and lays it out, on the threads and tiers that `options` say.
    ///
    /// # Errors
    ///
    /// As for [`Simulator::new`], and when the memory limit is too low or the threads cannot be had.
    pub fn load(network: Network, options: &LoadOptions) -> Result<Self, Error> {
        let pool = make_pool(options.threads, options.affinity)?;
        let (total, _) = Self::plan(&network, pool.threads())?;
        if let Some(limit) = options.limit() {
            limit.admit(total as u64)?;
        }
        let cpu = options.tier.map_or_else(Cpu::detect, |tier| Cpu::detect().up_to(tier));
        Self::new(network, pool, SimulatorOptions { arena: options.arena, ..SimulatorOptions::new(cpu) })
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Workers.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Bytes of the mapping.
    pub fn bytes(&self) -> usize {
        self.arena.len()
    }

    /// Runs rows of input, `steps` time steps each, and writes one row of output for each.
    ///
    /// A row of input has [`Network::row_len`] values, a row of output [`Network::outputs`].
    ///
    /// # Errors
    ///
    /// When the lengths do not fit, `steps` is 0 or above the network's, or a value is none that the coding takes.
    pub fn run(&mut self, input: &[f32], steps: usize, out: &mut [f32]) -> Result<(), Error> {
        self.run_with(input, steps, out, None)
    }

    /// As [`Simulator::run`] on one worker; `watch` hears what each layer does in each step.
    ///
    /// # Errors
    ///
    /// As for [`Simulator::run`].
    pub fn run_watched(
        &mut self,
        input: &[f32],
        steps: usize,
        out: &mut [f32],
        watch: &mut dyn FnMut(Watch<'_>),
    ) -> Result<(), Error> {
        self.run_with(input, steps, out, Some(watch))
    }

    fn run_with(
        &mut self,
        input: &[f32],
        steps: usize,
        out: &mut [f32],
        watch: Option<&mut dyn FnMut(Watch<'_>)>,
    ) -> Result<(), Error> {
        let (row_len, rows) = check_input(&self.network, input, steps, out.len())?;
        let Self { network, layout, arena, pool, kernels, dense_percent, activity } = self;
        let (weights, state) = arena.bytes_mut().split_at_mut(layout.weights_bytes);
        let run = Run { network, layout, weights, kernels, dense_percent: *dense_percent, steps, row_len, first: 0 };
        if let Some(watch) = watch {
            let state = &mut state[..layout.state_bytes];
            activity.fill(Counts::ZERO);
            return run.share(Share { first: 0, input, out, state, counts: &mut activity[0] }, Some(watch));
        }
        run.rows(pool, input, rows, out, state, activity);
        Ok(())
    }

    /// What the last run took.
    pub fn activity(&self) -> Activity {
        Activity::of(&self.activity, self.network.layers.len())
    }
}

/// Writes the weights and constants of a network where its layout says.
pub(crate) fn lay_out(network: &Network, layout: &Layout, weights: &mut [u8]) -> Result<(), Error> {
    for (layer, place) in network.layers.iter().zip(&layout.layers) {
        for (projection, at) in layer.projections.iter().zip(&place.projections) {
            let width = network.width(projection.from).unwrap_or(0);
            let mut rows = vec![0; padded(width) * place.n];
            for (padded, row) in rows.chunks_mut(place.n).zip(projection.weights.chunks(layer.outputs())) {
                padded[..row.len()].copy_from_slice(row);
            }
            pack_dense(&rows, place.n, part_mut(weights, &at.panels)?);
            let kept = part_mut::<i8>(weights, &at.rows)?;
            let len = kept.len();
            kept.copy_from_slice(&rows[..len]);
        }
        fill(part_mut(weights, &place.keep_v)?, &layer.keep_v, 0_u16);
        fill(part_mut(weights, &place.keep_u)?, &layer.keep_u, 0_u16);
        // A neuron that is padding never spikes: no membrane is above this.
        fill(part_mut(weights, &place.threshold)?, &layer.threshold, i32::MAX);
        fill(part_mut(weights, &place.current)?, &layer.current, 0);
        fill(part_mut(weights, &place.bias)?, &layer.bias, 0);
    }
    Ok(())
}

/// The length of a row, and how many there are.
pub(crate) fn check_input(network: &Network, input: &[f32], steps: usize, out: usize) -> Result<(usize, usize), Error> {
    let bad = |field, expected, found| Error::BadOption { field, expected, found };
    if steps == 0 || steps > network.steps {
        let expected = format!("1 to {}, for which the network was made", network.steps);
        return Err(bad("time steps", expected, steps.to_string()));
    }
    let row_len = network.row_len(steps).filter(|&len| len > 0 && input.len().is_multiple_of(len));
    let Some(row_len) = row_len else {
        let expected = match network.coding {
            Coding::Spikes => format!("rows of {steps} steps × {} inputs", network.inputs),
            _ => format!("rows of {} values", network.inputs),
        };
        return Err(bad("input", expected, format!("{} values", input.len())));
    };
    let rows = input.len() / row_len;
    if rows.checked_mul(network.outputs()) != Some(out) {
        return Err(bad("output", format!("{rows} rows of {} values", network.outputs()), format!("{out} values")));
    }
    let spikes = network.coding == Coding::Spikes;
    let is_flag = |x: f32| [0.0_f32, -0.0, 1.0].map(f32::to_bits).contains(&x.to_bits());
    let fits = |x: f32| if spikes { is_flag(x) } else { x.is_finite() };
    if let Some(at) = input.iter().position(|&x| !fits(x)) {
        let expected = if spikes { "0 or 1 where the input is spikes" } else { "a finite number" };
        let found = format!("{} in row {}, place {}", input[at], at / row_len, at % row_len);
        return Err(bad("input", expected.to_owned(), found));
    }
    Ok((row_len, rows))
}

/// What all shares of a run have in common.
pub(crate) struct Run<'a> {
    pub(crate) network: &'a Network,
    pub(crate) layout: &'a Layout,
    /// As [`lay_out`] wrote them.
    pub(crate) weights: &'a [u8],
    pub(crate) kernels: &'a SpikingKernels,
    pub(crate) dense_percent: usize,
    pub(crate) steps: usize,
    pub(crate) row_len: usize,
    /// The number of the first row.
    pub(crate) first: usize,
}

/// The state of a layer, cut out of a worker's bytes.
struct State<'s> {
    v: &'s mut [i32],
    u: &'s mut [i32],
    acc: &'s mut [i32],
    drive: &'s mut [i32],
    spikes: Spikes<'s>,
}

/// The spikes of a source in a step.
struct Spikes<'s> {
    fired: &'s mut [u8],
    list: &'s mut [u32],
    count: usize,
}

impl Run<'_> {
    /// Runs rows, shared out among workers for which `state` and `counts` have room. Allocates nothing.
    pub(crate) fn rows(
        &self,
        pool: &mut Pool,
        input: &[f32],
        rows: usize,
        out: &mut [f32],
        state: &mut [u8],
        counts: &mut [Counts],
    ) {
        counts.fill(Counts::ZERO);
        let (outputs, row_len) = (self.network.outputs(), self.row_len);
        let parts = pool.active().min(rows).min(counts.len());
        let mut states = state.chunks_mut(self.layout.state_bytes);
        let mut counts = counts.iter_mut();
        let mut rest = out;
        deal(
            pool,
            parts,
            |part| {
                let range = partition(rows, parts, part, 1);
                let (out, after) = std::mem::take(&mut rest).split_at_mut(range.len() * outputs);
                rest = after;
                let input = &input[range.start * row_len..range.end * row_len];
                let first = self.first.wrapping_add(range.start);
                Some(Share { first, input, out, state: states.next()?, counts: counts.next()? })
            },
            // Lengths were checked, and the layout was made for this arena: no part of it can be missing.
            |share| self.share(share, None).expect("the layout fits the arena"),
        );
    }

    fn share(&self, share: Share<'_>, mut watch: Option<&mut dyn FnMut(Watch<'_>)>) -> Result<(), Error> {
        let Share { first, input, out, state, counts } = share;
        let mut cutter = Cutter { rest: state, at: 0 };
        let mut layers: [Option<State<'_>>; MAX_LAYERS] = [const { None }; MAX_LAYERS];
        for (layer, place) in layers.iter_mut().zip(&self.layout.layers) {
            *layer = Some(State {
                v: cutter.take(&place.v)?,
                u: cutter.take(&place.u)?,
                acc: cutter.take(&place.acc)?,
                drive: cutter.take(&place.drive)?,
                spikes: Spikes { fired: cutter.take(&place.fired)?, list: cutter.take(&place.list)?, count: 0 },
            });
        }
        let layers = &mut layers[..self.layout.layers.len()];
        let (fired, list) = (cutter.take(&self.layout.input)?, cutter.take(&self.layout.input_list)?);
        let mut source = Spikes { fired, list, count: 0 };
        let readout = cutter.take::<i64>(&self.layout.readout)?;
        let rows = input.chunks_exact(self.row_len).zip(out.chunks_exact_mut(self.network.outputs()));
        for (at, (values, out)) in rows.enumerate() {
            let row = Row { values, number: first.wrapping_add(at), steps: self.steps };
            self.begin(layers, &mut source, row, counts)?;
            readout.fill(0);
            for t in 0..self.steps {
                if !matches!(self.network.coding, Coding::Direct { .. }) {
                    coding::flags(self.network.coding, row, t, source.fired);
                    source.count = collect_spikes(source.fired, source.list);
                    counts.input += source.count as u64;
                }
                for at in 0..layers.len() {
                    self.layer(layers, &source, at, counts)?;
                    if let (Some(watch), Some(state)) = (&mut watch, &layers[at]) {
                        let n = self.network.layers[at].outputs();
                        let (fired, v) = (&state.spikes.fired[..n], &state.v[..n]);
                        watch(Watch { row: row.number, step: t, layer: at, fired, v });
                    }
                }
                if let Some(Some(last)) = layers.last() {
                    match self.network.readout {
                        Readout::SpikeCount => {
                            readout.iter_mut().zip(&*last.spikes.fired).for_each(|(sum, &s)| *sum += i64::from(s));
                        }
                        Readout::Membrane => {
                            readout.iter_mut().zip(&*last.v).for_each(|(sum, &v)| *sum += i64::from(v));
                        }
                    }
                }
            }
            self.finish(readout, out);
        }
        Ok(())
    }

    /// Empties the state and computes the constant current of a direct input.
    fn begin(
        &self,
        layers: &mut [Option<State<'_>>],
        source: &mut Spikes<'_>,
        row: Row<'_>,
        counts: &mut Counts,
    ) -> Result<(), Error> {
        for (at, (state, place)) in layers.iter_mut().zip(&self.layout.layers).enumerate() {
            let Some(state) = state else { continue };
            state.v.fill(0);
            state.u.fill(0);
            state.spikes.fired.fill(0);
            state.spikes.count = 0;
            state.drive.copy_from_slice(part(self.weights, &place.current)?);
            let Coding::Direct { scale } = self.network.coding else { continue };
            for projection in place.projections.iter().filter(|projection| projection.from == Source::Input) {
                let panels = part(self.weights, &projection.panels)?;
                // Inputs have no sign in the product, so the negative ones come first and turn theirs afterwards.
                state.acc.fill(0);
                coding::magnitudes(row.values, scale, true, source.fired);
                let mut used = source.fired.iter().filter(|&&x| x != 0).count();
                if used > 0 {
                    self.kernels.dense.run(state.acc, panels, source.fired);
                    state.acc.iter_mut().for_each(|acc| *acc = -*acc);
                }
                coding::magnitudes(row.values, scale, false, source.fired);
                used += source.fired.iter().filter(|&&x| x != 0).count();
                self.kernels.dense.run(state.acc, panels, source.fired);
                let shift = self.network.layers[at].shift;
                for (drive, &acc) in state.drive.iter_mut().zip(&*state.acc) {
                    *drive = drive.wrapping_add(of_128ths(acc, shift));
                }
                counts.input += used as u64;
                counts.operations += (used * self.network.layers[at].outputs()) as u64;
            }
        }
        Ok(())
    }

    /// One step of one layer.
    fn layer(
        &self,
        layers: &mut [Option<State<'_>>],
        input: &Spikes<'_>,
        at: usize,
        counts: &mut Counts,
    ) -> Result<(), Error> {
        let (layer, place) = (&self.network.layers[at], &self.layout.layers[at]);
        let (before, rest) = layers.split_at_mut(at);
        let Some((Some(own), after)) = rest.split_first_mut() else { return Ok(()) };
        own.acc.fill(0);
        let direct = matches!(self.network.coding, Coding::Direct { .. });
        for projection in &place.projections {
            let source = match projection.from {
                Source::Input if direct => continue,
                Source::Input => input,
                Source::Layer(from) if from == at => &own.spikes,
                Source::Layer(from) => {
                    let other = if from < at { before.get(from) } else { after.get(from - at - 1) };
                    let Some(Some(state)) = other else { continue };
                    &state.spikes
                }
            };
            debug_assert_eq!(projection.delayed, matches!(projection.from, Source::Layer(from) if from >= at));
            if source.count * 100 > self.dense_percent * source.fired.len() {
                self.kernels.dense.run(own.acc, part(self.weights, &projection.panels)?, source.fired);
            } else {
                let spikes = &source.list[..source.count];
                self.kernels.add.run(own.acc, part(self.weights, &projection.rows)?, spikes);
            }
            counts.operations += (source.count * layer.outputs()) as u64;
        }
        let neurons = LifNeurons {
            keep_v: part(self.weights, &place.keep_v)?,
            keep_u: part(self.weights, &place.keep_u)?,
            threshold: part(self.weights, &place.threshold)?,
            current: own.drive,
            bias: part(self.weights, &place.bias)?,
            shift: layer.shift,
            reset: layer.reset,
        };
        self.kernels.step.run(own.v, own.u, own.spikes.fired, own.acc, neurons);
        own.spikes.count = collect_spikes(own.spikes.fired, own.spikes.list);
        counts.spikes[at] += own.spikes.count as u64;
        Ok(())
    }

    /// The readout as numbers.
    fn finish(&self, readout: &[i64], out: &mut [f32]) {
        let units = self.network.layers.last().map_or(&[][..], |layer| &layer.unit);
        for (j, (out, &sum)) in out.iter_mut().zip(readout).enumerate() {
            // Counts and sums of 24-bit membranes over at most 2^20 steps are exact in 53 bits.
            let value = match self.network.readout {
                Readout::SpikeCount => sum as f64,
                Readout::Membrane => sum as f64 / self.steps as f64 * units.get(j).map_or(1.0, |&unit| f64::from(unit)),
            };
            #[expect(clippy::cast_possible_truncation, reason = "rounds to the nearest f32")]
            let value = value as f32;
            *out = value;
        }
    }
}

/// A sum of weights times 128ths as a current in units of the membrane, half up.
fn of_128ths(sum: i32, shift: u32) -> i32 {
    let scaled = ((i64::from(sum) << shift) + 64) >> 7;
    i32::try_from(scaled).unwrap_or(if scaled < 0 { i32::MIN } else { i32::MAX })
}

/// The constants of a layer.
fn part<'a, T: AnyBitPattern>(bytes: &'a [u8], range: &Range<usize>) -> Result<&'a [T], ArenaError> {
    let out_of = ArenaError::OutOfBounds { start: range.start, end: range.end, len: bytes.len() };
    cast(bytes.get(range.clone()).ok_or(out_of)?)
}

fn part_mut<'a, T: AnyBitPattern + NoUninit>(
    bytes: &'a mut [u8],
    range: &Range<usize>,
) -> Result<&'a mut [T], ArenaError> {
    let out_of = ArenaError::OutOfBounds { start: range.start, end: range.end, len: bytes.len() };
    cast_mut(bytes.get_mut(range.clone()).ok_or(out_of)?)
}

/// Copies `values` to the front and fills the rest.
fn fill<T: Copy>(out: &mut [T], values: &[T], rest: T) {
    let (front, back) = out.split_at_mut(values.len());
    front.copy_from_slice(values);
    back.fill(rest);
}

/// Cuts a worker's state into its pieces, which follow each other.
struct Cutter<'s> {
    rest: &'s mut [u8],
    at: usize,
}

impl<'s> Cutter<'s> {
    fn take<T: AnyBitPattern + NoUninit>(&mut self, range: &Range<usize>) -> Result<&'s mut [T], ArenaError> {
        let out_of = ArenaError::OutOfBounds { start: range.start, end: range.end, len: self.at + self.rest.len() };
        let (Some(skip), len) = (range.start.checked_sub(self.at), range.len()) else { return Err(out_of) };
        if skip + len > self.rest.len() {
            return Err(out_of);
        }
        let (piece, rest) = std::mem::take(&mut self.rest)[skip..].split_at_mut(len);
        (self.rest, self.at) = (rest, range.end);
        cast_mut(piece)
    }
}
