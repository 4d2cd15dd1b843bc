"""Graphs by the `nir` package with outputs by NIR's equations, and a check of a graph that RIN wrote.

    python conformance/scripts/make_nir_graphs.py
    python conformance/scripts/make_nir_graphs.py --check FILE.nir

The first form writes conformance/nir/<name>.nir (with the package's default compression) and graphs.json: for each graph an
input of spike trains and what comes out, spike counts or the mean membrane, computed in float64 by forward Euler from the
equations of NIR's documentation, with no code of RIN. The second form reads a file with the `nir` package and prints its nodes and edges: an
error is a failure. Besides requirements.txt it needs nir 1.0.8.
"""

import json
import sys
from pathlib import Path

import nir
import numpy as np

NIR = Path(__file__).resolve().parent.parent / "nir"
DT = 1e-3
STEPS = 60


def simulate(weights, biases, neurons, recurrent, x):
    """Layers in a row; per step and layer the neurons' equation. `recurrent`: weights from a layer to itself, or None."""
    state = [dict(u=np.zeros(len(w)), v=np.zeros(len(w)), s=np.zeros(len(w))) for w in weights]
    outputs = []
    for row in x:
        for w, b, neuron, rec, s in zip(weights, biases, neurons, recurrent, state):
            current = w @ row + b + (0 if rec is None else rec @ s["s"])
            kind = type(neuron).__name__
            if kind.startswith("Cuba"):
                s["u"] += DT / neuron.tau_syn * (neuron.w_in * current - s["u"])
                s["v"] += DT / neuron.tau_mem * (neuron.v_leak - s["v"] + neuron.r * s["u"])
            elif kind in ("LIF", "LI"):
                s["v"] += DT / neuron.tau * (neuron.v_leak - s["v"] + neuron.r * current)
            elif kind in ("IF", "I"):
                s["v"] += DT * neuron.r * current
            else:
                s["v"] = current
            threshold = getattr(neuron, "v_threshold", getattr(neuron, "threshold", np.inf))
            s["s"] = (s["v"] > threshold).astype(float)
            row = s["s"]
            if np.isfinite(threshold).all():
                s["v"] = np.where(s["s"] > 0, 0.0, s["v"])
        last = state[-1]
        outputs.append(last["s"].copy() if np.isfinite(threshold).all() else last["v"].copy())
    spiking = np.isfinite(threshold).all()
    return (np.sum if spiking else np.mean)(outputs, axis=0)


def make():
    rng = np.random.default_rng(11)
    NIR.mkdir(exist_ok=True)
    n_in, hidden, out = 9, 20, 4
    full = lambda n, value: np.full(n, value)
    w1 = rng.normal(0.3, 0.5, (hidden, n_in)).astype(np.float32)
    w2 = rng.normal(0.2, 0.5, (out, hidden)).astype(np.float32)
    rec = rng.normal(-0.1, 0.2, (hidden, hidden)).astype(np.float32)
    b1 = rng.normal(0.05, 0.02, hidden).astype(np.float32)
    lif = nir.LIF(tau=full(hidden, 8e-3), r=full(hidden, 8.0), v_leak=full(hidden, 0.1), v_threshold=full(hidden, 2.0), v_reset=full(hidden, 0.0))
    cuba = nir.CubaLIF(tau_mem=full(hidden, 6e-3), tau_syn=full(hidden, 3e-3), r=full(hidden, 5.0), v_leak=full(hidden, 0.0), v_threshold=full(hidden, 1.5), v_reset=full(hidden, 0.0), w_in=full(hidden, 1.0))
    integrate = nir.IF(r=full(hidden, 1 / DT), v_threshold=full(hidden, 3.0), v_reset=full(hidden, 0.0))
    threshold = nir.Threshold(threshold=full(hidden, 1.0))
    li = nir.LI(tau=full(out, 20e-3), r=full(out, 3.0), v_leak=full(out, 0.0))
    lif_out = nir.LIF(tau=full(out, 5e-3), r=full(out, 4.0), v_leak=full(out, 0.0), v_threshold=full(out, 1.0), v_reset=full(out, 0.0))
    cuba_li = nir.CubaLI(tau_mem=full(out, 9e-3), tau_syn=full(out, 4e-3), r=full(out, 2.0), v_leak=full(out, 0.0), w_in=full(out, 1.0))
    affine, linear = nir.Affine(weight=w1, bias=b1), nir.Linear(weight=w1)
    second = nir.Linear(weight=w2)
    zero = np.zeros(hidden)
    cases = {
        "lif-li": ([("fc1", affine), ("lif", lif), ("fc2", second), ("out", li)], b1, None),
        "cuba-lif": ([("fc1", linear), ("lif", cuba), ("fc2", second), ("out", lif_out)], zero, None),
        "if-lif": ([("fc1", linear), ("lif", integrate), ("fc2", second), ("out", lif_out)], zero, None),
        "threshold-cuba-li": ([("fc1", affine), ("lif", threshold), ("fc2", second), ("out", cuba_li)], b1, None),
        "recurrent": ([("fc1", linear), ("lif", lif), ("fc2", second), ("out", li)], zero, rec),
        "subgraph": ([("fc1", linear), ("lif", cuba), ("fc2", second), ("out", li)], zero, rec),
    }
    x = (rng.random((STEPS, n_in)) < 0.2).astype(float)
    everything = {}
    for name, (chain, bias, recurrent) in cases.items():
        nodes = {"input": nir.Input({"input": np.array([n_in])}), **dict(chain), "output": nir.Output({"output": np.array([out])})}
        names = list(nodes)
        edges = list(zip(names, names[1:]))
        if recurrent is not None:
            if name == "subgraph":
                inner = {"input": nir.Input({"input": np.array([hidden])}), "lif": nodes["lif"], "w_rec": nir.Linear(weight=recurrent), "output": nir.Output({"output": np.array([hidden])})}
                nodes["lif"] = nir.NIRGraph(inner, [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")], type_check=False)
            else:
                nodes["w_rec"] = nir.Linear(weight=recurrent)
                edges += [("lif", "w_rec"), ("w_rec", "lif")]
        nir.write(NIR / f"{name}.nir", nir.NIRGraph(nodes, edges, type_check=False))
        output = simulate([w1, w2], [bias, np.zeros(out)], [chain[1][1], chain[3][1]], [recurrent, None], x)
        everything[f"{name}.nir"] = dict(dt=DT, inputs=n_in, input=x.flatten().astype(int).tolist(), output=output.tolist())
    everything["versions"] = dict(nir=nir.version, numpy=np.__version__)
    (NIR / "graphs.json").write_text(json.dumps(everything) + "\n")


def check(path):
    graph = nir.read(path, type_check=False)
    print(json.dumps(dict(nodes={name: type(node).__name__ for name, node in graph.nodes.items()}, edges=sorted(graph.edges))))


if __name__ == "__main__":
    check(sys.argv[2]) if sys.argv[1:2] == ["--check"] else make()
