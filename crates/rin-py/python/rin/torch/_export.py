"""Modules become ``.rin`` files."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import _arguments
from .._backend import backend
from .._types import Json, Path
from .._types import Tensor as Array
from ..errors import InvalidInputError, UnsupportedError
from ._decoder import Decoder
from ._dense import Residual
from ._integer import IntegerModule, IntegerRMSNorm, IntegerSoftmax, describe_chain
from ._memory import Memory
from ._spiking import SpikingNetwork
from ._straight import numpy


def _function(module: nn.Module) -> str | None:
    """The engine's name of an activation; None for another module."""
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    if isinstance(module, nn.LeakyReLU) and module.negative_slope != 0.01:
        raise UnsupportedError("the engine's leaky ReLU has the slope 0.01", kind="Unsupported", place="LeakyReLU")
    names: dict[type[nn.Module], str] = {
        nn.ReLU: "relu",
        nn.ReLU6: "relu6",
        nn.LeakyReLU: "leaky_relu",
        nn.SiLU: "silu",
        nn.Tanh: "tanh",
        nn.Sigmoid: "sigmoid",
        nn.Hardsigmoid: "hard_sigmoid",
        nn.Hardswish: "hard_swish",
    }
    return names.get(type(module))


class _Writer:
    """Writes modules down as the nodes of a network."""

    def __init__(self) -> None:
        self.nodes: list[Json] = []
        self.tensors: list[Array] = []
        self.width: int | None = None
        self.inputs: int | None = None
        self.kept: set[str] = set()
        """Values that are needed as they are."""

    def node(self, op: Json | str, inputs: list[str]) -> str:
        name = f"v{len(self.nodes) + 1}"
        self.nodes.append({"inputs": inputs, "output": name, "op": op})
        return name

    def tensor(self, name: str, values: Tensor) -> str:
        array = numpy(values, "<f4")
        self.tensors.append((name, "F32", list(array.shape), array.tobytes()))
        return name

    def widen(self, module: nn.Module, inputs: int, outputs: int) -> None:
        if self.width is None:
            self.inputs = inputs
        elif self.width != inputs:
            message = f"{type(module).__name__} takes {inputs} values, the module before it gives {self.width}"
            raise InvalidInputError(message, kind="BadShape", place=type(module).__name__)
        self.width = outputs

    def activate(self, function: str, x: str) -> str:
        """Within the node that made the value, where it has room for a function."""
        op = self.nodes[-1]["op"] if self.nodes and self.nodes[-1]["output"] == x else None
        if isinstance(op, dict) and x not in self.kept:
            ((kind, fields),) = op.items()
            if kind in ("dense", "scale", "add") and "function" not in fields:
                fields["function"] = function
                return x
        return self.node({"activation": {"function": function}}, [x])

    def write(self, module: nn.Module, x: str) -> str:
        if isinstance(module, nn.Sequential):
            for part in module:
                x = self.write(part, x)
            return x
        if isinstance(module, Residual):
            before = self.width
            self.kept.add(x)
            body = self.write(module.body, x)
            if before is not None and self.width != before:
                raise InvalidInputError("the body of a Residual keeps the width", kind="BadShape", place="Residual")
            found = self.node({"add": {}}, [body, x])
            return found if module.function is None else self.write(module.function, found)
        if isinstance(module, (nn.Identity, nn.Flatten)) or (
            isinstance(module, (nn.Dropout, nn.AlphaDropout)) and not module.training
        ):
            return x
        function = _function(module)
        if function is not None:
            return self.activate(function, x)
        place = f"w{len(self.nodes) + 1}"
        if isinstance(module, nn.Linear):
            self.widen(module, module.in_features, module.out_features)
            dense: Json = {"weight": self.tensor(f"{place}.weight", module.weight)}
            if module.bias is not None:
                dense["bias"] = self.tensor(f"{place}.bias", module.bias)
            return self.node({"dense": dense}, [x])
        if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
            (n,) = module.normalized_shape
            self.widen(module, n, n)
            one, zero = torch.ones(n), torch.zeros(n)
            fields: Json = {
                "weight": self.tensor(f"{place}.weight", one if module.weight is None else module.weight),
                "bias": self.tensor(f"{place}.bias", zero if module.bias is None else module.bias),
                "eps": module.eps,
            }
            return self.node({"layer_norm": fields}, [x])
        if isinstance(module, nn.BatchNorm1d) and module.running_var is not None and module.running_mean is not None:
            n = module.num_features
            self.widen(module, n, n)
            scale = 1 / torch.sqrt(module.running_var.double() + module.eps)
            if module.affine:
                scale = scale * module.weight.double()
            bias = -module.running_mean.double() * scale
            if module.affine:
                bias = bias + module.bias.double()
            scaling = {
                "weight": self.tensor(f"{place}.weight", scale),
                "bias": self.tensor(f"{place}.bias", bias),
            }
            return self.node({"scale": scaling}, [x])
        if isinstance(module, nn.Softmax) and module.dim in (-1, 1):
            return self.node("softmax", [x])
        raise self._unknown(module)

    def _unknown(self, module: nn.Module) -> UnsupportedError:
        """What to say of a module that no network of nodes has."""
        name = type(module).__name__
        if isinstance(module, Memory):
            why = "a Memory continues sequences and is a layer of a Decoder, which can be exported"
        elif isinstance(module, IntegerSoftmax):
            why = "RIN runs the integer softmax within an IntegerAttention, which can be exported, and nowhere else"
        elif isinstance(module, IntegerRMSNorm):
            why = "no network of a .rin file has an integer norm without a mean; an IntegerLayerNorm can be exported"
        elif isinstance(module, IntegerModule):
            why = f"{name} is exported in a chain of integer modules alone, since a network is in floats or in integers"
        else:
            why = (
                f"{name} has no counterpart; there are Sequential, Residual, Linear, QuantLinear, LayerNorm, BatchNorm1d, "
                "Softmax, Flatten, Identity, Dropout (of a module in eval mode), ReLU, ReLU6, LeakyReLU, GELU, SiLU, Tanh, "
                "Sigmoid, Hardsigmoid, Hardswish; chains of IntegerLinear, IntegerLayerNorm and IntegerAttention; "
                "SpikingNetwork; Decoder"
            )
        return UnsupportedError(why, kind="Unsupported", place=name)


