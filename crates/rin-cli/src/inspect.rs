//! `rin inspect`: what a model file holds, and what a run of it would take.

use std::fmt::Write;

use anyhow::Result;
use rin_engine::limits::MemoryLimit;
use rin_engine::network::{NetworkPlan, rows_at_once};
use rin_engine::plan::{Cut, Slot};
use rin_engine::sampler::SamplingParams;
use rin_engine::snn::{Piece, Simulator};
use rin_engine::tokenizer::Tokenizer;
use rin_engine::topology::Topology;
use rin_engine::{LoadOptions, Plan};
use rin_model::{Array, Config, FileFormat, Mode, ModelFile, RopeScaling, Value};
use serde_json::{Map, Value as Json, json};

use crate::args::InspectArgs;
use crate::exit::Usage;
use crate::json::{Inspect, Model, PlanInfo, RankInfo, SpecialInfo, Tensor, TokenizerInfo};
use crate::output::{Size, shown};
use crate::{model_path, output};

/// Most elements of an array that are shown.
const MAX_ELEMENTS: usize = 16;

/// Shows a model.
///
/// # Errors
/// Where the file is damaged; with `--plan` also where its network cannot be run.
pub(crate) fn inspect(args: &InspectArgs) -> Result<()> {
    let file = model_path::open(&args.model)?;
    // As `rin run` without sampling flags.
    let options = LoadOptions { text: Some(SamplingParams::default()), ..args.machine.load_options() };
    let mode = args.machine.mode(&file)?;
    let network = file.network();
    let (mut plan, mut network_plan, mut spiking_plan) = (None, None, None);
    match network {
        Some(_) if args.plan && mode == Some(Mode::Snn) => {
            let network = rin_engine::snn::Network::of_file(&file)?;
            let threads = options.threads.unwrap_or_else(|| Topology::of_this_machine().default_threads());
            spiking_plan = Some(SpikingSizes::of(&network, threads)?);
        }
        Some(network) if args.plan => {
            let rows = rows_at_once(network, options.n_batch, options.ctx);
            network_plan = Some(NetworkPlan::limited(&file, rows, options.ctx)?);
        }
        None if args.plan => plan = Some(options.plan(&file)?),
        _ => {}
    }
    let asked = match (args.ranks, args.tp) {
        (Some(ranks), Some(tp)) if tp > 1 && ranks != tp => {
            let text = format!("--ranks {ranks} --tp {tp}: all ranks share rows, or each has layers; give one of them");
            return Err(Usage(text).into());
        }
        (_, Some(tp)) if tp > 1 => Some((tp, Cut::Rows)),
        (ranks, tp) => ranks.or(tp).map(|count| (count, Cut::Layers)),
    };
    let ranks = match (asked, &plan) {
        (None, _) => Vec::new(),
        (Some((count, cut)), Some(_)) => ranks(&file, &options, count.into(), cut)?,
        (Some(_), None) => return Err(Usage("--ranks and --tp are of networks that continue text".to_owned()).into()),
    };
    let mut problems = Vec::new();
    // The plan is known from the header alone; a look at what the file holds reads it.
    if file.format() == FileFormat::Rin && !args.plan {
        problems.extend(file.verify_sha256().err().map(|error| error.to_string()));
    }
    let (mut config, mut tokenizer) = (None, None);
    // A network on rows of numbers has neither.
    if network.is_none() {
        config = file.config().map_err(|error| problems.push(error.to_string())).ok();
        tokenizer = model_path::tokenizer(&file).map_err(|error| problems.push(format!("{error:#}"))).ok();
    }
    let object = Inspect {
        model: Model::of(&file, mode),
        config,
        network,
        tensors: file.tensors().iter().map(Tensor::of).collect(),
        tokenizer: tokenizer.as_ref().map(TokenizerInfo::of),
        metadata: file.metadata().map(|(key, value)| (key.to_owned(), json_value(key, &value))).collect(),
        problems,
        plan: match (&plan, &network_plan, &spiking_plan) {
            (Some(plan), ..) => Some(PlanInfo::of(&Sizes::of(plan), &options)),
            (_, Some(plan), _) => Some(PlanInfo::of(&Sizes::of_network(plan), &options)),
            (.., Some(plan)) => Some(PlanInfo::of(&plan.sizes(), &options)),
            (None, None, None) => None,
        },
        ranks,
    };
    if args.output.json {
        return output::json(&object);
    }
    let mut text = String::new();
    write_model(&mut text, &object, &file)?;
    if args.tensors {
        write_tensors(&mut text, &object.tensors)?;
    }
    if let Some(info) = &object.plan {
        match (&plan, &network_plan, &spiking_plan) {
            (Some(plan), ..) => write_sizes(&mut text, plan)?,
            (_, Some(plan), _) => writeln!(text, "plan       {} rows at once", plan.n_rows)?,
            (.., Some(plan)) => writeln!(text, "plan       {} threads, each with a state of its own", plan.threads)?,
            (None, None, None) => {}
        }
        write_plan(&mut text, info)?;
    }
    write_ranks(&mut text, &object.ranks)?;
    output::text(&text)
}

