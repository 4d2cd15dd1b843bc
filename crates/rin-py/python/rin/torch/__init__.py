"""Modules of PyTorch that RIN runs, and the way from the one to the other.

What :func:`export` writes, :class:`rin.RinEngine` runs: feed-forward networks of the usual modules, :class:`QuantLinear`,
whose forward pass is the engine's integer product, :class:`SpikingNetwork`, whose forward pass is the engine's integers
from input to output, chains of integer modules (:class:`IntegerLinear`, :class:`IntegerLayerNorm`, :class:`IntegerAttention`),
and language models, :class:`Decoder`, whose layers attend or have a :class:`Memory` of a fixed size.
Rounding passes gradients straight through (Bengio, Léonard and Courville 2013), spikes pass those of a surrogate (Neftci,
Mostafa and Zenke 2019), so that all of them train as they are.

    model = nn.Sequential(QuantLinear(784, 256), nn.ReLU(), QuantLinear(256, 10))
    ...                                             # train it
    rin.torch.export(model, "digits.rin", quant="Q8_0")
    with rin.RinEngine("digits.rin") as engine:
        engine.infer(images)                        # what model(images) gives, within 1e-5

Needs PyTorch.
"""

from ._decoder import Decoder
from ._dense import QuantLinear, Residual
from ._export import export
from ._integer import IntegerAttention, IntegerLayerNorm, IntegerLinear, IntegerRMSNorm, IntegerSoftmax
from ._memory import Memory
from ._spiking import SpikingNetwork

__all__ = [
    "Decoder",
    "IntegerAttention",
    "IntegerLayerNorm",
    "IntegerLinear",
    "IntegerRMSNorm",
    "IntegerSoftmax",
    "Memory",
    "QuantLinear",
    "Residual",
    "SpikingNetwork",
    "export",
]
