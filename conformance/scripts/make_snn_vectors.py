"""Spike trains of other people's neuron models, for the integer LIF layers.

    git clone https://github.com/lava-nc/lava && git -C lava checkout b6822fbc0e85730fc0da6979451f42fef038fb71
    python conformance/scripts/make_snn_vectors.py --lava lava

Writes conformance/snn/lava.json and lava.bin (needs --lava), snntorch.json and snntorch.bin. Besides requirements.txt it needs
snntorch 1.0.0.

`lava`: the arithmetic of `PyLifModelBitAcc`, the model of Lava that is bit-accurate with Loihi. Lava has no package for
current versions of Python, so this file runs the unchanged class out of its source, with the process machinery around it
(ports, decorators) replaced by empty stand-ins. Each case is 64 neurons for 1,000 steps; the input of neuron j at step t
is the next number of the generator below, reduced to the case's range. Stored are all spikes as bits and the states `u` and `v`
of every hundredth step.

`snntorch`: `Leaky` and `Synaptic` in float32 with `reset_delay=False` over integer weights and spiking inputs; the recurrent
cases feed the spikes of the last step back through a matrix (`RSynaptic` of version 1.0.0 ignores `reset_delay=False`). Stored are
weights, inputs and spikes. With reset by subtraction snntorch subtracts a second threshold, without a spike, where a membrane
still lies above the threshold after its reset; the thresholds here are raised until this never happens.
"""

import argparse
import json
import sys
import types
from pathlib import Path

import numpy as np

SNN = Path(__file__).resolve().parent.parent / "snn"
NEURONS, STEPS, EVERY = 64, 1000, 100


def numbers(seed, count):
    """The high 32 bits of a 64-bit linear congruential generator (Knuth's constants)."""
    state, out = seed, np.empty(count, dtype=np.uint32)
    for i in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out[i] = state >> 32
    return out


def lava_model(source):
    """`PyLifModelBitAcc` out of Lava's source, with stand-ins for what it imports."""

    class Anything:
        VEC_DENSE = None

        def __init__(self, *args, **kwargs):
            pass

    def decorator(*args, **kwargs):
        return lambda cls: cls

    modules = {
        "lava.magma.core.model.py.neuron": dict(LearningNeuronModelFloat=type("F", (), {}), LearningNeuronModelFixed=type("X", (), {})),
        "lava.magma.core.sync.protocols.loihi_protocol": dict(LoihiProtocol=Anything),
        "lava.magma.core.model.py.ports": dict(PyInPort=Anything, PyOutPort=Anything),
        "lava.magma.core.model.py.type": dict(LavaPyType=Anything),
        "lava.magma.core.resources": dict(CPU=Anything),
        "lava.magma.core.decorator": dict(implements=decorator, requires=decorator, tag=decorator),
        "lava.magma.core.model.py.model": dict(PyLoihiProcessModel=Anything),
        "lava.proc.lif.process": {n: Anything for n in ("LIF", "LIFReset", "TernaryLIF", "LearningLIF", "LIFRefractory")},
    }
    for name, members in modules.items():
        parts = name.split(".")
        for i in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
        vars(sys.modules[name]).update(members)
    path = Path(source) / "src/lava/proc/lif/models.py"
    namespace = {"__name__": "lava_lif_models"}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    return namespace["PyLifModelBitAcc"]


# du, dv, vth, bias_mant, bias_exp, largest input magnitude. The last three drive u over its 24 bits and v into its clip.
LAVA_CASES = [
    (4095, 0, 100, 0, 0, 30),
    (4095, 128, 100, 0, 0, 40),
    (4095, 512, 300, 3, 4, 200),
    (4095, 2048, 500, -2, 6, 900),
    (4095, 4095, 60, 0, 0, 100),
    (0, 0, 131071, 0, 0, 1),
    (1, 1, 4000, 0, 0, 20),
    (400, 200, 900, 0, 0, 90),
    (1024, 512, 900, 7, 3, 200),
    (2048, 3000, 2000, -4096, 0, 2000),
    (3000, 16, 1000, 4095, 7, 500),
    (4094, 256, 200, 1, 0, 120),
    (63, 4000, 30000, 0, 0, 30000),
    (5, 9, 131071, 0, 0, 32767),
    (0, 4095, 100000, 100, 7, 32767),
    (4095, 3, 131071, 4095, 7, 32767),
]


