"""Chapter 15: digits read one pixel at a time, by S4D, S4 and a GRU of as many parameters.

Two tasks: the 8×8 digits as 64 steps, and the same digits upsampled to 32×32 as 1024 steps. Every
model has the same frame (a linear embedding, two residual blocks, a norm, one read, a linear head),
the same number of parameters to within 2 %, the same number of updates on the same batches, and its
learning rate chosen from the same three by validation accuracy. A model's read is the mean over the
positions, or the last position.
"""

from typing import Any

import runs
import torch
from torch import Tensor, nn

from linear_time.mixer import Residual, SequenceClassifier
from linear_time.s4 import S4, S4D
from linear_time.training import seed_everything, train

D_MODEL, N, N_LAYER = 64, 64, 2
LEARNING_RATES = (1e-3, 4e-3, 1.6e-2)
SEEDS = (0, 1, 2)
STEPS, BATCH, WARMUP = 1000, 64, 50
INITS = ("lin", "inv", "legs", "real", "random")


def fused_gru(width: int, memory: int | None) -> runs.FusedGRU:
    gru = runs.FusedGRU(width, memory)
    nn.GRU(width, width)  # draws as many numbers as in the recorded runs, which made one first
    return gru


def model(name: str, size: int, read: str) -> nn.Module:
    """A classifier by name: "s4d-lin" …, "s4", "gru" or "gru-long"."""
    width = D_MODEL
    if name.startswith("s4d"):
        make: Any = lambda: S4D(D_MODEL, N=N, init=name.split("-")[1])  # noqa: E731
    elif name == "s4":
        make = lambda: S4(D_MODEL, N=N // 2)  # noqa: E731  (it has P and B as well)
    else:
        width = 45
        memory = size**2 if name == "gru-long" else None
        make = lambda: fused_gru(width, memory)  # noqa: E731
    return SequenceClassifier(lambda: Residual(make()), 1, 10, width, N_LAYER, read)


def data(size: int, device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
    """Pixels in [−1, 1], row by row, (rows, size², 1), and classes."""
    parts = runs.digits_parts(device, size)
    return {
        name: (2 * images.flatten(1)[..., None] - 1, classes)
        for name, (images, classes) in parts.items()
    }


def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        hits = [
            (network(a).argmax(-1) == b).float().sum()
            for a, b in zip(x.split(256), y.split(256), strict=True)
        ]
    return float(sum(hits)) / len(y)


def run(job: dict) -> dict:
    device = runs.device()
    parts = data(job["size"], device)
    seed_everything(job["seed"])
    network = model(job["model"], job["size"], job["read"]).to(device)
    x, y = parts["train"]

    def batches(generator: torch.Generator):
        while True:
            order = torch.randperm(len(x), generator=generator).to(device)
            yield from ((x[i], y[i]) for i in order.split(BATCH) if len(i) == BATCH)

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(network(batch[0]), batch[1], reduction="none")

    config = runs.config(job, WARMUP, 20, weight_decay=0.01)
    score = lambda network: accuracy(network, *parts["validation"])  # noqa: E731
    try:
        history = train(network, batches, loss, config, score)
    except FloatingPointError:  # it diverged: a result, too
        return {"parameters": runs.count(network), "validation": 0.0, "test": 0.0, "curve": []}
    network.eval()
    return {
        "parameters": runs.count(network),
        "validation": round(float(history.metric[-1]), 4),
        "test": round(accuracy(network, *parts["test"]), 4),
        "loss": round(float(history.loss[-50:].mean()), 4),
        "curve": [round(float(m), 4) for m in history.metric],
    }


def main() -> None:
    options = runs.parser(__doc__, SEEDS, steps=STEPS).parse_args()
    models = [f"s4d-{init}" for init in INITS] + ["s4", "gru", "gru-long"]
    long_read = ["s4d-lin", "s4", "gru", "gru-long"]
    settings = [(32, "mean", m) for m in models] + [(32, "last", m) for m in long_read]
    settings += [(8, "mean", m) for m in models]
    jobs = [
        {"size": size, "read": read, "model": name, "lr": lr, "seed": seed, "steps": options.steps}
        for size, read, name in settings
        for lr in LEARNING_RATES
        for seed in options.seeds
    ]
    fixed = {
        "d_model": D_MODEL,
        "N": N,
        "n_layer": N_LAYER,
        "batch": BATCH,
        "warmup": WARMUP,
        "rows": runs.DIGITS_ROWS,
    }
    runs.Runner("sequential_digits", run, fixed, options)(jobs)


if __name__ == "__main__":
    main()
