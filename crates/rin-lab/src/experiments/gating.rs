//! Which neurons of a trained network can be left out.

use super::{gating_trained, loss};
use crate::decoder::{Arithmetic, Decoder, Gate, Seen, cut_off, magnitudes};
use crate::report::{Axis, Picture, Series, Table, digits, interval, percent};
use crate::results::Results;
use crate::{Case, Context, Error, Experiment, Findings, Scale, Verdict};

const SHARES: [f64; 6] = [0.3, 0.5, 0.6, 0.7, 0.8, 0.9];
/// The control takes fewer.
const RANDOM_SHARES: [f64; 3] = [0.3, 0.5, 0.9];
const KINDS: [(&str, Kind); 3] = [("hidden", Kind::Hidden), ("gate", Kind::Activation), ("random", Kind::Random)];
const MARGIN: f64 = 0.02;
/// Windows of training text that thresholds are taken from.
const CALIBRATION: usize = 8;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "gating",
    title: "Phase gating (dynamic sparsity)",
    claim: "Phases switch 90 % of the connections off. The seed's phases are not trained: the share follows from the threshold (random phases give \
            92 %), and reading a two-byte phase to skip a one-byte weight moves more bytes than the dense product.",
    definition: "Whole neurons of the feed-forward network are left out, so that their weights need not be read: \
                 where the product of gate and up part is below its layer's threshold (`hidden`, TEAL's rule: saves \
                 columns of the down matrix), where the activated gate is (`gate`, CATS' rule: saves rows of the up \
                 matrix too), or at random, as a control. Thresholds are quantiles over training text. Trained for \
                 it: max(gate, 0)² in the place of SwiGLU's gate (`ReLU²`, `rin_train::network::FeedForward`). Phases: a neuron \
                 counts where its learned angle is nearer than π / 10 to the token's, which is that of two learned products with the residual stream; \
                 gradients are those of a sigmoid of the cosine. Controls: a tenth of the neurons, drawn for each character; a tenth of the width. Chosen before gates are known: the \
                 tenth of the neurons whose gates are largest by a gate matrix of rank 16, 32 or 64 that is fitted to the gates of training text by \
                 least squares (in the place of Deja Vu's predictors), or, for all tokens alike, the tenth that moves the residual stream most (pruning).",
    reference: "A masked product is the masked dense product by construction: values are set to zero. TEAL (Liu et al. 2024) and CATS (Lee et al. 2024) \
                for the rules, Primer (So et al. 2021) for ReLU². The skipping product is held against the masked one.",
    method: "The loss of the model inside the binary (SwiGLU, not trained for sparsity) on the validation split of \
             tiny Shakespeare, by share left out; equivalence within 0.02 nats by two one-sided t tests over blocks \
             of 1,000 characters. Trained networks: two layers of width 128 with 800 neurons, 2,500 \
             steps of eight windows of 128 characters, six seeds of SwiGLU and ReLU², the first three of them for phases and their controls, the rate of each the best of three in trainings of half \
             the steps with another seed; paired t tests over seeds with Holm's adjustment; neurons whose gate is \
             below a threshold left out after training (50 % and, where that holds, 80, 90, 95 and 99 %: one-sided paired t tests of \
             \"at most 0.02 nats worse\"). Time: the products of a token with layers of random weights that are \
             larger than the caches, dense and skipping in turns. The component is validated with limits where ReLU² \
             at 90 % and more is at most 0.02 nats worse than whole SwiGLU and products with a tenth of the neurons \
             are twice as fast; validated, where phases are at most 0.02 nats worse than SwiGLU, too; negative where ReLU² or \
             the products do not reach that. Earlier runs had ended while the networks were still learning: 600 steps of four windows of 64 characters (three seeds, ReLU² -0.0109 \
             nats from SwiGLU, 95 % interval -0.0811 to 0.0594), then 1,000 steps of eight windows of 128 (six seeds, ReLU² worse by 0.037, the best rate of both the largest that was tried), of which routes were not run to the end. Of \
             this run two seeds of ReLU² were first trained at 8e-3, which trainings of 400 steps had picked, and came out 0.064 and 0.101 nats worse than SwiGLU; the rates of all arms were then chosen anew \
             in longer trainings, and those of ReLU² from a list with smaller ones.",
    expected: "After training for it (ReLU²) 85 to 95 % of the neurons; without such training 40 to 50 %. Phases at \
               best as good as magnitudes. Never 90 % of the whole network. Products with a tenth of the neurons \
               about twice as fast: attention's and the gate's matrices are read whole, so 12.6 of 27 parts are \
               left.",
    reopens: "Larger networks, larger texts. A decoder in the engine that skips, with 8-bit weights, timed as a whole.",
    revision: 2,
    cases,
    judge,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Hidden,
    Activation,
    Random,
}

