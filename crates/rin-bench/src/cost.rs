//! What the steps of a plan have to read and to multiply at the least, counted from the plan itself.

use rin_engine::Plan;
use rin_engine::plan::{MemoryStep, Step};
use rin_kernels::ops::attention::PAGE;
use rin_kernels::pack::LANES;

/// Bytes and products of a forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Products of a weight and an activation per token, before the rows for the logits are selected.
    pub body_products: u64,
    /// The same per row of logits.
    pub head_products: u64,
    /// Bytes of weights that every step reads, packed as they are run.
    pub weight_bytes: u64,
    /// Bytes of the embedding's row of one token.
    pub embedding_bytes: u64,
    /// Bytes of keys and values of one position, over all layers.
    pub kv_bytes: u64,
    /// Attention reaches back this many positions; none: all.
    pub window: Option<usize>,
}

impl Cost {
    /// Of a plan: the sum over its steps, but for the activations and the products of attention.
    pub fn of(plan: &Plan) -> Self {
        let mut cost = Self { window: plan.config.window, ..Self::default() };
        for i in 0..plan.steps.len() {
            let step = StepCost::of(plan, i);
            cost.embedding_bytes += step.row_weight_bytes;
            cost.weight_bytes += step.weight_bytes;
            cost.kv_bytes += step.kv_bytes;
            *(if i < plan.head { &mut cost.body_products } else { &mut cost.head_products }) += step.products;
        }
        cost
    }

    /// Bytes that a step of one token in each of `n_sequences` sequences reads, the tokens being at `position` (from 0).
    pub fn decode_bytes(&self, n_sequences: usize, position: usize) -> u64 {
        let reach = position.saturating_add(1).min(self.window.unwrap_or(usize::MAX)) as u64;
        let per_sequence = self.embedding_bytes.saturating_add(self.kv_bytes.saturating_mul(reach));
        self.weight_bytes.saturating_add(per_sequence.saturating_mul(n_sequences as u64))
    }

    /// Integer or float operations of the products of a prompt, two per product; attention is not counted.
    pub fn prompt_ops(&self, tokens: usize) -> f64 {
        2.0 * (self.body_products as f64 * tokens as f64 + self.head_products as f64)
    }
}

/// What one forward pass is fed: the next tokens of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Position of the first token, from 0.
    pub position: usize,
    /// Tokens.
    pub tokens: usize,
    /// Rows of logits that are wanted.
    pub rows: usize,
}

/// Bytes and products of one step of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepCost {
    /// The rows whose logits are wanted count, not all tokens.
    pub selected: bool,
    /// Bytes of weights that are read once for all rows, packed as they are run.
    pub weight_bytes: u64,
    /// Bytes of weights that each row reads: of the embedding.
    pub row_weight_bytes: u64,
    /// Bytes of keys and values of one position that attention looks back at.
    pub kv_bytes: u64,
    /// Bytes of activations that each row reads and writes; none of products and attention, whose own bytes outweigh them.
    pub row_bytes: u64,
    /// Products of a weight and an activation per row.
    pub products: u64,
    /// Products of attention per row and position that it looks back at.
    pub position_products: u64,
    /// Attention reaches back this many positions; none: all.
    pub window: Option<usize>,
}

