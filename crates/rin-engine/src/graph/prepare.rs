//! Operations with everything that follows from their shapes worked out, ready to be run without allocating.

use super::ArrayKernels;
use super::copy::{self, Block};
use super::elements::size_of;
use super::elementwise::{self, Scaling, binary_kernel};
use super::image::Geometry;
use super::loops::{Loops, row_major};
use super::product::{self, Convolution, Side, Size, Zeros, float_panel, integer_panel, scratch_panels};
use super::reduce::{self, Axis};
use super::softmax;
use super::workers::Workers;
use crate::Error;
use crate::arena::{cast, cast_mut};
use crate::plan::kernel_of;
use rin_kernels::ops::activation::Function;
use rin_kernels::ops::elementwise::Binary as FloatBinary;
use rin_kernels::ops::integer_product::padded;
use rin_model::DType;
use rin_model::graph::{ArgKind, Binary, GraphOp, PoolKind, ReduceKind, Unary, ValueType, Window};

/// Most inputs of an operation that is not a copy.
pub(crate) const MAX_INPUTS: usize = 4;

/// A prepared operation.
#[derive(Clone, Debug)]
pub(crate) enum Prepared {
    /// The bytes of the input as they are.
    Alias,
    Copy {
        size: usize,
        blocks: Vec<Block>,
        fill: bool,
        covered: bool,
    },
    Map {
        function: Unary,
        parameters: [f32; 2],
    },
    MapIntegers {
        function: Unary,
        dtype: DType,
    },
    Not,
    IsNan,
    Zip {
        function: FloatBinary,
        loops: Loops<2>,
    },
    Compare {
        function: Binary,
        loops: Loops<2>,
    },
    ZipIntegers {
        function: Binary,
        types: [DType; 2],
        loops: Loops<2>,
    },
    Choose {
        size: usize,
        loops: Loops<3>,
    },
    ChangeType([DType; 2]),
    Reduce {
        kind: ReduceKind,
        dtype: DType,
        outer: Loops<1>,
        inner: Loops<1>,
    },
    Extreme {
        kind: ArgKind,
        last: bool,
        dtype: DType,
        axis: Axis,
    },
    Softmax {
        log: bool,
        axis: Axis,
    },
    LayerNorm {
        n: usize,
        eps: f32,
    },
    MatMul {
        size: Size,
        batch: Loops<2>,
    },
    /// A product with packed weights, which the plan runs.
    Linear,
    Conv {
        conv: Convolution,
        function: Function,
    },
    Pool {
        kind: PoolKind,
        geometry: Geometry,
        dtype: DType,
    },
    Gather {
        size: usize,
        axis: Axis,
        dtype: DType,
    },
    GatherElements {
        size: usize,
        axis: Axis,
        dtype: DType,
        loops: Loops<1>,
    },
    Scale {
        scaling: Scaling,
        types: [DType; 2],
        loops: Loops<3>,
    },
    /// `ready`: whether the second input is panels.
    MatMulInteger {
        size: Size,
        batch: Loops<2>,
        types: [DType; 2],
        ready: bool,
    },
    /// `ready`: whether the second input is rows.
    ConvInteger {
        conv: Convolution,
        types: [DType; 2],
        ready: bool,
    },
    TopK {
        kind: ArgKind,
        places: bool,
        k: usize,
        dtype: DType,
        axis: Axis,
    },
    CumSum {
        exclusive: bool,
        reverse: bool,
        dtype: DType,
        axis: Axis,
    },
}

