//! Gradients of the parts that the decoder's stored vectors do not reach: dropout, and residuals without a norm.

use super::{Dropout, Product, Source, Tail, linear};
use crate::kernels::Kernels;
use crate::random::normal;
use candle_core::{Device, Tensor, Var};
use rin_kernels::Cpu;

#[expect(clippy::cast_possible_truncation, reason = "test data")]
fn var(key: u64, rows: usize, cols: usize) -> Var {
    let values: Vec<f32> = (0..(rows * cols) as u64).map(|n| normal(key, n) as f32).collect();
    Var::from_vec(values, (rows, cols), &Device::Cpu).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn dropout_and_residual_have_the_gradients_of_candles_own_operations() {
    let kernels = Kernels::select(&Cpu::detect());
    let (x, w, residual, factors) = (var(1, 300, 24), var(2, 8, 24), var(3, 300, 8), var(4, 300, 8));
    let dropout = Dropout::new(5, 0.3);
    let tail = Tail { dropout, residual: Some(residual.as_tensor()) };
    let y = linear(Source::Plain(x.as_tensor()), w.as_tensor(), &Product::Float, tail, kernels).unwrap();
    let found = (&y * factors.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();

    let mut mask = vec![1.0; 300 * 8];
    dropout.unwrap().apply(0, &mut mask);
    assert!(mask.contains(&0.0));
    let mask = Tensor::from_vec(mask, (300, 8), &Device::Cpu).unwrap();
    let product = x.matmul(&w.t().unwrap()).unwrap();
    let want_y = ((product * mask).unwrap() + residual.as_tensor()).unwrap();
    let want = (&want_y * factors.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();

    let near = |a: &Tensor, b: &Tensor| {
        let pairs = numbers(a).into_iter().zip(numbers(b)).collect::<Vec<_>>();
        assert!(pairs.iter().all(|(a, b)| (a - b).abs() < 1e-3), "{:?}", &pairs[..4]);
    };
    near(&y, &want_y);
    for v in [&x, &w, &residual] {
        near(found.get(v.as_tensor()).unwrap(), want.get(v.as_tensor()).unwrap());
    }
}

#[test]
fn a_norm_and_a_residual_do_not_go_together() {
    let kernels = Kernels::select(&Cpu::detect());
    let (x, w, gain) = (var(1, 2, 4), var(2, 4, 4), Tensor::ones(4, candle_core::DType::F32, &Device::Cpu).unwrap());
    let source = Source::Normed { x: x.as_tensor(), gain: &gain, eps: 1e-5 };
    let tail = Tail { dropout: None, residual: Some(x.as_tensor()) };
    assert!(linear(source, w.as_tensor(), &Product::Float, tail, kernels).is_err());
    assert!(linear(Source::Gated(x.as_tensor()), w.as_tensor(), &Product::Float, Tail::default(), kernels).is_err());
}