impl StepCost {
    /// Of step `i` of a plan; nothing where there is no such step.
    pub fn of(plan: &Plan, i: usize) -> Self {
        let c = &plan.config;
        let vector = |id| 4 * plan.weights.vector_len(id);
        let kv_row = (plan.kv_type.k_page_bytes(c.head_dim) + plan.kv_type.v_page_bytes(c.head_dim)) / PAGE;
        let kv_bytes = (c.n_kv_heads as u64).saturating_mul(kv_row as u64);
        let row = |values: usize| (values as u64).saturating_mul(4);
        let mut cost = Self { selected: i >= plan.head, window: c.window, ..Self::default() };
        let Some(step) = plan.steps.get(i) else { return cost };
        match step {
            Step::Embed { table, .. } => {
                cost.row_weight_bytes = (plan.weights.get(*table).panel_bytes / LANES) as u64;
                cost.row_bytes = row(c.dim);
            }
            Step::Positions { table, .. } => {
                cost.row_weight_bytes = (plan.weights.get(*table).panel_bytes / LANES) as u64;
                cost.row_bytes = row(2 * c.dim);
            }
            // Made of the position alone.
            Step::RopeTable { .. } => cost.row_bytes = row(c.rope.dims / 2 * 2),
            Step::Norm { weight, out, .. } => {
                cost.weight_bytes = vector(*weight) as u64;
                cost.row_bytes = row(2 * out.cols);
            }
            Step::Linear { parts, .. } => {
                for part in parts {
                    let matrix = plan.weights.get(part.matrix);
                    let bytes = matrix.rows.div_ceil(LANES) * matrix.panel_bytes + part.bias.map_or(0, vector);
                    cost.weight_bytes += bytes as u64;
                    cost.products += (matrix.rows as u64).saturating_mul(matrix.cols as u64);
                }
            }
            Step::RopeStore { .. } => {
                // Queries and keys there and back, the values, cosines and sines.
                let (q, kv) = (c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim);
                cost.row_bytes = row(2 * (q + kv) + kv + c.rope.dims / 2 * 2).saturating_add(kv_bytes);
            }
            Step::Attend { out, .. } => {
                cost.kv_bytes = kv_bytes;
                // A query with a key, and a weight with a value.
                cost.position_products = 2 * out.cols as u64;
            }
            Step::SwiGlu { gate, .. } => cost.row_bytes = row(3 * gate.cols),
            Step::Select { .. } => {
                cost.selected = true;
                cost.row_bytes = row(2 * c.dim);
            }
            // There and back.
            Step::Gather(gather) => cost.row_bytes = row(2 * gather.width.all),
            Step::Memory(step) => {
                let written: usize = step.outputs().into_iter().flatten().map(|(_, cols)| cols).sum();
                cost.row_bytes = row(2 * written);
                if let MemoryStep::Recur(recur) = step {
                    // Each number of the memory there and back, and a product each for decay, write and read.
                    let numbers = recur.heads * recur.rows * recur.cols;
                    cost.row_bytes = cost.row_bytes.saturating_add(row(2 * numbers));
                    cost.products = 3 * numbers as u64;
                }
            }
        }
        cost
    }

    fn rows(&self, work: &Work) -> u64 {
        (if self.selected { work.rows } else { work.tokens }) as u64
    }

    /// Bytes of the model and the cache that it has to read at the least: none of them twice.
    pub fn model_bytes(&self, work: &Work) -> u64 {
        let rows = self.rows(work);
        if rows == 0 {
            return 0;
        }
        let first = self.window.map_or(0, |window| work.position.saturating_add(1).saturating_sub(window));
        let reach = work.position.saturating_add(work.tokens).saturating_sub(first) as u64;
        let per_row = self.row_weight_bytes.saturating_mul(rows);
        self.weight_bytes.saturating_add(per_row).saturating_add(self.kv_bytes.saturating_mul(reach))
    }

    /// Bytes that it has to move at the least: those of the model and the cache, and the activations.
    pub fn bytes(&self, work: &Work) -> u64 {
        self.model_bytes(work).saturating_add(self.row_bytes.saturating_mul(self.rows(work)))
    }