/// The plans of processes of equal speed, each with a share of the layers or rows; text is the first one's matter.
fn ranks(file: &ModelFile, options: &LoadOptions, count: usize, cut: Cut) -> Result<Vec<RankInfo>> {
    let stages = rin_cluster::stages(file, cut, &vec![1.0; count])?;
    let rank = |stage: rin_engine::plan::Stage| {
        let text = options.text.clone().filter(|_| stage.is_first());
        let plan = LoadOptions { stage: Some(stage), text, ..options.clone() }.plan(file)?;
        let sizes = Sizes::of(&plan);
        Ok(RankInfo {
            rank: stage.index,
            cut,
            first_layer: stage.first_layer,
            end_layer: stage.end_layer,
            total_bytes: sizes.total_bytes,
            weights_bytes: sizes.weights_bytes,
            state_bytes: sizes.state_bytes,
            scratch_bytes: sizes.scratch_bytes,
            vocabulary_bytes: sizes.vocabulary_bytes,
        })
    };
    stages.into_iter().map(rank).collect()
}

impl<'a> Tensor<'a> {
    fn of(tensor: &'a rin_model::TensorInfo) -> Self {
        Self {
            name: &tensor.name,
            shape: &tensor.shape,
            dtype: tensor.dtype,
            bytes: tensor.n_bytes,
            offset: tensor.offset,
        }
    }
}

impl TokenizerInfo {
    fn of(tokenizer: &Tokenizer) -> Self {
        let special = tokenizer.special().clone();
        let special = SpecialInfo {
            bos: special.bos,
            eos: special.eos,
            eot: special.eot,
            unk: special.unk,
            pad: special.pad,
            end: special.end,
            add_bos: special.add_bos,
            add_eos: special.add_eos,
        };
        Self { kind: tokenizer.kind(), vocab: tokenizer.vocab_size(), special }
    }
}

/// The bytes of a plan of either kind.
struct Sizes<'a> {
    weights_bytes: usize,
    state_bytes: usize,
    scratch_bytes: usize,
    vocabulary_bytes: usize,
    total_bytes: usize,
    slots: &'a [Slot],
}

impl<'a> Sizes<'a> {
    fn of(plan: &'a Plan) -> Self {
        Self {
            weights_bytes: plan.weights.bytes(),
            state_bytes: plan.state_bytes,
            scratch_bytes: plan.scratch_bytes,
            vocabulary_bytes: plan.vocabulary_bytes,
            total_bytes: plan.total_bytes(),
            slots: &plan.slots,
        }
    }

    fn of_network(plan: &'a NetworkPlan) -> Self {
        Self {
            weights_bytes: plan.weights.bytes(),
            state_bytes: plan.state_bytes,
            scratch_bytes: plan.scratch_bytes,
            vocabulary_bytes: 0,
            total_bytes: plan.total_bytes(),
            slots: &plan.slots,
        }
    }
}

/// The bytes of a spiking network.
struct SpikingSizes {
    threads: usize,
    weights_bytes: usize,
    total_bytes: usize,
    slots: Vec<Slot>,
}

impl SpikingSizes {
    fn of(network: &rin_engine::snn::Network, threads: usize) -> Result<Self> {
        let (total_bytes, pieces) = Simulator::plan(network, threads).map_err(rin_engine::Error::from)?;
        // What a second worker adds is its state.
        let (one, _) = Simulator::plan(network, 0).map_err(rin_engine::Error::from)?;
        let slot = |piece: Piece| {
            let Piece { name, offset, bytes } = piece;
            Slot { name, offset, bytes, first_step: 0, last_step: 0, state: true }
        };
        Ok(Self { threads, weights_bytes: one, total_bytes, slots: pieces.into_iter().map(slot).collect() })
    }

    fn sizes(&self) -> Sizes<'_> {
        Sizes {
            weights_bytes: self.weights_bytes,
            state_bytes: self.total_bytes - self.weights_bytes,
            scratch_bytes: 0,
            vocabulary_bytes: 0,
            total_bytes: self.total_bytes,
            slots: &self.slots,
        }
    }
}