/// Matrices of a product, and how both sides lie for each of the result.
fn matrices(a: &[usize], b: &[usize], made: &[usize]) -> (Size, Loops<2>) {
    let last = |shape: &[usize], back: usize| shape.len().checked_sub(back).map_or(1, |at| shape[at]);
    let size = Size { rows: last(a, 2), cols: last(b, 1), k: last(a, 1) };
    let batch = |shape: &[usize]| shape[..shape.len().saturating_sub(2)].to_vec();
    // In elements: a step from matrix to matrix is so many.
    let strides = |shape: &[usize], matrix: usize| -> Vec<isize> {
        let own = batch(shape);
        let steps = row_major(&own);
        let missing = made.len().saturating_sub(2).saturating_sub(own.len());
        let step = |d: usize| match d.checked_sub(missing) {
            Some(d) if own[d] != 1 => steps[d] * matrix.cast_signed(),
            _ => 0,
        };
        (0..made.len().saturating_sub(2)).map(step).collect()
    };
    let (left, right) = (strides(a, size.rows * size.k), strides(b, size.k * size.cols));
    (size, Loops::new(&batch(made), [&left, &right]))
}

fn convolution(window: &Window, group: usize, x: &[usize], w: &[usize]) -> Convolution {
    Convolution {
        geometry: Geometry::new(window, x.get(2..).unwrap_or_default()),
        batch: x.first().copied().unwrap_or(0),
        group,
        channels: x.get(1).copied().unwrap_or(0).checked_div(group).unwrap_or(0),
        outputs: w.first().copied().unwrap_or(0).checked_div(group).unwrap_or(0),
    }
}

/// Walks over an array without some axes, and over those.
fn around(shape: &[usize], axes: &[usize]) -> (Loops<1>, Loops<1>) {
    let strides = row_major(shape);
    let pick = |reduced: bool| {
        let kept = || (0..shape.len()).filter(|d| axes.contains(d) == reduced);
        let sizes: Vec<usize> = kept().map(|d| shape[d]).collect();
        let steps: Vec<isize> = kept().map(|d| strides[d]).collect();
        Loops::new(&sizes, [&steps])
    };
    (pick(false), pick(true))
}

