"""Compile and export the contract's cases; print what became of each, as JSON.

A process of its own: the runtime check of shapes, which the tests run with, is no part of what a
compiler should see.
"""

import json
import warnings

import torch
from torch import Tensor, nn

from contract import CASES, inputs, make
from linear_time import checks


def gradients(module: nn.Module, values: tuple[Tensor, ...], run: nn.Module) -> list[Tensor]:
    """The output of ``run``, and the gradients of a weighted sum of it."""
    leaves = tuple(
        v.detach().requires_grad_() if v.is_floating_point() else v.clone() for v in values
    )
    y = run(*leaves)
    weight = torch.linspace(-1, 1, y.numel()).view(y.shape)
    asked = [v for v in leaves if v.requires_grad] + list(module.parameters())
    return [y.detach(), *torch.autograd.grad((y * weight).sum(), asked)]


def compiled(name: str) -> str:
    module, values = make(name), inputs(name)
    wanted = gradients(module, values, module)
    torch._dynamo.reset()
    whole = torch.compile(module, fullgraph=True, backend="aot_eager")
    for one, other in zip(gradients(module, values, whole), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    return "equal"


def exported(name: str) -> str:
    module, values = make(name), inputs(name)
    with torch.no_grad():
        program = torch.export.export(module, values)
        torch.testing.assert_close(program.module()(*values), module(*values))
    return "equal"


def said(call, name: str) -> str:
    try:
        return call(name)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:600]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    checks(values=False)
    found = {
        name: {"compile": said(compiled, name), "export": said(exported, name)}
        for name, case in CASES.items()
        if case.compiles
    }
    print(json.dumps(found))