def _chain(module: nn.Module) -> list[nn.Module]:
    """The modules one after another."""
    if isinstance(module, nn.Sequential):
        return [part for inner in module for part in _chain(inner)]
    return [module]


def _byte_tokenizer() -> bytes:
    """A ``tokenizer.json`` of the 256 bytes, each its own id."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    # The byte-level alphabet of Radford et al. 2019: other bytes have characters from 256 on.
    others = iter(range(256, 512))
    vocab = {chr(byte if byte in printable else next(others)): byte for byte in range(256)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = {"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": False, "ignore_merges": False}
    found = {"version": "1.0", "added_tokens": [], "pre_tokenizer": level, "decoder": level, "model": model}
    return json.dumps(found).encode()


def _read(path: Path) -> bytes:
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        message = f"the tokenizer cannot be read: {error}"
        raise InvalidInputError(message, kind="InvalidInput", place="tokenizer") from error


def _export_decoder(
    decoder: Decoder, to: str, quant: str | None, name: str | None, tokenizer: Path | bytes | None, overwrite: bool
) -> str:
    if tokenizer is None:
        if decoder.vocab != 256:
            message = f"a decoder of {decoder.vocab} tokens needs its tokenizer.json; of 256, they are bytes without one"
            raise InvalidInputError(message, kind="InvalidInput", place="tokenizer")
        tokenizer = _byte_tokenizer()
    elif not isinstance(tokenizer, bytes):
        tokenizer = _read(tokenizer)
    tensors = []
    for called, tensor in decoder.tensors():
        array = numpy(tensor, "<f4")
        tensors.append((called, "F32", list(array.shape), array.tobytes()))
    return backend.write_decoder(to, json.dumps(decoder.describe(name)), tokenizer, tensors, quant, overwrite)


def export(
    module: nn.Module,
    path: Path,
    *,
    quant: str | None = None,
    labels: Sequence[str] = (),
    kind: str = "logits",
    name: str | None = None,
    tokenizer: Path | bytes | None = None,
    overwrite: bool = False,
) -> Json:
    """Writes a trained module as a ``.rin`` file, which :class:`rin.RinEngine` runs: in float within 1e-5 of the module.

    Args:
        module: an ``nn.Sequential`` (of these, too) of ``Linear``, :class:`QuantLinear`, ``LayerNorm``, ``BatchNorm1d``,
            activations, ``Softmax``, ``Flatten``, :class:`Residual`; or one of :class:`IntegerLinear`,
            :class:`IntegerLayerNorm`, :class:`IntegerAttention`; or a :class:`SpikingNetwork`, or a :class:`Decoder`. In eval
            mode: batch norms and dropouts are what they are then.
        path: the file.
        quant: type that matrices are brought to, such as ``"Q8_0"``; None keeps float32.
        labels: names of the classes.
        kind: what the outputs of networks are: ``"logits"``, ``"probabilities"`` or ``"values"``.
        name: a name of the network.
        tokenizer: of a :class:`Decoder`, the path or the bytes of a ``tokenizer.json``; None: ids are bytes, of which there are
            256.
        overwrite: whether the file may be replaced.

    Returns:
        ``output``, ``bytes``, ``n_tensors``, ``sha256``.

    Raises:
        UnsupportedError: a module that the engine does not run; ``place`` names it.
        InvalidInputError: widths that do not fit, a type in place of which integers are written, a tokenizer that is missing,
            or a file that is there already.
    """
    to = _arguments.path("path", path)
    if module.training and any(isinstance(part, (nn.BatchNorm1d, nn.Dropout)) for part in module.modules()):
        message = "the module is in training mode, where batch norms and dropouts compute something else: call eval() first"
        raise InvalidInputError(message, kind="BadInput", place="module")
    if isinstance(module, Decoder):
        if labels or kind != "logits":
            raise InvalidInputError("a decoder gives logits of tokens", kind="InvalidInput", place="labels, kind")
        return dict(json.loads(_export_decoder(module, to, quant, name, tokenizer, bool(overwrite))))
    if tokenizer is not None:
        raise InvalidInputError("a tokenizer is for a Decoder", kind="InvalidInput", place="tokenizer")
    integers = [part for part in _chain(module) if isinstance(part, IntegerModule)]
    if isinstance(module, SpikingNetwork):
        network, tensors = module._describe()
    elif integers and len(integers) == len(_chain(module)):
        network, tensors = describe_chain(integers)
    else:
        writer = _Writer()
        last = writer.write(module, "input")
        if writer.inputs is None:
            raise InvalidInputError("the module holds no layer that says its width", kind="BadInput", place="module")
        network = {
            "mode": "mlp",
            "inputs": [{"name": "input", "shape": [writer.inputs]}],
            "outputs": [{"name": last}],
            "body": {"nodes": writer.nodes},
        }
        tensors = writer.tensors
    network["outputs"][0]["kind"] = kind
    if labels:
        network["outputs"][0]["labels"] = list(labels)
    if name is not None:
        network["name"] = name
    if quant is not None and "nodes" not in network["body"]:
        raise InvalidInputError("integers have no other type", kind="InvalidInput", place="quant")
    return dict(json.loads(backend.write_network(to, json.dumps(network), tensors, quant, bool(overwrite))))