/// Prepares an operation whose types were checked: `inputs` as [`GraphOp::infer`] took them, and what it made of them.
#[expect(clippy::too_many_lines, reason = "a list: one entry per operation")]
pub(crate) fn prepare(op: &GraphOp, inputs: &[&ValueType], made: &ValueType) -> Prepared {
    let (dtype, shape) = inputs.first().map_or((DType::F32, &[][..]), |x| (x.dtype, x.shape.as_slice()));
    let other = |i: usize| inputs.get(i).map_or(&[][..], |x| x.shape.as_slice());
    let two = || Loops::broadcast(&made.shape, [shape, other(1)]);
    let three = || Loops::broadcast(&made.shape, [shape, other(1), other(2)]);
    match op {
        GraphOp::Reshape { .. } => Prepared::Alias,
        GraphOp::Copy { fill, regions, .. } => {
            let blocks: Vec<Block> = regions.iter().map(Block::new).collect();
            let copied = blocks.iter().fold(0_usize, |n, block| n.saturating_add(block.count()));
            Prepared::Copy { size: size_of(dtype), fill: *fill, covered: copied == made.count(), blocks }
        }
        GraphOp::Unary { function, alpha, beta } if dtype == DType::F32 => {
            Prepared::Map { function: *function, parameters: [*alpha, *beta] }
        }
        GraphOp::Unary { function, .. } => Prepared::MapIntegers { function: *function, dtype },
        GraphOp::Not => Prepared::Not,
        GraphOp::IsNan => Prepared::IsNan,
        GraphOp::Binary { function } => match binary_kernel(*function) {
            Some(function) if dtype == DType::F32 => Prepared::Zip { function, loops: two() },
            _ if dtype == DType::F32 => Prepared::Compare { function: *function, loops: two() },
            _ => Prepared::ZipIntegers { function: *function, types: [dtype, made.dtype], loops: two() },
        },
        GraphOp::Where => Prepared::Choose { size: size_of(made.dtype), loops: three() },
        GraphOp::Cast { to } => Prepared::ChangeType([dtype, *to]),
        GraphOp::Reduce { kind, axes, .. } => {
            let (outer, inner) = around(shape, axes);
            Prepared::Reduce { kind: *kind, dtype, outer, inner }
        }
        GraphOp::Arg { kind, axis, last, .. } => {
            Prepared::Extreme { kind: *kind, last: *last, dtype, axis: Axis::of(shape, *axis) }
        }
        GraphOp::Softmax { axis, log } => Prepared::Softmax { log: *log, axis: Axis::of(shape, *axis) },
        GraphOp::LayerNorm { axis, eps } => Prepared::LayerNorm { n: shape.iter().skip(*axis).product(), eps: *eps },
        GraphOp::MatMul => {
            let (size, batch) = matrices(shape, other(1), &made.shape);
            Prepared::MatMul { size, batch }
        }
        GraphOp::Conv { window, group, function } => {
            let conv = convolution(window, *group, shape, other(1));
            Prepared::Conv { conv, function: kernel_of(*function) }
        }
        GraphOp::Pool { kind, window } => {
            let geometry = Geometry::new(window, shape.get(2..).unwrap_or_default());
            Prepared::Pool { kind: *kind, geometry, dtype }
        }
        GraphOp::Gather { axis } => {
            let indices = inputs.get(1).map_or(DType::I64, |x| x.dtype);
            Prepared::Gather { size: size_of(dtype), axis: Axis::of(shape, *axis), dtype: indices }
        }
        GraphOp::GatherElements { axis } => {
            let indices = inputs.get(1).map_or(DType::I64, |x| x.dtype);
            let mut strides = row_major(shape);
            strides.iter_mut().skip(*axis).take(1).for_each(|step| *step = 0);
            let loops = Loops::new(&made.shape, [&strides]);
            Prepared::GatherElements { size: size_of(dtype), axis: Axis::of(shape, *axis), dtype: indices, loops }
        }
        GraphOp::Quantize { to } => Prepared::Scale { scaling: Scaling::Quantize, types: [dtype, *to], loops: three() },
        GraphOp::Dequantize => {
            Prepared::Scale { scaling: Scaling::Dequantize, types: [dtype, DType::F32], loops: three() }
        }
        GraphOp::Requantize { to } => {
            Prepared::Scale { scaling: Scaling::Requantize, types: [dtype, *to], loops: three() }
        }
        GraphOp::MatMulInteger => {
            let (size, batch) = matrices(shape, other(1), &made.shape);
            let types = [dtype, inputs.get(1).map_or(dtype, |b| b.dtype)];
            Prepared::MatMulInteger { size, batch, types, ready: false }
        }
        GraphOp::ConvInteger { window, group } => {
            let types = [dtype, inputs.get(1).map_or(dtype, |w| w.dtype)];
            Prepared::ConvInteger { conv: convolution(window, *group, shape, other(1)), types, ready: false }
        }
        GraphOp::TopK { k, axis, kind, places } => {
            Prepared::TopK { kind: *kind, places: *places, k: *k, dtype, axis: Axis::of(shape, *axis) }
        }
        GraphOp::CumSum { axis, exclusive, reverse } => {
            let axis = Axis::of(shape, *axis);
            Prepared::CumSum { exclusive: *exclusive, reverse: *reverse, dtype, axis }
        }
        // `Linear`, and what a later version may add: nothing that is computed from inputs alone.
        _ => Prepared::Linear,
    }
}

impl Prepared {
    /// Bytes of scratch; none: more than there can be.
    pub(crate) fn scratch_bytes(&self) -> Option<usize> {
        let panels = |size: Size, bytes: usize| scratch_panels(size.cols.div_ceil(16), bytes).checked_mul(bytes);
        let rows = |n: usize, k: usize| n.checked_mul(padded(k))?.checked_mul(2);
        match self {
            Self::Softmax { axis, .. } => softmax::scratch_len(*axis).checked_mul(4),
            Self::MatMul { size, .. } => panels(*size, float_panel(size.k).checked_mul(4)?),
            Self::Conv { conv, .. } => panels(conv.size(), float_panel(conv.size().k).checked_mul(4)?),
            Self::MatMulInteger { size, ready, .. } => {
                let own = rows(size.rows, size.k)?;
                own.checked_add(if *ready { 0 } else { panels(*size, integer_panel(size.k).checked_mul(2)?)? })
            }
            Self::ConvInteger { conv, ready, .. } => {
                let size = conv.size();
                let own = if *ready { 0 } else { rows(conv.group.checked_mul(size.rows)?, size.k)? };
                own.checked_add(panels(size, integer_panel(size.k).checked_mul(2)?)?)
            }
            Self::TopK { axis, .. } => axis.n.checked_mul(8),
            _ => Some(0),
        }
    }