impl Kind {
    fn shares(self) -> &'static [f64] {
        if self == Self::Random { &RANDOM_SHARES } else { &SHARES }
    }
}

fn cases(scale: Scale) -> Vec<Case> {
    let chars = scale.pick(20_000, usize::MAX);
    let mut cases = vec![loss::case(loss::FLOAT, chars, |_, _, _| Ok(Arithmetic::FLOAT))];
    for (name, kind) in KINDS {
        for share in kind.shares().iter().copied() {
            cases.push(loss::case(case_name(name, share), chars, move |decoder, train, context| {
                let gate = gate(decoder, kind, share, train, context)?;
                Ok(Arithmetic { gate, ..Arithmetic::FLOAT })
            }));
        }
    }
    cases.extend(gating_trained::cases(scale));
    cases
}

fn case_name(kind: &str, share: f64) -> String {
    format!("loss, {kind}, {share}")
}

fn gate(decoder: &Decoder, kind: Kind, share: f64, train: &[u32], context: &Context<'_>) -> Result<Gate, Error> {
    if kind == Kind::Random {
        return Ok(Gate::Random { share, seed: 1 });
    }
    let mut all: Vec<Vec<f32>> = vec![Vec::new(); decoder.config().n_layers];
    for window in train.chunks(decoder.config().ctx).take(CALIBRATION) {
        context.check()?;
        let mut seen = Seen::default();
        decoder.logits(window, &Arithmetic::FLOAT, Some(&mut seen))?;
        let values = if kind == Kind::Hidden { &seen.hidden } else { &seen.activation };
        for (all, values) in all.iter_mut().zip(values) {
            all.extend(values);
        }
    }
    let thresholds = all.iter().map(|values| cut_off(&magnitudes(values), share)).collect();
    Ok(if kind == Kind::Hidden { Gate::Hidden(thresholds) } else { Gate::Activation(thresholds) })
}

fn judge(results: &Results) -> Result<Findings, Error> {
    let mut table = Table::new(
        format!(
            "More nats per character than the whole network ({:.5}) by share of neurons left out, 95 % interval:",
            results.number(loss::FLOAT, "/mean")?
        ),
        &["rule", "asked for", "left out", "more nats", "95 % interval", "p of equivalence within 0.02"],
    );
    let mut series = Vec::new();
    // The largest share at which a rule is the same within the margin.
    let mut best = [0.0_f64; 3];
    for (at, (name, kind)) in KINDS.iter().enumerate() {
        let mut points = Vec::new();
        for share in kind.shares().iter().copied() {
            let case = case_name(name, share);
            let found = loss::difference(results, &case, loss::FLOAT, MARGIN)?;
            let left_out = results.number(&case, "/left_out")?;
            if found.equivalence.holds() {
                best[at] = best[at].max(left_out);
            }
            points.push((100.0 * left_out, found.paired.mean));
            let ci = found.ci95.map_or_else(|| "-".to_owned(), interval);
            table.row([
                (*name).to_owned(),
                percent(share),
                percent(left_out),
                format!("{:+.5}", found.paired.mean),
                ci,
                digits(found.equivalence.p),
            ]);
        }
        series.push(Series::line(*name, points));
    }
    let [hidden, activation, random] = best;
    let trained = gating_trained::judge(results)?;
    let because = format!(
        "{} Without training for it, {} of the hidden neurons can be left out by their own size and {} by their gate's for 0.02 nats, {} at random.",
        trained.because,
        percent(hidden),
        percent(activation),
        percent(random),
    );
    let verdict = match (trained.share >= 0.895 && trained.speed >= 2.0, trained.phases) {
        (true, true) => Verdict::Validated,
        (true, false) => Verdict::ValidatedWithLimits,
        (false, _) => Verdict::Negative,
    };
    Ok(Findings::judged(results, verdict, because)
        .tables(trained.tables)
        .table(table)
        .picture(Picture {
            title: "Loss by share of hidden neurons left out, without training for it".to_owned(),
            x: ("left out, %".to_owned(), Axis::Linear),
            y: ("more nats".to_owned(), Axis::Log),
            series,
        })
        .picture(trained.picture)
        .note(trained.note)
        .note(
            "90 % of the neurons are not 90 % of the network: the seed's claim is about connections. The down matrix is a third of the feed-forward weights, so a share s by `hidden` saves s/3 \
             of its bytes and by `gate` 2s/3.",
        ))
}
