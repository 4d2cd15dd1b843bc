"""PyTorch through transformers: the same weights, dequantised to one floating-point type. Not the same arithmetic."""

import time

import numpy as np
from worker import serve, token

# Hugging Face names of GGUF tensors.
NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def hugging_face_name(name):
    if not name.startswith("blk."):
        stem, kind = name.split(".")
        return {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}[stem] + "." + kind
    _, layer, stem, kind = name.split(".")
    return f"model.layers.{layer}.{NAMES[stem]}.{kind}"


class Torch:
    def __init__(self, args):
        import models
        import torch
        import transformers

        self.torch, self.args, self.transformers = torch, args, transformers
        torch.set_num_threads(args.threads)
        torch.set_num_interop_threads(1)
        torch.set_grad_enabled(False)
        self.dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
        d = models.read(args.model)
        kinds = {"llama": ("LlamaConfig", "LlamaForCausalLM"), "qwen2": ("Qwen2Config", "Qwen2ForCausalLM")}[d.arch]
        config, model = (getattr(transformers, name) for name in kinds)
        self.vocab = d.vocab
        # Weights are made in their type and angles stay in f32, as `from_pretrained` does it.
        torch.set_default_dtype(self.dtype)
        self.model = model(config(
            vocab_size=d.vocab, hidden_size=d.dim, intermediate_size=d.ffn, num_hidden_layers=d.layers,
            num_attention_heads=d.heads, num_key_value_heads=d.kv_heads, head_dim=d.head_dim, rms_norm_eps=d.eps,
            rope_parameters={"rope_type": "default", "rope_theta": d.rope_base}, tie_word_embeddings=True,
            max_position_embeddings=8192, attention_bias=False, attn_implementation="sdpa",
        )).eval()  # fmt: skip
        torch.set_default_dtype(torch.float32)
        slots = dict(self.model.named_parameters())
        for name in d.names():
            slots.pop(hugging_face_name(name)).data.copy_(torch.from_numpy(d.values(name)))
        if slots:
            raise RuntimeError(f"weights that the file lacks: {', '.join(slots)}")

    def facts(self):
        config = [f"eager, scaled dot-product attention, dynamic cache in {self.args.dtype}"]
        return {
            "version": f"torch {self.torch.__version__}, transformers {self.transformers.__version__}",
            "arithmetic": self.args.dtype,
            "differs": [f"weights dequantised to {self.args.dtype}, products in {self.args.dtype}"],
            "config": config,
        }

    def tune(self, tests):
        pass

    def ids(self, steps, sequences):
        """Ids of some steps, [sequences, steps]."""
        return self.torch.tensor([[token(i, s, self.vocab) for i in steps] for s in range(sequences)])

    def forward(self, ids, cache):
        """The logits of the last token of each sequence and the time in ns."""
        start = time.perf_counter_ns()
        out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1], time.perf_counter_ns() - start

    def cache(self):
        return self.transformers.DynamicCache(config=self.model.config)

    def turn(self, test):
        if n := test.get("n_prompt"):
            return self.forward(self.ids(range(n), 1), self.cache())[1]
        cache, sequences = self.cache(), test["n_sequences"]
        self.forward(self.ids([0], sequences), cache)
        steps = [self.ids([i + 1], sequences) for i in range(test["n_gen"])]
        return sum(self.forward(ids, cache)[1] for ids in steps)

    def logits(self, ids, steps):
        cache = self.cache()
        chunks = [ids, *([step] for step in steps)]
        return np.stack([self.forward(self.torch.tensor([c]), cache)[0][0].float().numpy() for c in chunks])


if __name__ == "__main__":
    serve(Torch)