    /// Runs an operation that is no copy. Inputs that there are not are empty.
    ///
    /// # Errors
    ///
    /// For an index out of range, and where bytes do not fit the plan.
    pub(crate) fn run(
        &self,
        kernels: &ArrayKernels,
        inputs: [&[u8]; MAX_INPUTS],
        out: &mut [u8],
        scratch: &mut [u8],
        workers: &mut Workers<'_>,
    ) -> Result<(), Error> {
        let [x, y, z, last] = inputs;
        match self {
            Self::Alias | Self::Linear | Self::Copy { .. } => Ok(()),
            Self::Map { function, parameters } => {
                elementwise::map(&kernels.map, *function, *parameters, x, out, workers)
            }
            Self::MapIntegers { function, dtype } => {
                elementwise::map_integers(*function, *dtype, x, out);
                Ok(())
            }
            Self::Not => {
                elementwise::not(x, out);
                Ok(())
            }
            Self::IsNan => elementwise::is_nan(x, out),
            Self::Zip { function, loops } => elementwise::zip(&kernels.zip, *function, loops, [x, y], out, workers),
            Self::Compare { function, loops } => elementwise::compare(*function, loops, [x, y], out),
            Self::ZipIntegers { function, types, loops } => {
                elementwise::zip_integers(*function, *types, loops, [x, y], out);
                Ok(())
            }
            Self::Choose { size, loops } => {
                elementwise::choose(loops, *size, [x, y, z], out);
                Ok(())
            }
            Self::ChangeType(types) => elementwise::change_type(*types, x, out),
            Self::Reduce { kind, dtype: DType::F32, outer, inner } => {
                reduce::reduce(*kind, outer, inner, x, out, workers)
            }
            Self::Reduce { kind, dtype, outer, inner } => {
                reduce::reduce_integers(*kind, *dtype, outer, inner, x, out);
                Ok(())
            }
            Self::Extreme { kind, last, dtype, axis } => {
                reduce::extreme(*kind, *last, *dtype, *axis, x, out);
                Ok(())
            }
            Self::Softmax { log, axis } => softmax::softmax(kernels, *log, *axis, x, out, scratch, workers),
            Self::LayerNorm { n, eps } => layer_norm(kernels, *n, *eps, [x, y, z], out, workers),
            Self::MatMul { size, batch } => {
                product::multiply(&kernels.linear, *size, batch, [x, y], out, scratch, workers)
            }
            Self::Conv { conv, function } => {
                let with = (&kernels.linear, &kernels.activate, *function);
                product::convolve(with, conv, [x, y, z], out, scratch, workers)
            }
            Self::Pool { kind, geometry, dtype } => pool(*kind, geometry, *dtype, x, out, workers),
            Self::Gather { size, axis, dtype } => copy::gather(*size, *axis, *dtype, [x, y], out),
            Self::GatherElements { size, axis, dtype, loops } => {
                copy::gather_elements(*size, *axis, loops, *dtype, [x, y], out)
            }
            Self::Scale { scaling, types, loops } => {
                elementwise::scale(*scaling, *types, loops, [x, y, z], out, workers)
            }
            Self::MatMulInteger { size, batch, types: [a, b], ready } => {
                let zeros = |dtype: DType, bytes| Zeros { dtype, bytes };
                let side = if *ready { Side::Ready(cast(y)?) } else { Side::Bytes(*b, y, zeros(*b, last)) };
                let a = (*a, x, zeros(*a, z));
                product::multiply_integers(&kernels.integers, *size, batch, a, side, out, scratch, workers)
            }
            Self::ConvInteger { conv, types: [a, b], ready } => {
                let zeros = |dtype: DType, bytes| Zeros { dtype, bytes };
                let side = if *ready { Side::Ready(cast(y)?) } else { Side::Bytes(*b, y, zeros(*b, last)) };
                let a = (*a, x, zeros(*a, z));
                product::convolve_integers(&kernels.integers, conv, a, side, out, scratch, workers)
            }
            Self::TopK { kind, places, k, dtype, axis } => {
                reduce::top_k(*kind, *places, *k, *dtype, *axis, x, out, scratch)
            }
            Self::CumSum { exclusive, reverse, dtype, axis } => {
                reduce::running_sum(*exclusive, *reverse, *dtype, *axis, x, out);
                Ok(())
            }
        }
    }
}

