"""Loss and gradients of small spiking networks by PyTorch in float64, with snntorch's surrogate gradients.

    python conformance/scripts/make_snn_gradients.py

Writes conformance/gradients/snn.json. The network is written out here step by step: leak, integration, spike, reset whose
spike is detached, mean membrane of the output layer, cross-entropy and a penalty on the mean spike rate. Inputs are
multiples of 1/128. Besides requirements.txt it needs snntorch 1.0.0.
"""

import json
from pathlib import Path

import numpy as np
import torch
from snntorch import surrogate

OUT = Path(__file__).resolve().parent.parent / "gradients" / "snn.json"
WIDTHS = [5, 7, 6, 3]


def run(weights, biases, x, label, case):
    beta, steps = 1 - 2.0 ** -case["leak"], case["steps"]
    fire = surrogate.atan(alpha=case["slope"]) if case["surrogate"] == "atan" else surrogate.fast_sigmoid(slope=case["slope"])
    v = [torch.zeros(n, dtype=torch.float64) for n in WIDTHS[1:]]
    total, rate, spikes = 0, 0, 0
    for _ in range(steps):
        signal = x
        for layer, (w, b) in enumerate(zip(weights, biases)):
            v[layer] = beta * v[layer] + signal @ w + b
            if layer == len(weights) - 1:
                total = total + v[layer]
                break
            # The surrogate answers in float32, a spike and its slope times the gradient.
            signal = fire(v[layer] - 1).double()
            rate = rate + signal.sum()
            spikes += int(signal.sum())
            s = signal.detach()
            v[layer] = v[layer] * (1 - s) if case["reset"] == "zero" else v[layer] - s
    logits = total / steps
    hidden = sum(WIDTHS[1:-1])
    loss = torch.nn.functional.cross_entropy(logits[None], torch.tensor([label])) + case["rate_penalty"] * rate / (hidden * steps)
    return loss, logits, spikes


def main():
    rng = np.random.default_rng(5)
    cases = []
    for kind, slope in (("atan", 2.0), ("fast_sigmoid", 25.0), ("fast_sigmoid", 5.0)):
        for reset in ("subtract", "zero"):
            case = dict(surrogate=kind, slope=slope, reset=reset, leak=2, steps=6, rate_penalty=0.3, label=int(rng.integers(3)))
            # Values that float32 holds, so that the test starts from the same numbers.
            make = lambda *shape, std: torch.tensor(np.float32(rng.normal(0.5, std, shape)).astype(np.float64), requires_grad=True)
            weights = [make(a, b, std=0.8) for a, b in zip(WIDTHS, WIDTHS[1:])]
            biases = [make(b, std=0.2) for b in WIDTHS[1:]]
            x = torch.tensor(rng.integers(-60, 128, WIDTHS[0]) / 128)
            loss, logits, spikes = run(weights, biases, x, case["label"], case)
            loss.backward()
            assert spikes > 5, spikes
            parameters = [p for pair in zip(weights, biases) for p in pair]
            cases.append(dict(**case, input=x.tolist(), loss=loss.item(), logits=logits.tolist(), spikes=spikes,
                              parameters=[p.detach().flatten().tolist() for p in parameters],
                              gradients=[p.grad.flatten().tolist() for p in parameters]))
    OUT.write_text(json.dumps(dict(widths=WIDTHS, cases=cases, versions=dict(torch=torch.__version__.split("+")[0]))) + "\n")


if __name__ == "__main__":
    main()
