//! One time step of a layer's neurons. Compiled once per tier: the compiler finds the vectors by itself.

#[cfg(test)]
use super::tests;
use super::{DECAY_BITS, LIF_LANES, MEMBRANE_MAX};

/// What a spike does to the membrane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// `v = 0`, as on Loihi.
    Zero,
    /// `v -= threshold`: what lies above it stays.
    Subtract,
}

/// The constants of a layer's neurons, one value per neuron.
#[derive(Clone, Copy, Debug)]
pub struct LifNeurons<'a> {
    /// What a step keeps of the membrane, of 4096.
    pub keep_v: &'a [u16],
    /// What a step keeps of the synapse's current, of 4096; empty where there is none.
    pub keep_u: &'a [u16],
    /// The membrane above which a neuron spikes.
    pub threshold: &'a [i32],
    /// A constant input current, in units of the membrane.
    pub current: &'a [i32],
    /// Added to the membrane in each step, past the synapse.
    pub bias: &'a [i32],
    /// Fractional bits of the membrane: how far the sum of weights is shifted. At most 16.
    pub shift: u32,
    /// What a spike does.
    pub reset: Reset,
}

kernel! {
    /// One step of a layer of neurons; see the module for the equations.
    ///
    /// `acc` is the sum of the weights of the spikes; `fired` becomes 1 where a neuron spikes, else 0. All slices have
    /// one length, a multiple of [`LIF_LANES`]; `u` is empty where `keep_u` is. No factor is above 4096. Sums wrap at
    /// 32 bits before they are clipped.
    pub struct LifStep(v: &mut [i32], u: &mut [i32], fired: &mut [u8], acc: &[i32], neurons: LifNeurons<'_>);
    check: |v: &&mut [i32], u: &&mut [i32], fired: &&mut [u8], acc: &&[i32], neurons: &LifNeurons<'_>|
        check(v, u, fired, acc, neurons);
    cases: tests::for_each_step_case;
    conformance: conformance;
    variants {
        Scalar => step::scalar,
        Avx2 if target_arch = "x86_64" => step::avx2,
        Avx512Vnni if target_arch = "x86_64" => step::avx512,
    }
}

tiers!(fn step(v: &mut [i32], u: &mut [i32], fired: &mut [u8], acc: &[i32], neurons: LifNeurons<'_>) = body;);

fn check(v: &[i32], u: &[i32], fired: &[u8], acc: &[i32], neurons: &LifNeurons<'_>) {
    let n = v.len();
    assert!(n.is_multiple_of(LIF_LANES), "{n} neurons are no multiple of {LIF_LANES}");
    assert!(u.len() == neurons.keep_u.len() && (u.is_empty() || u.len() == n), "{} currents of {n}", u.len());
    assert!(fired.len() == n && acc.len() == n, "one flag and one sum per neuron");
    assert!(neurons.keep_v.len() == n && neurons.threshold.len() == n, "one factor and one threshold per neuron");
    assert!(neurons.current.len() == n && neurons.bias.len() == n, "one current and one bias per neuron");
    assert!(neurons.shift <= 16, "a shift of {}", neurons.shift);
}

/// `sign(x) * ((|x| * keep) >> 12)` for a `keep` of at most 4096.
#[inline(always)]
pub fn decay(x: i32, keep: u16) -> i32 {
    // In two parts, so that 32 bits hold every product: the upper one loses nothing, the lower one is rounded once.
    let (magnitude, keep) = (x.unsigned_abs(), u32::from(keep));
    let low = magnitude & ((1 << DECAY_BITS) - 1);
    let kept = (magnitude >> DECAY_BITS).wrapping_mul(keep).wrapping_add(low.wrapping_mul(keep) >> DECAY_BITS);
    if x < 0 { kept.cast_signed().wrapping_neg() } else { kept.cast_signed() }
}

/// Wraps at 24 bits by one turn, as Lava does.
#[inline(always)]
fn wrap(u: i32) -> i32 {
    const LIMIT: i32 = MEMBRANE_MAX + 1;
    let up = if u > LIMIT { u.wrapping_sub(2 * LIMIT) } else { u };
    if up <= -LIMIT { u.wrapping_add(2 * LIMIT) } else { up }
}

#[inline(always)]
fn body(v: &mut [i32], u: &mut [i32], fired: &mut [u8], acc: &[i32], neurons: LifNeurons<'_>) {
    // Slices of one known length, so that no index below is checked.
    let n = v.len();
    let (v, fired, acc) = (&mut v[..n], &mut fired[..n], &acc[..n]);
    let (keep_v, threshold) = (&neurons.keep_v[..n], &neurons.threshold[..n]);
    let (current, bias) = (&neurons.current[..n], &neurons.bias[..n]);
    let subtract = neurons.reset == Reset::Subtract;
    let synapse = !u.is_empty();
    if synapse {
        let (u, keep_u) = (&mut u[..n], &neurons.keep_u[..n]);
        for j in 0..n {
            let c = (acc[j] << neurons.shift).wrapping_add(current[j]);
            u[j] = wrap(decay(u[j], keep_u[j]).wrapping_add(c));
        }
    }
    for j in 0..n {
        let drive = if synapse { u[j] } else { (acc[j] << neurons.shift).wrapping_add(current[j]) };
        let next = decay(v[j], keep_v[j]).wrapping_add(drive).wrapping_add(bias[j]).clamp(-MEMBRANE_MAX, MEMBRANE_MAX);
        let spike = next > threshold[j];
        let after = if subtract { next.wrapping_sub(threshold[j]) } else { 0 };
        v[j] = if spike { after } else { next };
        fired[j] = u8::from(spike);
    }
}