fn layer_norm(
    kernels: &ArrayKernels,
    n: usize,
    eps: f32,
    [x, scale, bias]: [&[u8]; 3],
    out: &mut [u8],
    workers: &mut Workers<'_>,
) -> Result<(), Error> {
    let (x, scale, bias) = (cast::<f32>(x)?, cast::<f32>(scale)?, cast::<f32>(bias)?);
    let out = cast_mut::<f32>(out)?;
    let work = out.len() * 4;
    workers.spread(out, n, work, |first, out| {
        for (i, out) in out.chunks_exact_mut(n).enumerate() {
            kernels.layer_norm.run(out, &x[(first + i) * n..][..n], scale, bias, eps);
        }
    });
    Ok(())
}

fn pool(
    kind: PoolKind,
    geometry: &Geometry,
    dtype: DType,
    x: &[u8],
    out: &mut [u8],
    workers: &mut Workers<'_>,
) -> Result<(), Error> {
    fn largest<T: Copy + PartialOrd + Send + Sync>(
        geometry: &Geometry,
        x: &[T],
        out: &mut [T],
        least: T,
        workers: &mut Workers<'_>,
    ) {
        let (places, pixels) = (geometry.n_places(), geometry.pixels());
        let work = out.len() * geometry.n_kernel();
        workers.spread(out, places, work, |first, out| {
            for (i, out) in out.chunks_exact_mut(places).enumerate() {
                geometry.largest(&x[(first + i) * pixels..][..pixels], 0, least, out);
            }
        });
    }
    let (places, pixels) = (geometry.n_places(), geometry.pixels());
    if places == 0 {
        return Ok(());
    }
    match (kind, dtype) {
        (PoolKind::Max, DType::F32) => largest(geometry, cast(x)?, cast_mut(out)?, f32::NEG_INFINITY, workers),
        (PoolKind::Max, DType::I8) => largest(geometry, cast(x)?, cast_mut(out)?, i8::MIN, workers),
        (PoolKind::Max, _) => largest(geometry, x, out, 0_u8, workers),
        (PoolKind::MaxIndex, _) => {
            let (out, _) = out.as_chunks_mut::<8>();
            for (i, out) in out.chunks_exact_mut(places).enumerate() {
                let base = i * pixels;
                match dtype {
                    DType::F32 => geometry.place_of_largest(&cast::<f32>(x)?[base..][..pixels], base, out),
                    DType::I8 => geometry.place_of_largest(&cast::<i8>(x)?[base..][..pixels], base, out),
                    _ => geometry.place_of_largest(&x[base..][..pixels], base, out),
                }
            }
        }
        _ => {
            let (x, out) = (cast::<f32>(x)?, cast_mut::<f32>(out)?);
            let work = out.len() * geometry.n_kernel();
            workers.spread(out, places, work, |first, out| {
                for (i, out) in out.chunks_exact_mut(places).enumerate() {
                    geometry.mean(kind, &x[(first + i) * pixels..][..pixels], 0, out);
                }
            });
        }
    }
    Ok(())
}
