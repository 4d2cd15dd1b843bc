//! What an exchanged part does to the loss of a trained model: the model inside the binary, on the validation split of tiny
//! Shakespeare, block by block, so that arms are compared on the same characters.

use rin_bench::stats::mean;
use rin_bench::stats::student::{Equivalence, Paired, equivalence, paired};
use rin_engine::eval::{EvalText, mean_interval};
use rin_engine::tokenizer::Tokenizer;
use serde_json::json;

use crate::decoder::{Arithmetic, Decoder, losses};
use crate::report::{Table, digits, interval};
use crate::results::Results;
use crate::{Case, Context, Error};

/// Characters of a block.
const BLOCK: usize = 1000;
/// The text, in the data folder.
const TEXT: &str = "text/tinyshakespeare.txt";

/// Ids of the text: the first 90 %, which the model was trained on, and the rest.
pub(super) fn text(context: &Context<'_>) -> Result<(Vec<u32>, Vec<u32>), Error> {
    let path = context.data(TEXT)?;
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let tokenizer = Tokenizer::of_model(&rin_embedded::model()?)?;
    let ids = EvalText::encode(&tokenizer, &text, None)?.ids;
    let split = ids.len() * 9 / 10;
    Ok((ids[..split].to_vec(), ids[split..].to_vec()))
}

/// A case that evaluates an arm on `chars` characters of the validation split. `arm` may change the decoder, and sees text
/// that it may calibrate on.
pub(super) fn case(
    name: impl Into<String>,
    chars: usize,
    arm: impl Fn(&mut Decoder, &[u32], &Context<'_>) -> Result<Arithmetic, Error> + 'static,
) -> Case {
    Case::new(name, move |context| {
        let (train, validation) = text(context)?;
        let mut decoder = Decoder::read(&rin_embedded::model()?)?;
        let how = arm(&mut decoder, &train, context)?;
        let (losses, left_out) = losses(&decoder, &validation[..chars.min(validation.len())], &how, context)?;
        let blocks: Vec<f64> = losses.chunks_exact(BLOCK).filter_map(mean).map(|x| (x * 1e9).round() / 1e9).collect();
        Ok(json!({ "chars": losses.len(), "mean": mean(&losses), "left_out": left_out, "blocks": blocks }))
    })
}

/// An arm against another.
pub(super) struct Difference {
    /// How much more that is.
    pub(super) paired: Paired,
    /// The interval of it by resampling blocks.
    pub(super) ci95: Option<[f64; 2]>,
    /// Whether that is nothing within a margin.
    pub(super) equivalence: Equivalence,
}

/// Compares two arms, block by block.
pub(super) fn difference(results: &Results, arm: &str, base: &str, margin: f64) -> Result<Difference, Error> {
    let (a, b) = (results.numbers(arm, "/blocks")?, results.numbers(base, "/blocks")?);
    let differences: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
    let few = || Error::Missing { experiment: results.header.experiment.clone(), what: format!("blocks of {arm}") };
    Ok(Difference {
        paired: paired(&differences).ok_or_else(few)?,
        ci95: mean_interval(&differences, 1),
        equivalence: equivalence(&differences, margin).ok_or_else(few)?,
    })
}

/// The case that all arms are held against.
pub(super) const FLOAT: &str = "loss, float";

/// The table of arms against [`FLOAT`], and the differences.
pub(super) fn table(
    results: &Results,
    what: &str,
    arms: impl IntoIterator<Item = String>,
    margin: f64,
) -> Result<(Table, Vec<(String, Difference)>), Error> {
    let mut table = Table::new(
        format!(
            "Loss of the trained model, {} characters; float: {:.5} nats. Margin {margin} nats:",
            results.number(FLOAT, "/chars")?,
            results.number(FLOAT, "/mean")?
        ),
        &[what, "more nats than float", "95 % interval", "p of equivalence"],
    );
    let mut found = Vec::new();
    for arm in arms {
        let difference = difference(results, &arm, FLOAT, margin)?;
        let ci = difference.ci95.map_or_else(|| "-".to_owned(), interval);
        let name = arm.replace("loss, ", "");
        table.row([name, format!("{:+.5}", difference.paired.mean), ci, digits(difference.equivalence.p)]);
        found.push((arm, difference));
    }
    Ok((table, found))
}
