//! What a step of a training and one of a [`Pupil`](super::Pupil) share.

use super::teacher::{Answers, Student, Teaching};
use crate::Error;
use crate::network::{Batch, Inside, Network, Pass};
use crate::ops::{cross_entropy, host};
use crate::parameters::Parameters;
use crate::weights::Weights;
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

/// The loss against the text, in nats per token, and the loss whose gradient is followed: the same without a teacher.
/// `first` becomes the hints' distances where there are none yet.
pub(super) fn losses(
    network: &dyn Network,
    weights: &Weights,
    batch: Batch<'_>,
    targets: &[u32],
    pass: Pass,
    taught: Option<(&Teaching, &Answers)>,
    first: &mut Vec<f64>,
) -> Result<(f64, Tensor), Error> {
    let mut inside = taught.filter(|(teaching, _)| teaching.hints()).map(|_| Inside::default());
    let logits = network.forward_seen(weights, batch, pass, inside.as_mut())?;
    let nats = cross_entropy(&logits, targets, weights.kernels)?;
    let number = f64::from(nats.to_scalar::<f32>()?);
    let total = match taught {
        Some((teaching, answers)) => {
            let student = Student { nats: &nats, logits: &logits, inside: inside.as_ref(), weights };
            teaching.loss(student, answers, first)?
        }
        None => nats,
    };
    Ok((number, total))
}

/// Adds the gradients of one batch.
pub(super) fn add_gradients(
    sums: &mut Vec<Vec<f32>>,
    store: &GradStore,
    vars: &[Var],
    parameters: &Parameters,
) -> Result<(), Error> {
    let first = sums.is_empty();
    for (i, (var, p)) in vars.iter().zip(&parameters.0).enumerate() {
        let gradient = match store.get(var.as_tensor()) {
            Some(gradient) => Some(gradient.contiguous()?),
            None => None,
        };
        let values = gradient.as_ref().map(host).transpose()?;
        match (first, values) {
            (true, Some(values)) => sums.push(values.to_vec()),
            (true, None) => sums.push(vec![0.0; p.len()]),
            (false, Some(values)) => sums[i].iter_mut().zip(values.iter()).for_each(|(sum, g)| *sum += g),
            (false, None) => {}
        }
    }
    Ok(())
}
