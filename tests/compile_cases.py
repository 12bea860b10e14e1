"""Compile and export the contract's cases; print what became of each, as JSON.

A process of its own: the runtime check of shapes, which the tests run with, is no part of what a
compiler should see.
"""

import gc
import itertools
import json
import warnings

import torch
from torch import nn

from contract import CASES, inputs, make
from helpers import derivatives
from linear_time import checks


def short(name: str) -> nn.Module:
    """The case; a model has one of the blocks that follow one another and are alike."""
    module = make(name)
    if CASES[name].kind == "model":
        own = 1 if name == "PerceiverAR" else 0  # whose first block goes on with the latents
        alike = itertools.groupby(module.blocks[own:], key=str)
        rest = (next(blocks) for _, blocks in alike)
        module.blocks = nn.ModuleList([*module.blocks[:own], *rest])
    return module


def compiled(name: str) -> str:
    """In the case's chunks; a layer that has some also in one, longer than the sequence.

    Through that one autograd goes back itself; its way through several is compiled. A model's
    layers are cases of their own: once is enough for it.
    """
    module, values = short(name), inputs(name)
    layer = CASES[name].kind != "model"
    chunked = [part for part in module.modules() if layer and hasattr(part, "chunk")]
    for longer in (False, True) if chunked else (False,):
        if longer:
            for part in chunked:
                part.chunk = 64
        y, slopes = derivatives(module, values)
        torch._dynamo.reset()
        whole = torch.compile(module, fullgraph=True, backend="eager" if longer else "aot_eager")
        found, gradients = derivatives(module, values, whole)
        for one, other in zip([found, *gradients], [y, *slopes], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    return "equal"


def exported(name: str) -> str:
    module, values = short(name), inputs(name)
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
    gc.disable()  # a compiler makes millions of objects, among which it looks for garbage: a fifth
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    checks(values=False)
    found = {
        name: {"compile": said(compiled, name), "export": said(exported, name)}
        for name, case in CASES.items()
        if case.compiles
    }
    print(json.dumps(found))
