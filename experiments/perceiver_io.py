"""Chapter 09: one latent, two questions. Digits from 24 of their 64 pixels.

The encoder reads 24 pixels at random places. Queries ask for the value at any place, and one query
for the class. Three models of the same shape learn to draw, to name, or both; the learning rate is
chosen from the same three by validation. Drawing is scored on the 40 pixels that were not read
(mean squared error, pixels in [0, 1]), beside two baselines: the mean training image, and the value
of the nearest pixel that was read, or the mean of those that are equally near. "queries" is how
many of the 64 outputs each training step decodes: 16 at random, or all.
"""

from typing import Any

import runs
import torch
from torch import Tensor, nn

from linear_time.perceiver import fourier_features, grid
from linear_time.perceiver_io import PerceiverIO
from linear_time.training import seed_everything, train

LEARNING_RATES = (1e-3, 2e-3, 4e-3)
SEEDS = (0, 1, 2)
STEPS, BATCH, WARMUP, READ = 2000, 64, 50, 24
SETTINGS = (("draw", 16), ("draw", 64), ("name", 16), ("both", 16))


class DigitIO(nn.Module):
    """Pixels with positions in; values at any position, or the class, out."""

    def __init__(self) -> None:
        super().__init__()
        self.pixel = nn.Linear(1, 12)
        self.io = PerceiverIO(12 + 18, 24, 48, 32, n_self=2, n_heads=4, n_query_heads=4)
        self.place = nn.Linear(18, 32)
        self.name_query = nn.Parameter(torch.randn(1, 32) * 0.02)
        self.draw, self.name = nn.Linear(32, 1), nn.Linear(32, 10)

    def latent(self, pixels: Tensor, places: Tensor) -> Tensor:
        """(batch, pixels, 1) at (batch, pixels, 2), both any number."""
        at = fourier_features(places, 4, 8)
        x = torch.cat([self.pixel(2 * pixels - 1), at], -1)
        return self.io.process(self.io.encode(x))

    def values(self, z: Tensor, places: Tensor) -> Tensor:
        """(batch, queries): pixels of the image at any places."""
        queries = self.place(fourier_features(places, 4, 8))
        return self.draw(self.io.decode(z, queries))[..., 0]

    def logits(self, z: Tensor) -> Tensor:
        return self.name(self.io.decode(z, self.name_query.expand(len(z), -1, -1)))[:, 0]


def data(device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
    """Pixels in [0, 1], (rows, 64), and classes."""
    parts = runs.digits_parts(device)
    return {name: (images.flatten(1), classes) for name, (images, classes) in parts.items()}


def choose(rows: int, generator: torch.Generator) -> Tensor:
    """A random order of the 64 pixels for each row: the first READ of them are read."""
    return torch.rand(rows, 64, generator=generator).argsort(1)


def scores(network: DigitIO, x: Tensor, y: Tensor) -> dict[str, float]:
    """Error on the pixels that were not read, accuracy; the same pixels every time."""
    order = choose(len(x), torch.Generator().manual_seed(0)).to(x.device)
    seen, unseen = order[:, :READ], order[:, READ:]
    points = grid(8, 8).to(x.device)
    with torch.no_grad():
        z = network.latent(x.gather(1, seen)[..., None], points[seen])
        error = (network.values(z, points[unseen]) - x.gather(1, unseen)).square().mean()
        right = (network.logits(z).argmax(-1) == y).float().mean()
    return {"mse": round(float(error), 5), "accuracy": round(float(right), 4)}


def baselines(parts: dict[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    x = parts["test"][0]
    order = choose(len(x), torch.Generator().manual_seed(0))
    seen, unseen = order[:, :READ], order[:, READ:]
    truth = x.gather(1, unseen)
    mean = parts["train"][0].mean(0).expand(len(x), -1).gather(1, unseen)
    points = grid(8, 8)
    apart = torch.cdist(points[unseen], points[seen])
    near = (apart < apart.amin(-1, keepdim=True) + 1e-3).float()  # all that are equally near
    copied = (near @ x.gather(1, seen)[..., None])[..., 0] / near.sum(-1)
    return {
        "mean image": round(float((mean - truth).square().mean()), 5),
        "nearest pixel": round(float((copied - truth).square().mean()), 5),
    }


def run(job: dict) -> dict:
    device = runs.device()
    parts = data(device)
    seed_everything(job["seed"])
    network = DigitIO().to(device)
    x, y = parts["train"]
    points = grid(8, 8).to(device)
    task, n_queries = job["task"], job["queries"]

    def batches(generator: torch.Generator):
        while True:
            order = torch.randperm(len(x), generator=generator)
            for i in order.split(BATCH):
                if len(i) == BATCH:
                    asked = choose(BATCH, generator)[:, :n_queries]
                    yield (x[i], y[i], choose(BATCH, generator).to(device), asked.to(device))

    def loss(network: DigitIO, batch: tuple[Tensor, ...]) -> Tensor:
        pixels, classes, order, asked = batch
        seen = order[:, :READ]
        z = network.latent(pixels.gather(1, seen)[..., None], points[seen])
        terms = torch.zeros(len(pixels), device=device)
        if task != "name":
            wanted = pixels.gather(1, asked)
            terms = terms + 20 * (network.values(z, points[asked]) - wanted).square().mean(1)
        if task != "draw":
            logits = network.logits(z)
            terms = terms + nn.functional.cross_entropy(logits, classes, reduction="none")
        return terms

    def metric(network: DigitIO) -> float:
        found = scores(network, *parts["validation"])
        return found["mse"] if task != "name" else 1 - found["accuracy"]

    config = runs.config(job, WARMUP, 10, lower_is_better=True)
    history = train(network, batches, loss, config, metric)
    network.eval()
    return {
        "parameters": runs.count(network),
        "validation": scores(network, *parts["validation"]),
        "test": scores(network, *parts["test"]),
        "curve": [round(float(m), 5) for m in history.metric],
    }


def main() -> None:
    options = runs.parser(__doc__, SEEDS, steps=STEPS).parse_args()
    jobs = [
        {"task": task, "queries": queries, "lr": lr, "seed": seed, "steps": options.steps}
        for seed in options.seeds
        for task, queries in SETTINGS
        for lr in LEARNING_RATES
    ]
    fixed: dict[str, Any] = {
        "batch": BATCH,
        "warmup": WARMUP,
        "read": READ,
        "learning_rates": LEARNING_RATES,
        "rows": runs.DIGITS_ROWS,
        "baselines": baselines(data(torch.device("cpu"))),
    }
    runs.Runner("perceiver_io", run, fixed, options)(jobs)


if __name__ == "__main__":
    main()
