"""The runs of test_training.py that must not depend on the number of processes.

Called by torchrun: ``torchrun --nproc-per-node 2 tests/train_two_processes.py FOLDER`` trains every
case on two processes, and each writes what it measured to FOLDER/RANK.json. Imported: the same
cases in the process that calls ``measure``.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional

from linear_time.mamba2 import Mamba2Config, Mamba2LM
from linear_time.mixer import LanguageModel, Residual
from linear_time.s4 import S4D
from linear_time.training import Config, seed_everything, train

torch.set_num_threads(1)
VOCABULARY = 7


class WithUnused(nn.Module):
    """Linear, and a parameter that no output depends on."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.unused = nn.Parameter(torch.ones(2, 2))

    def forward(self, x):
        return self.linear(x)


def language_model():
    seed_everything(0)
    return LanguageModel(lambda: Residual(S4D(8, N=4)), VOCABULARY, 8, 1)


def next_token(model, tokens):
    return functional.cross_entropy(model(tokens[:, :-1]).mT, tokens[:, 1:], reduction="none")


def random_tokens(generator, rows=5):
    """Five rows: three for the first process and two for the second."""
    while True:
        yield torch.randint(VOCABULARY, (rows, 9), generator=generator)


def masked(model, batch):
    """Only the positions that count; in the first batch no row of the second process has one."""
    logits = model(batch["tokens"])
    return functional.cross_entropy(
        logits[batch["kept"]], batch["tokens"][batch["kept"]], reduction="none"
    )


def masked_batches(generator):
    for step, tokens in enumerate(random_tokens(generator, rows=4)):
        kept = torch.rand(tokens.shape, generator=generator) < 0.3
        kept[0, 0] = True
        if step == 0:
            kept[2:] = False
        yield {"tokens": tokens, "kept": kept}


def regression_batches(generator):
    while True:
        x = torch.randn(6, 3, generator=generator)
        yield x, x[:, :2] * 2


def squared_error(model, batch):
    x, y = batch
    return (model(x) - y) ** 2


def poisoned_batches(generator):
    """The third batch has a NaN in its last row alone."""
    for step, (x, y) in enumerate(regression_batches(generator), start=1):
        x[-1, 0] = float("nan") if step == 3 else x[-1, 0]
        yield x, y


def weight_norm(model):
    return sum(p.square().sum() for p in model.parameters()) ** 0.5


def of_rank(model):
    """A metric on which the processes disagree: 1 on the first, 0 on the others."""
    return float(os.environ.get("RANK", "0") == "0")


def mamba2():
    seed_everything(0)
    return Mamba2LM(Mamba2Config(vocab_size=VOCABULARY, d_model=8, n_layer=2, N=4, P=4, chunk=4))


def sharded(model):
    """Every block and the rest by torch's FSDP, where there are processes."""
    if distributed.is_initialized():
        mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def whole(parameter):
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def whole_norm(model):
    return sum(whole(p).square().sum() for p in model.parameters()) ** 0.5


def seeded(make):
    seed_everything(0)
    return make()


CASES = {
    "language model": lambda: (
        language_model(),
        random_tokens,
        next_token,
        Config(steps=6, lr=1e-2, warmup=2, clip=0.05, eval_every=3),
        weight_norm,
    ),
    "masked": lambda: (language_model(), masked_batches, masked, Config(steps=4, clip=None), None),
    "unused parameter": lambda: (
        seeded(WithUnused),
        regression_batches,
        squared_error,
        Config(steps=4, lr=0.1),
        None,
    ),
    "target": lambda: (
        seeded(WithUnused),
        regression_batches,
        squared_error,
        Config(steps=4, eval_every=2, target=1),
        of_rank,
    ),
    "goes on": lambda: (
        seeded(lambda: nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))),
        regression_batches,
        squared_error,
        Config(steps=5, lr=0.1, warmup=2),
        None,
    ),
    "sharded": lambda: (
        sharded(mamba2()),
        random_tokens,
        next_token,
        Config(steps=6, lr=1e-2, warmup=2, clip=0.05, eval_every=3),
        whole_norm,
    ),
    "not finite": lambda: (
        seeded(WithUnused),
        poisoned_batches,
        squared_error,
        Config(steps=4),
        None,
    ),
}


class Stop(Exception):
    """In the place of a kill."""


def stops_after(steps, loss):
    done = []

    def then(model, batch):
        done.append(batch)
        if len(done) > steps:
            raise Stop
        return loss(model, batch)

    return then


def measure(file):
    """What each case measured, as plain numbers: the history and the trained weights."""
    measured = {}
    for name, case in CASES.items():
        model, batches, loss, config, evaluate = case()
        if name == "goes on":  # from its third step, after two that another run has done
            stopped = case()[0]
            with contextlib.suppress(Stop):
                train(stopped, batches, stops_after(3, loss), config, evaluate, file, 1)
        try:
            there = file if name == "goes on" else None
            history = train(model, batches, loss, config, evaluate, there, 1)
        except FloatingPointError as error:
            measured[name] = {"error": str(error)}
            continue
        if name == "sharded" and isinstance(next(model.parameters()), DTensor):
            held = sum(p.to_local().numel() for p in model.parameters())
            assert held < sum(p.numel() for p in model.parameters())
            with contextlib.suppress(ValueError):  # of which no process holds the whole
                train(model, batches, loss, config, evaluate, file, 1)
                raise AssertionError("a sharded model has no checkpoint of one file")
        measured[name] = {
            "loss": history.loss.tolist(),
            "grad_norm": history.grad_norm.tolist(),
            "metric": history.metric.tolist(),
            "reached_target": history.reached_target,
            "weights": [whole(p).tolist() for p in model.parameters()],
        }
    return measured


if __name__ == "__main__":
    result = measure(Path(sys.argv[1], "checkpoint"))
    Path(sys.argv[1], f"{os.environ['RANK']}.json").write_text(json.dumps(result), encoding="utf8")
