"""What tests share: numbers that are the same for one seed, closeness, and what watches torch.

Layers by name stand in ``contract.py``, the book's files in ``book.py``.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

Module = TypeVar("Module", bound=nn.Module)

# --- numbers -------------------------------------------------------------------------------------


def source(seed: int) -> Callable[..., Tensor]:
    """``draw(*shape, dtype=float64)``: standard normal numbers, others at every call."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    return draw


def draw(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers, the same for one seed."""
    return source(seed)(*shape, dtype=dtype)


def tokens_of(batch: int, length: int, vocab_size: int = 53, seed: int = 1) -> Tensor:
    """Tokens in 0 … vocab_size − 1, the same for one seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab_size, (batch, length), generator=generator)


def lively(module: Module, scale: float = 0.3, seed: int = 0) -> Module:
    """Away from its start, where some layers are nearly constant; the same at every call."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return module


def shaken(module: Module, seed: int = 0) -> Module:
    """A Mamba with weights far from their start, so that no part of it is negligible."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            if name.endswith(("A_log", "dt_proj.bias", "dt_bias")):
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
            elif parameter.ndim == 1:
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return module


def close(left: Tensor, right: Any, tolerance: float = 1e-12) -> None:
    """Equal in shape and dtype, and in value to a tolerance, relative and absolute.

    What is no tensor on the right is first made one as NumPy reads it.
    """
    if not isinstance(right, Tensor):
        right = torch.as_tensor(np.array(right))
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


# --- layers --------------------------------------------------------------------------------------


def stepped(layer: nn.Module, values: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """One ``step`` for each of the values (batch, length, …): the outputs, and the last state."""
    if state is None:
        state = layer.initial_state(len(values))
    outputs = []
    for value in values.unbind(1):
        y, state = layer.step(value, state)
        outputs.append(y)
    return torch.stack(outputs, 1), state


def derivatives(
    layer: nn.Module, values: tuple[Tensor, ...], run: Callable[..., Tensor] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The output, and the gradients of a weighted sum of it: the inputs', then the parameters'.

    ``run`` is called in the place of the layer, where it is another form of it.
    """
    leaves = [v.detach().requires_grad_() if v.is_floating_point() else v.clone() for v in values]
    y = (layer if run is None else run)(*leaves)
    weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64, device=y.device).view(y.shape)
    asked = [v for v in leaves if v.requires_grad] + list(layer.parameters())
    return y, list(torch.autograd.grad((y * weight.to(y.dtype)).sum(), asked))


# --- what watches torch --------------------------------------------------------------------------


def count_flops(call: Callable[..., Any], *inputs: Any) -> int:
    """The floating-point operations that torch counts in ``call(*inputs)``."""
    with FlopCounterMode(display=False) as counter:
        call(*inputs)
    total: int = counter.get_total_flops()
    return total


def made(out: Any) -> Iterator[Tensor]:
    """The tensors among the results of an operation."""
    return (leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor))


class Largest(TorchDispatchMode):
    """``with Largest() as largest:`` the most numbers in one tensor that any operation makes.

    A view counts with the numbers that it shows, unless it shows some many times.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dtype, self.numbers = dtype, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in made(out):
            if self.dtype in (None, tensor.dtype):
                held = tensor.untyped_storage().nbytes() // tensor.itemsize
                self.numbers = max(self.numbers, min(tensor.numel(), held))
        return out


class NoFloat64(TorchDispatchMode):
    """``with NoFloat64("meta"):`` refuses float64 on a device that stands for one without it."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in made(out):
            if tensor.device.type == self.device:
                assert tensor.dtype not in (torch.float64, torch.complex128), func
        return out


# --- folders of models ---------------------------------------------------------------------------


def changed(
    folder: Path, target: Path, settings: dict | None = None, tensors: dict | None = None
) -> Path:
    """A copy of a model's folder with some settings and tensors changed; None removes one."""

    def after(read: dict, changes: dict | None) -> dict:
        kept = {key: value for key, value in read.items() if key not in (changes or {})}
        return kept | {key: value for key, value in (changes or {}).items() if value is not None}

    config = json.loads((folder / "config.json").read_text(encoding="utf8"))
    (target / "config.json").write_text(json.dumps(after(config, settings)), encoding="utf8")
    stored = load_file(folder / "model.safetensors")
    save_file(after(stored, tensors), target / "model.safetensors")
    return target


class Bomb:
    """Makes a folder when it is unpickled: no reader of models may."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def released_folder(source: Path, target: Path, **changes: Any) -> Path:
    """The weights of a folder of Hugging Face's with the keys and settings of the released code."""
    tensors = load_file(source / "model.safetensors")
    tensors["backbone.embedding.weight"] = tensors.pop("backbone.embeddings.weight")
    tensors.setdefault("lm_head.weight", tensors["backbone.embedding.weight"].clone())
    theirs = json.loads((source / "config.json").read_text(encoding="utf8"))
    settings = {
        "d_model": theirs["hidden_size"],
        "n_layer": theirs["num_hidden_layers"],
        "vocab_size": theirs["vocab_size"],
        "ssm_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 1,
    }
    (target / "config.json").write_text(json.dumps({**settings, **changes}), encoding="utf8")
    save_file(tensors, target / "model.safetensors")
    return target
