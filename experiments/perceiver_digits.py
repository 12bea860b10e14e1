"""Chapter 08: digits as 64 pixels, by a Perceiver with three kinds of position, a CNN and a ViT.

The miniature of the paper's table on permuted pixels. "raw" is the image; "permuted" moves the 64
pixels by one fixed permutation, each with the position features that it had before, as the paper
does; "permuted first" attaches position features afterwards, so that neighbours in position are
strangers in the image. Every model has 43,000 to 52,000 parameters ("sorted", an MLP on the sorted
pixel values, is the baseline of a model that knows no positions), the same updates on the same
batches, and its learning rate chosen from the same four by validation accuracy.
"""

import functools
from typing import Any

import numpy as np
import runs
import torch
from torch import Tensor, nn

from linear_time.perceiver import (
    CrossAttention,
    Perceiver,
    PerceiverClassifier,
    fourier_features,
    grid,
)
from linear_time.training import seed_everything, train

LEARNING_RATES = (5e-4, 1e-3, 2e-3, 4e-3)
SEEDS = (0, 1, 2)
STEPS, BATCH, WARMUP = 1000, 64, 50
N_BANDS, D_PIXEL = 4, 12
MODELS = (
    "perceiver fourier",
    "perceiver learned",
    "perceiver none",
    "cnn pixels",
    "cnn fourier",
    "vit learned",
    "vit fourier",
    "sorted",
)
CONDITIONS = ("raw", "permuted", "permuted first")
POSITIONS = fourier_features(grid(8, 8), N_BANDS, 8)  # (64, 18)


class PerceiverDigits(nn.Module):
    """The pixel is embedded first: a LayerNorm on one channel would erase it."""

    def __init__(self, positions: str) -> None:
        super().__init__()
        self.pixel = nn.Linear(1, D_PIXEL)
        self.positions = positions
        width = POSITIONS.shape[1] if positions != "none" else 0
        if positions == "learned":
            self.learned = nn.Parameter(torch.randn(64, width) * 0.5)
        perceiver = Perceiver(D_PIXEL + width, 16, 40, n_cross=2, n_self=2, n_heads=4, widening=2)
        self.classifier = PerceiverClassifier(perceiver, 10)

    def forward(self, pixels: Tensor, positions: Tensor, index: Tensor) -> Tensor:
        tokens = self.pixel(pixels)  # (batch, 64, d)
        if self.positions == "learned":
            positions = self.learned[index]
        if self.positions != "none":
            tokens = torch.cat([tokens, positions.expand(len(pixels), -1, -1)], -1)
        return self.classifier(tokens)


class CNN(nn.Module):
    def __init__(self, fourier: bool) -> None:
        super().__init__()
        self.fourier = fourier
        d_in, width = (19, 48) if fourier else (1, 52)
        self.layers = nn.Sequential(
            nn.Conv2d(d_in, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(width, 10)

    def forward(self, pixels: Tensor, positions: Tensor, index: Tensor) -> Tensor:
        x = pixels
        if self.fourier:
            x = torch.cat([pixels, positions.expand(len(pixels), -1, -1)], -1)
        x = x.mT.unflatten(2, (8, 8))  # (batch, channels, 8, 8)
        return self.head(self.layers(x).mean((2, 3)))


class ViT(nn.Module):
    """2×2 patches of the image as it comes, two layers of self-attention."""

    def __init__(self, fourier: bool) -> None:
        super().__init__()
        self.fourier = fourier
        d_in, d = (4 * 19, 52) if fourier else (4, 56)
        self.patch = nn.Linear(d_in, d)
        self.place = nn.Parameter(torch.randn(16, d) * 0.02)
        self.layers = nn.ModuleList(CrossAttention(d, 4, widening=2) for _ in range(2))
        self.head = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 10))

    def forward(self, pixels: Tensor, positions: Tensor, index: Tensor) -> Tensor:
        x = pixels
        if self.fourier:
            x = torch.cat([pixels, positions.expand(len(pixels), -1, -1)], -1)
        x = x.reshape(len(x), 4, 2, 4, 2, -1).transpose(2, 3).flatten(3)
        x = self.patch(x.flatten(1, 2)) + self.place  # (batch, 16, d)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class SortedPixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, 190), nn.ReLU(), nn.Linear(190, 190), nn.ReLU(), nn.Linear(190, 10)
        )

    def forward(self, pixels: Tensor, positions: Tensor, index: Tensor) -> Tensor:
        return self.layers(pixels[..., 0].sort(1).values)


def model(name: str) -> nn.Module:
    kind, _, positions = name.partition(" ")
    if kind == "perceiver":
        return PerceiverDigits(positions)
    if kind == "sorted":
        return SortedPixels()
    return {"cnn": CNN, "vit": ViT}[kind](positions == "fourier")


def data(condition: str, device: torch.device) -> dict[str, Any]:
    """Pixels in [−1, 1], (rows, 64, 1), positions and indices that go with them; a fixed split."""
    order = torch.arange(64)
    moved = torch.tensor(np.random.default_rng(1).permutation(64))
    places = (order if condition == "raw" else moved).to(device)
    index = (moved if condition == "permuted" else order).to(device)
    parts = {
        name: (2 * images.flatten(1)[:, places, None] - 1, classes)
        for name, (images, classes) in runs.digits_parts(device).items()
    }
    return {**parts, "positions": POSITIONS.to(device)[index], "index": index}


def run(job: dict) -> dict:
    device = runs.device()
    d = data(job["condition"], device)
    seed_everything(job["seed"])
    network = model(job["model"]).to(device)
    x, y = d["train"]
    predict = functools.partial(_logits, positions=d["positions"], index=d["index"])

    def batches(generator: torch.Generator):
        while True:
            order = torch.randperm(len(x), generator=generator).to(device)
            yield from ((x[i], y[i]) for i in order.split(BATCH) if len(i) == BATCH)

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(predict(network, batch[0]), batch[1], reduction="none")

    def accuracy(network: nn.Module, part: str) -> float:
        images, classes = d[part]
        with torch.no_grad():
            return float((predict(network, images).argmax(-1) == classes).float().mean())

    config = runs.config(job, WARMUP, 15)
    history = train(network, batches, loss, config, lambda n: accuracy(n, "validation"))
    network.eval()
    return {
        "parameters": runs.count(network),
        "validation": round(float(history.metric[-1]), 4),
        "test": round(accuracy(network, "test"), 4),
        "curve": [round(float(m), 4) for m in history.metric],
    }


def _logits(network: nn.Module, x: Tensor, positions: Tensor, index: Tensor) -> Tensor:
    return network(x, positions, index)


def main() -> None:
    options = runs.parser(__doc__, SEEDS, steps=STEPS).parse_args()
    jobs = [
        {"condition": c, "model": m, "lr": lr, "seed": seed, "steps": options.steps}
        for seed in options.seeds
        for c in CONDITIONS
        for m in MODELS
        if c == "raw" or m not in ("sorted", "perceiver none")  # these see no order at all
        for lr in LEARNING_RATES
    ]
    fixed = {
        "batch": BATCH,
        "warmup": WARMUP,
        "learning_rates": LEARNING_RATES,
        "rows": runs.DIGITS_ROWS,
    }
    runs.Runner("perceiver_digits", run, fixed, options)(jobs)


if __name__ == "__main__":
    main()