def lava(source):
    model_class = lava_model(source)
    cases, words = [], []
    for seed, (du, dv, vth, mant, exp, most) in enumerate(LAVA_CASES, 1):
        model = model_class({})
        model.u, model.v = np.zeros(NEURONS, np.int32), np.zeros(NEURONS, np.int32)
        model.du, model.dv, model.vth = du, dv, vth
        model.bias_mant, model.bias_exp = np.full(NEURONS, mant, np.int32), np.full(NEURONS, exp, np.int32)
        inputs = (numbers(seed, STEPS * NEURONS) % (2 * most + 1)).astype(np.int32) - most
        sent, states = [], []
        model.s_out = types.SimpleNamespace(send=lambda s: sent.append(np.array(s)))
        for t, a in enumerate(inputs.reshape(STEPS, NEURONS)):
            model.a_in = types.SimpleNamespace(recv=lambda a=a: a)
            model.run_spk()
            if t % EVERY == EVERY - 1:
                states += [model.u.copy(), model.v.copy()]
        spikes = np.array(sent)
        cases.append(dict(du=du, dv=dv, vth=vth, bias_mant=mant, bias_exp=exp, max_input=most, seed=seed, spikes=int(spikes.sum())))
        words += [np.packbits(spikes, bitorder="little").tobytes(), np.array(states, "<i4").tobytes()]
    assert 0 < sum(c["spikes"] for c in cases) < STEPS * NEURONS * len(cases)
    meta = dict(
        source="lava-nc/lava at b6822fbc0e85730fc0da6979451f42fef038fb71, PyLifModelBitAcc",
        neurons=NEURONS, steps=STEPS, states_every=EVERY,
        layout="per case: spikes [steps, neurons] as bits, least first; then per stored step u and v as int32",
        cases=cases,
    )
    (SNN / "lava.json").write_text(json.dumps(meta, indent=1) + "\n")
    (SNN / "lava.bin").write_bytes(b"".join(words))


# kind, decay of the synapse as 4096ths kept (0: none), leak 2^-k, least threshold in weights, reset
SNNTORCH_CASES = [
    ("leaky", 0, 1, 400, "subtract"),
    ("leaky", 0, 2, 250, "zero"),
    ("leaky", 0, 4, 900, "subtract"),
    ("leaky", 0, 6, 700, "zero"),
    ("synaptic", 2048, 3, 1500, "subtract"),
    ("synaptic", 3072, 4, 1500, "zero"),
    ("recurrent", 2048, 3, 1500, "subtract"),
    ("recurrent", 3072, 2, 900, "zero"),
]
INPUTS, OUTPUTS, TIMES = 48, 32, 400


def trains(kind, keep, k, threshold, reset, currents, back):
    """Spikes [steps, outputs] of snntorch; None where a membrane lies above the threshold after a subtraction."""
    import snntorch as snn
    import torch

    torch.set_num_threads(1)
    arguments = dict(beta=1 - 2.0**-k, threshold=float(threshold), reset_mechanism=reset, reset_delay=False)
    cell = snn.Leaky(**arguments) if kind == "leaky" else snn.Synaptic(alpha=keep / 4096, **arguments)
    state, spike, spikes = (torch.zeros(OUTPUTS),) * (1 if kind == "leaky" else 2), torch.zeros(OUTPUTS), []
    with torch.no_grad():
        for current in torch.tensor(currents):
            spike, *state = cell(current + spike @ torch.tensor(back), *state)
            if reset == "subtract" and float(state[-1].max()) > threshold:
                return None
            spikes.append(spike.numpy().astype(np.uint8).copy())
    return np.array(spikes)


def snntorch():
    import snntorch as snn
    import torch

    rng = np.random.default_rng(7)
    cases, words = [], []
    for kind, keep, k, threshold, reset in SNNTORCH_CASES:
        w = rng.integers(-70, 100, (INPUTS, OUTPUTS)).astype(np.int8)
        recurrent = rng.integers(-100, 60, (OUTPUTS, OUTPUTS)).astype(np.int8) if kind == "recurrent" else None
        x = (rng.random((TIMES, INPUTS)) < 0.12).astype(np.uint8)
        back = recurrent if recurrent is not None else np.zeros((OUTPUTS, OUTPUTS))
        current = (x.astype(np.int64) @ w.astype(np.int64)).astype(np.float32)
        while (spikes := trains(kind, keep, k, threshold, reset, current, back.astype(np.float32))) is None:
            threshold += 50
        assert 0.01 < spikes.mean() < 0.6, (kind, spikes.mean())
        cases.append(dict(kind=kind, keep_u=keep, k=k, threshold=threshold, reset=reset, spikes=int(spikes.sum())))
        words += [w.tobytes(), recurrent.tobytes() if recurrent is not None else b""]
        words += [np.packbits(a, bitorder="little").tobytes() for a in (x, spikes)]
    meta = dict(
        source=f"snntorch {snn.__version__}, torch {torch.__version__.split('+')[0]}, float32",
        inputs=INPUTS, outputs=OUTPUTS, steps=TIMES,
        layout="per case: weights int8 [inputs, outputs]; recurrent: recurrent weights int8 [outputs, outputs], from row to column; inputs and spikes [steps, …] as bits, least first",
        cases=cases,
    )
    (SNN / "snntorch.json").write_text(json.dumps(meta, indent=1) + "\n")
    (SNN / "snntorch.bin").write_bytes(b"".join(words))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--lava", help="a checkout of lava-nc/lava")
    source = arguments.parse_args().lava
    SNN.mkdir(exist_ok=True)
    if source:
        lava(source)
    else:
        print("lava.json and lava.bin stay as they are: no --lava")
    snntorch()


if __name__ == "__main__":
    main()