impl<'a> PlanInfo<'a> {
    fn of(plan: &Sizes<'a>, options: &LoadOptions) -> Self {
        let limit: Option<MemoryLimit> = options.limit();
        let total_bytes = plan.total_bytes;
        let refusal = limit.as_ref().and_then(|limit| limit.admit(total_bytes as u64).err());
        Self {
            total_bytes,
            weights_bytes: plan.weights_bytes,
            state_bytes: plan.state_bytes,
            scratch_bytes: plan.scratch_bytes,
            vocabulary_bytes: plan.vocabulary_bytes,
            slots: plan.slots,
            fits: refusal.is_none(),
            refusal,
            limit_bytes: limit.as_ref().map(|limit| limit.bytes),
            limit_source: limit.map(|limit| limit.source),
        }
    }
}

/// A value of the metadata; long arrays become their length, element type and first elements.
fn json_value(key: &str, value: &Value<'_>) -> Json {
    match *value {
        Value::Uint(number) => number.into(),
        Value::Int(number) => number.into(),
        Value::F32(number) => f32_json(number),
        Value::F64(number) if number.is_finite() => number.into(),
        Value::F64(number) => number.to_string().into(),
        Value::Bool(truth) => truth.into(),
        Value::Str(text) => text.into(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into(),
        Value::Array(array) => {
            let first = first_elements(key, &array);
            match first {
                Some(elements) if array.len() <= MAX_ELEMENTS => Json::Array(elements),
                first => json!({ "len": array.len(), "elem": array.elem(), "first": first }),
            }
        }
        ref other => other.to_string().into(),
    }
}

/// JSON has no infinities; and 0.1 shall not become 0.10000000149.
fn f32_json(number: f32) -> Json {
    let text = number.to_string();
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => number.into(),
        _ => text.into(),
    }
}

/// The first elements, where this version can read their type.
fn first_elements(key: &str, array: &Array<'_>) -> Option<Vec<Json>> {
    if let Ok(strings) = array.strings(key) {
        return Some(strings.take(MAX_ELEMENTS).map(|text| String::from_utf8_lossy(text).into()).collect());
    }
    if let Ok(numbers) = array.f32s(key) {
        return Some(numbers.take(MAX_ELEMENTS).map(f32_json).collect());
    }
    let numbers = array.i32s(key).ok()?.take(MAX_ELEMENTS);
    // The reader gives unsigned elements as their bits.
    let unsigned = array.elem() == "u32";
    Some(numbers.map(|n| if unsigned { n.cast_unsigned().into() } else { n.into() }).collect())
}

fn write_model(text: &mut String, object: &Inspect<'_>, file: &ModelFile) -> std::fmt::Result {
    let model = &object.model;
    let known = |text: &Option<String>| text.as_deref().map_or_else(|| "unknown".to_owned(), |text| shown(text, 80));
    writeln!(text, "model      {}", shown(&model.name, 80))?;
    writeln!(text, "path       {}", model.path)?;
    writeln!(
        text,
        "file       {}, {} in {} tensors, {} parameters, mostly {}",
        model.format,
        Size(model.file_bytes),
        object.tensors.len(),
        model.n_params,
        model.quant.unwrap_or("nothing"),
    )?;
    match object.network {
        Some(network) => writeln!(text, "network    mode {}", network.mode)?,
        None => writeln!(text, "network    {}, {}", known(&model.arch), model.mode.unwrap_or("cannot be run"))?,
    }
    if let Some(config) = object.config {
        write_config(text, config)?;
    }
    if let Some(network) = object.network {
        crate::network::describe(text, network)?;
    }
    if let Some(tokenizer) = &object.tokenizer {
        let special = &tokenizer.special;
        let ids = |ids: &[u32]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(text, "tokenizer  {}, {} tokens", tokenizer.kind, tokenizer.vocab)?;
        if let Some(bos) = special.bos {
            write!(text, ", begins with {bos}{}", if special.add_bos { "" } else { " (not added)" })?;
        }
        writeln!(
            text,
            ", ends with {}",
            if special.end.is_empty() { "nothing".to_owned() } else { ids(&special.end) }
        )?;
    }
    for problem in &object.problems {
        writeln!(text, "problem    {problem}")?;
    }
    writeln!(text, "metadata   {} keys", object.metadata.len())?;
    for (key, value) in file.metadata() {
        writeln!(text, "  {} = {}", shown(key, 80), metadata_line(key, &value, &object.metadata))?;
    }
    Ok(())
}