    /// Operations of its products, two per product.
    pub fn ops(&self, work: &Work) -> u64 {
        let mut products = self.products.saturating_mul(self.rows(work));
        if self.position_products > 0 {
            let most = self.window.unwrap_or(usize::MAX);
            let reach = |token: usize| work.position.saturating_add(token).saturating_add(1).min(most) as u64;
            let positions = (0..work.tokens).map(reach).fold(0, u64::saturating_add);
            products = products.saturating_add(self.position_products.saturating_mul(positions));
        }
        products.saturating_mul(2)
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact in binary, or made by the same division")]
mod tests {
    use super::*;
    use rin_engine::LoadOptions;
    use rin_kernels::ops::attention::KvType;
    use rin_model::ModelFile;
    use rin_testkit::data::conformance;

    /// Against the formulas of the family, from the numbers in the file's configuration.
    #[test]
    fn a_llama_is_counted_as_its_formulas_say() {
        let file = ModelFile::open(&conformance("models/tiny-llama")).unwrap();
        let options = LoadOptions { ctx: Some(64), kv_type: Some(KvType::F16), ..LoadOptions::default() };
        let cost = Cost::of(&options.plan(&file).unwrap());
        let c = file.config().unwrap();
        let attention = 2 * c.dim * c.q_dim() + 2 * c.dim * c.kv_dim();
        assert_eq!(cost.body_products, (c.n_layers * (attention + 3 * c.dim * c.ffn_dim)) as u64);
        assert_eq!(cost.head_products, (c.dim * c.vocab) as u64);
        assert_eq!(cost.kv_bytes, (c.n_layers * 2 * c.kv_dim() * 2) as u64);
        let embedding = file.tensor("token_embd.weight").unwrap();
        assert_eq!(Some(cost.embedding_bytes), embedding.dtype.row_bytes(c.dim as u64));
        let one = cost.decode_bytes(1, 9);
        assert_eq!(cost.decode_bytes(1, 10) - one, cost.kv_bytes);
        assert_eq!(cost.decode_bytes(3, 9) - one, 2 * (10 * cost.kv_bytes + cost.embedding_bytes));
        assert_eq!(cost.prompt_ops(8), 2.0 * (8 * cost.body_products + cost.head_products) as f64);
    }

    #[test]
    fn a_window_bounds_what_is_read() {
        let cost = Cost { weight_bytes: 1000, kv_bytes: 10, window: Some(4), ..Cost::default() };
        assert_eq!([2, 3, 4, 90].map(|position| cost.decode_bytes(1, position)), [1030, 1040, 1040, 1040]);
    }

    /// The sums of the whole plan and those over its steps are the same figures.
    #[test]
    fn steps_add_up_to_the_plan() {
        for model in ["tiny-llama", "tiny-qwen2", "tiny-llama-tied", "tiny-mistral"] {
            let file = ModelFile::open(&conformance(&format!("models/{model}"))).unwrap();
            let plan = LoadOptions { ctx: Some(64), ..LoadOptions::default() }.plan(&file).unwrap();
            let cost = Cost::of(&plan);
            let steps: Vec<StepCost> = (0..plan.steps.len()).map(|i| StepCost::of(&plan, i)).collect();
            for position in [0, 5, 40] {
                let work = Work { position, tokens: 1, rows: 1 };
                let sum: u64 = steps.iter().map(|step| step.model_bytes(&work)).sum();
                assert_eq!(sum, cost.decode_bytes(1, position), "{model} at {position}");
                assert!(steps.iter().all(|step| step.bytes(&work) > 0), "every step of {model} moves something");
            }
            let prompt = Work { position: 0, tokens: 20, rows: 1 };
            let linear: u64 =
                steps.iter().filter(|step| step.position_products == 0).map(|step| step.ops(&prompt)).sum();
            assert_eq!(linear as f64, cost.prompt_ops(20));
            // Where nothing is wanted, the steps after the selection do not run.
            let unseen = Work { rows: 0, ..prompt };
            assert!(steps[plan.head..].iter().all(|step| (step.bytes(&unseen), step.ops(&unseen)) == (0, 0)));
        }
    }

    #[test]
    fn attention_reads_each_position_once_and_multiplies_with_it_for_every_token() {
        let step = StepCost { kv_bytes: 10, position_products: 3, ..StepCost::default() };
        let work = Work { position: 2, tokens: 3, rows: 0 };
        assert_eq!((step.bytes(&work), step.ops(&work)), (50, 2 * 3 * (3 + 4 + 5)));
        let windowed = StepCost { window: Some(4), ..step };
        // Token 2 sees 0 to 2, token 3 sees 0 to 3, token 4 sees 1 to 4.
        assert_eq!((windowed.bytes(&work), windowed.ops(&work)), (50, 2 * 3 * (3 + 4 + 4)));
        let later = Work { position: 10, ..work };
        // Tokens 10 to 12 see 7 to 12.
        assert_eq!((windowed.bytes(&later), windowed.ops(&later)), (60, 2 * 3 * 12));
    }
}
