"""Time of a training step of the llama-style decoder by PyTorch on the CPU.

The same network, batch and optimiser as `cargo run --release -p rin-train --example train -- CONFIG`: forward pass,
backward pass, clipping and AdamW. Prints the median of the steps after a warm-up.

    python bench/train_step.py --threads 2 [--compile]
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = a.heads, a.kv_heads, a.dim // a.heads
        self.attn_norm, self.ffn_norm = nn.RMSNorm(a.dim, eps=1e-5), nn.RMSNorm(a.dim, eps=1e-5)
        self.qkv = nn.Linear(a.dim, (a.heads + 2 * a.kv_heads) * self.head_dim, bias=False)
        self.out = nn.Linear(a.dim, a.dim, bias=False)
        self.gate_up = nn.Linear(a.dim, 2 * a.ffn, bias=False)
        self.down = nn.Linear(a.ffn, a.dim, bias=False)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        sizes = [n * self.head_dim for n in (self.heads, self.kv_heads, self.kv_heads)]
        q, k, v = self.qkv(self.attn_norm(x)).split(sizes, -1)
        q, k, v = (z.view(b, t, -1, self.head_dim).transpose(1, 2) for z in (q, k, v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, -1))
        gate, up = self.gate_up(self.ffn_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


class Decoder(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.embedding = nn.Embedding(a.vocab, a.dim)
        self.blocks = nn.ModuleList(Block(a) for _ in range(a.layers))
        self.norm = nn.RMSNorm(a.dim, eps=1e-5)
        half = a.dim // a.heads // 2
        angle = torch.arange(a.ctx)[:, None] * 10000.0 ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, ids, targets):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return F.cross_entropy((self.norm(x) @ self.embedding.weight.T).flatten(0, 1), targets.flatten())


def main():
    parser = argparse.ArgumentParser()
    for name, value in dict(
        dim=128, layers=4, heads=4, kv_heads=2, ffn=352, ctx=128, vocab=66, batch=32, steps=40, threads=2
    ).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--compile", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    model = Decoder(a)
    step_model = torch.compile(model) if a.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    times = []
    for _ in range(a.steps):
        tokens = torch.randint(0, a.vocab, (a.batch, a.ctx + 1))
        start = time.perf_counter()
        loss = step_model(tokens[:, :-1], tokens[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        times.append(time.perf_counter() - start)
    times = sorted(times[a.steps // 4 :])
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"torch {torch.__version__}, {a.threads} threads, {parameters} parameters: "
        f"median {statistics.median(times) * 1e3:.1f} ms, least {times[0] * 1e3:.1f} ms a step"
    )


if __name__ == "__main__":
    main()