/// A value on one line.
fn metadata_line(key: &str, value: &Value<'_>, metadata: &Map<String, Json>) -> String {
    const MAX: usize = 100;
    match value {
        Value::Array(array) => {
            let elements = metadata.get(key).map(|value| value.get("first").unwrap_or(value).to_string());
            let elements = elements.filter(|text| text != "null").unwrap_or_default();
            format!("{array} {}", shown(&elements, MAX))
        }
        value => shown(&value.to_string(), MAX),
    }
}

fn write_config(text: &mut String, config: &Config) -> std::fmt::Result {
    writeln!(
        text,
        "           {} layers of width {}, {} heads over {} of {}, feed-forward {}",
        config.n_layers, config.dim, config.n_heads, config.n_kv_heads, config.head_dim, config.ffn_dim,
    )?;
    write!(text, "           vocabulary {}, context {}", config.vocab, config.ctx)?;
    if let Some(window) = config.window {
        write!(text, ", window {window}")?;
    }
    let rope = &config.rope;
    let scaling = match rope.scaling {
        RopeScaling::None => String::new(),
        ref scaling => format!(", {scaling:?}"),
    };
    if config.learned_positions() {
        write!(text, ", learned positions")?;
    } else {
        write!(text, ", rope {} over {} of a head{scaling}", rope.base, rope.dims)?;
    }
    writeln!(text, "{}", if config.tied_embeddings { ", tied embeddings" } else { "" })
}

fn write_tensors(text: &mut String, tensors: &[Tensor<'_>]) -> std::fmt::Result {
    let width = tensors.iter().map(|tensor| tensor.name.chars().count()).max().unwrap_or(0).clamp(6, 60);
    writeln!(text, "tensors")?;
    writeln!(text, "  {:width$} {:>16} {:>8} {:>14} {:>14}", "name", "shape", "type", "bytes", "offset")?;
    for tensor in tensors {
        let shape = tensor.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ");
        writeln!(
            text,
            "  {:width$} {shape:>16} {:>8} {:>14} {:>14}",
            shown(tensor.name, 60),
            tensor.dtype,
            tensor.bytes,
            tensor.offset,
        )?;
    }
    Ok(())
}

fn write_sizes(text: &mut String, plan: &Plan) -> std::fmt::Result {
    writeln!(
        text,
        "plan       context {}, batch {}, keys and values in {}",
        plan.options.ctx,
        plan.options.n_batch,
        plan.kv_type.name(),
    )
}

fn write_plan(text: &mut String, info: &PlanInfo<'_>) -> std::fmt::Result {
    writeln!(text, "  {:<32} {:>14} {:>14} {:>11}", "slot", "offset", "bytes", "steps")?;
    for slot in info.slots {
        let steps = format!("{}-{}", slot.first_step, slot.last_step);
        writeln!(text, "  {:<32} {:>14} {:>14} {steps:>11}", shown(&slot.name, 32), slot.offset, slot.bytes)?;
    }
    let sums = [
        ("weights", info.weights_bytes),
        ("state", info.state_bytes),
        ("scratch", info.scratch_bytes),
        ("vocabulary", info.vocabulary_bytes),
        ("total", info.total_bytes),
    ];
    for (name, bytes) in sums {
        writeln!(text, "{name:<10} {bytes} bytes ({})", Size(bytes as u64))?;
    }
    match (info.limit_bytes, &info.limit_source) {
        (Some(bytes), Some(source)) => writeln!(text, "limit      {bytes} bytes ({}), set by {source}", Size(bytes))?,
        _ => writeln!(text, "limit      none known")?,
    }
    match &info.refusal {
        Some(refusal) => writeln!(text, "fits       no: {refusal}"),
        None => writeln!(text, "fits       yes"),
    }
}

fn write_ranks(text: &mut String, ranks: &[RankInfo]) -> std::fmt::Result {
    if ranks.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "  {:<6} {:>9} {:>14} {:>14} {:>14} {:>14}",
        "rank", "layers", "weights", "state", "scratch", "total"
    )?;
    for rank in ranks {
        let rows = if rank.cut == Cut::Rows { format!(" 1/{}", ranks.len()) } else { String::new() };
        let layers = format!("{}-{}{rows}", rank.first_layer, rank.end_layer);
        writeln!(
            text,
            "  {:<6} {layers:>9} {:>14} {:>14} {:>14} {:>14}",
            rank.rank, rank.weights_bytes, rank.state_bytes, rank.scratch_bytes, rank.total_bytes,
        )?;
    }
    Ok(())
}
