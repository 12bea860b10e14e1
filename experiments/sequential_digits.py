"""Chapter 15: digits read one pixel at a time, by S4D, S4 and a GRU.

Two tasks: the 8×8 digits as 64 steps, and the same digits upsampled to 32×32 as 1024 steps. Every
model has the same frame (a linear embedding, two residual blocks, a norm, one read, a linear head),
the same number of updates on the same batches, and the same sweep of learning rates. A model's read
is the mean over the positions, or the last position.

All 1797 digits are tested: each of five folds is the test part once. Of the rest, 240 digits are
for validation, which chooses a fold's rate, and the others for training. So no digit has a say in
how the model is trained or chosen that classifies it.

N counts the distinct states with which a channel starts, as real numbers. "s4d-real" keeps N/2
complex numbers, as the others do, but starts with real ones, and half of its states repeat: it has
N/2 distinct ones. So it runs with N = 128 beside 64. S4 has P and B as well as C and λ: N = 32
gives it as many parameters as the others, N = 64 as many states.
"""

import argparse
import time
from typing import Any

import numpy as np
import runs
import torch
from stacked import StackedGRU, train_stack
from torch import Tensor, nn

from linear_time.datasets import digits
from linear_time.mixer import Residual, SequenceClassifier
from linear_time.s4 import S4, S4D
from linear_time.training import seed_everything

D_MODEL, N_LAYER, GRU_WIDTH = 64, 2, 45
LEARNING_RATES = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)
FOLDS, VALIDATION = 5, 240
STEPS, BATCH, WARMUP, DECAY = 1000, 64, 50, 0.01
MODELS = (
    *(("s4d-lin", 64), ("s4", 64), ("s4", 32), ("gru", None), ("gru-long", None)),
    *(("s4d-random", 64), ("s4d-real", 128), ("s4d-legs", 64), ("s4d-inv", 64), ("s4d-real", 64)),
)
LAST = (("s4d-lin", 64), ("gru", None), ("gru-long", None), ("s4", 64), ("s4", 32))
# What would be missed most comes first, should the time run out.
SETTINGS = (
    *((8, "mean", *m) for m in MODELS),
    *((32, "mean", *m) for m in MODELS[:8]),
    *((32, "last", *m) for m in LAST[:3]),
    *((32, "mean", *m) for m in MODELS[8:]),
    *((32, "last", *m) for m in LAST[3:]),
)


def model(name: str, N: int | None, size: int, read: str) -> nn.Module:
    """A classifier by name: "s4d-lin" …, "s4", "gru" or "gru-long"."""
    width = D_MODEL
    if name.startswith("s4d"):
        make: Any = lambda: S4D(D_MODEL, N=N, init=name.split("-")[1])  # noqa: E731
    elif name == "s4":
        make = lambda: S4(D_MODEL, N=N)  # noqa: E731
    else:
        width = GRU_WIDTH
        memory = size**2 if name == "gru-long" else None
        make = lambda: StackedGRU(width, memory)  # noqa: E731
    return SequenceClassifier(lambda: Residual(make()), 1, 10, width, N_LAYER, read)


def parts(fold: int) -> dict[str, Tensor]:
    """The rows of the digits in each part of a fold."""
    order = torch.tensor(np.random.default_rng(0).permutation(1797))
    folds = order.tensor_split(FOLDS)
    rest = torch.cat([*folds[fold + 1 :], *folds[:fold]])
    return {"test": folds[fold], "validation": rest[:VALIDATION], "train": rest[VALIDATION:]}


def batches(rows: Tensor, seed: int, steps: int) -> Tensor:
    """The rows of each batch, (steps, batch): every epoch in an order of its own."""
    generator, found = torch.Generator().manual_seed(seed), []
    while len(found) < steps:
        order = rows[torch.randperm(len(rows), generator=generator)]
        found += [batch for batch in order.split(BATCH) if len(batch) == BATCH]
    return torch.stack(found[:steps])


def run(jobs: list[dict]) -> list[dict] | None:
    """Jobs of one shape, as a stack."""
    left = None if UNTIL is None else UNTIL - time.monotonic() - 10  # to measure
    if left is not None and left < 0:
        return None
    device, networks, rows = runs.device(), [], []
    images, classes = digits(jobs[0]["size"])
    x = (2 * images.flatten(1)[..., None] - 1).to(device)  # (items, size², 1) in [−1, 1]
    for job in jobs:
        seed_everything(job["seed"])
        networks.append(model(*(job[key] for key in ("model", "N", "size", "read"))).to(device))
        rows.append(batches(parts(job["fold"])["train"], job["seed"], job["steps"]))
    configs = [runs.config(job, WARMUP, 1, weight_decay=DECAY) for job in jobs]
    trained = train_stack(
        networks, (x, classes.to(device)), torch.stack(rows, dim=1), configs, left
    )
    if trained is None:
        return None
    stack, losses = trained
    with torch.no_grad():  # every network on every digit: (networks, items, classes)
        logits = [stack(a.expand(len(jobs), *a.shape)).cpu() for a in x.split(BATCH)]
    final = losses[-50:].mean(0).tolist()
    del stack, trained
    torch.cuda.empty_cache()  # the next stack's tensors have other sizes
    results = []
    for job, own, loss, network in zip(jobs, torch.cat(logits, 1), final, networks, strict=True):
        result: dict[str, Any] = {"parameters": runs.count(network)}
        finite = bool(own.isfinite().all()) and np.isfinite(loss)
        rows_of = parts(job["fold"])
        for name in ("validation", "test"):
            at = rows_of[name]
            result[name] = measure(own[at], classes[at], at) if finite else dict(DIVERGED)
        del result["validation"]["wrong"]
        results.append({**result, "loss": round(loss, 4) if finite else None})
    return results


DIVERGED = {"accuracy": None, "loss": None, "wrong": None}


def measure(logits: Tensor, classes: Tensor, rows: Tensor) -> dict:
    """The accuracy, the mean loss, and which rows of the digits are taken for something else."""
    wrong = logits.argmax(-1) != classes
    return {
        "accuracy": round(1 - float(wrong.double().mean()), 4),
        "loss": round(float(nn.functional.cross_entropy(logits, classes)), 5),
        "wrong": sorted(rows[wrong].tolist()),
    }


UNTIL: float | None = None  # on the clock of time.monotonic


def main() -> None:
    global UNTIL
    found = runs.parser(__doc__, range(FOLDS), steps=STEPS)
    found.add_argument("--seconds", type=float, help="time to stop after")
    options: argparse.Namespace = found.parse_args()
    UNTIL = None if options.seconds is None else time.monotonic() + options.seconds
    runs.without_checks()
    jobs = [
        {
            **{"size": size, "read": read, "model": name, "N": N, "lr": lr},
            **{"fold": seed % FOLDS, "seed": seed, "steps": options.steps},
        }
        for size, read, name, N in SETTINGS
        for lr in LEARNING_RATES
        for seed in options.seeds
    ]
    fixed = {
        "d_model": D_MODEL,
        "gru_width": GRU_WIDTH,
        "n_layer": N_LAYER,
        "batch": BATCH,
        "warmup": WARMUP,
        "weight_decay": DECAY,
        "folds": FOLDS,
        "validation": VALIDATION,
    }

    runs.Runner("sequential_digits", run, fixed, options).together(jobs, stack_of)


def stack_of(job: dict) -> tuple:
    """What jobs of one shape share; the two GRUs are of one shape."""
    model = "gru" if job["N"] is None else job["model"]
    return job["size"], job["read"], model, job["N"]


if __name__ == "__main__":
    main()
