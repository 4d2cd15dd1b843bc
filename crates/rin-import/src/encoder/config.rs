//! `config.json` of encoders.

use crate::foreign::ForeignError;
use rin_model::Function;
use serde::Deserialize;
use std::collections::BTreeMap;

/// `model_type`s that are imported.
pub(super) const TYPES: [&str; 5] = ["bert", "roberta", "xlm-roberta", "distilbert", "vit"];

/// What a configuration says of the network; other keys concern training or other kinds of networks.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct EncoderConfig {
    #[serde(default)]
    pub(super) model_type: String,
    #[serde(default)]
    pub(super) architectures: Option<Vec<String>>,
    #[serde(alias = "n_heads")]
    num_attention_heads: Option<usize>,
    #[serde(alias = "n_layers")]
    num_hidden_layers: Option<usize>,
    #[serde(alias = "activation")]
    hidden_act: Option<String>,
    layer_norm_eps: Option<f32>,
    #[serde(default)]
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    #[serde(default)]
    add_cross_attention: bool,
    #[serde(default)]
    pub(super) pad_token_id: Option<usize>,
    #[serde(default)]
    pooler_act: Option<String>,
    #[serde(default)]
    image_size: Option<Size>,
    #[serde(default)]
    patch_size: Option<Size>,
    #[serde(default)]
    num_channels: Option<usize>,
    #[serde(default)]
    id2label: Option<BTreeMap<String, String>>,
}

/// A side, or height and width.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Size {
    Side(usize),
    Sides([usize; 2]),
}

impl Size {
    fn sides(self) -> [usize; 2] {
        match self {
            Self::Side(side) => [side, side],
            Self::Sides(sides) => sides,
        }
    }
}

/// The sizes of a picture and its squares.
#[derive(Debug, Clone, Copy)]
pub(super) struct Picture {
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) patch: usize,
}

fn missing(key: &str) -> ForeignError {
    ForeignError::unsupported(format!("config.json does not say `{key}`; the folder is not complete"))
}

impl EncoderConfig {
    /// Whether it is of a kind that is imported.
    pub(super) fn is_known(&self) -> bool {
        TYPES.contains(&self.model_type.as_str())
    }

    /// What the whole network is called, such as `BertForSequenceClassification`.
    pub(super) fn architecture(&self) -> &str {
        self.architectures.as_deref().and_then(|names| names.first()).map_or("", String::as_str)
    }

    /// Refuses what the builder does not write down.
    pub(super) fn check(&self) -> Result<(), ForeignError> {
        let other = [
            (self.is_decoder, "is_decoder"),
            (self.add_cross_attention, "add_cross_attention"),
            (
                self.position_embedding_type.as_ref().is_some_and(|kind| kind != "absolute"),
                "position_embedding_type other than `absolute`",
            ),
        ];
        match other.iter().find(|(found, _)| *found) {
            Some((_, what)) => Err(ForeignError::unsupported(format!(
                "config.json asks for {what}, which is no network that RIN runs"
            ))),
            None => Ok(()),
        }
    }

    pub(super) fn heads(&self) -> Result<usize, ForeignError> {
        self.num_attention_heads.ok_or_else(|| missing("num_attention_heads"))
    }

    pub(super) fn layers(&self) -> Result<usize, ForeignError> {
        self.num_hidden_layers.ok_or_else(|| missing("num_hidden_layers"))
    }

    /// ε of the norms; DistilBERT's is a constant of its program, of the others what their programs take where none is given.
    pub(super) fn eps(&self) -> f32 {
        self.layer_norm_eps.unwrap_or(1e-12)
    }

    pub(super) fn activation(&self) -> Result<Function, ForeignError> {
        function(self.hidden_act.as_deref().ok_or_else(|| missing("hidden_act"))?)
    }

    /// The function of the pooled output.
    pub(super) fn pooler_activation(&self) -> Result<Function, ForeignError> {
        function(self.pooler_act.as_deref().unwrap_or("tanh"))
    }

    /// Names of `n` classes; none where they are numbered only.
    pub(super) fn labels(&self, n: usize) -> Vec<String> {
        let Some(names) = &self.id2label else { return Vec::new() };
        let named: Option<Vec<String>> = (0..n).map(|i| names.get(&i.to_string()).cloned()).collect();
        let named = named.filter(|_| names.len() == n).unwrap_or_default();
        let numbered = named.iter().enumerate().all(|(i, name)| *name == format!("LABEL_{i}"));
        if numbered { Vec::new() } else { named }
    }

    pub(super) fn picture(&self) -> Result<Picture, ForeignError> {
        let [height, width] = self.image_size.ok_or_else(|| missing("image_size"))?.sides();
        let [patch, other] = self.patch_size.ok_or_else(|| missing("patch_size"))?.sides();
        if patch != other {
            return Err(ForeignError::unsupported(format!("patches of {patch} x {other} are no squares")));
        }
        Ok(Picture { channels: self.num_channels.unwrap_or(3), height, width, patch })
    }
}

/// A function by the name that `transformers` has for it.
fn function(name: &str) -> Result<Function, ForeignError> {
    Ok(match name {
        "gelu" => Function::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Function::GeluTanh,
        "relu" => Function::Relu,
        "silu" | "swish" => Function::Silu,
        "tanh" => Function::Tanh,
        "sigmoid" => Function::Sigmoid,
        other => {
            let what = format!("config.json asks for the activation `{other}`, which RIN does not run in encoders");
            return Err(ForeignError::unsupported(what));
        }
    })
}
