"""Chapter 06: one large step or several, at equal parameters, on digits and on a photograph.

"digits": the 64 pixels of a digit as tokens of 4 channels, 64 → 8 tokens, read by one linear layer.
"photograph": the 64 pixels of an 8 × 8 patch, in 3 colours, 64 → 8 tokens (24 numbers), and back
by a decoder that mirrors the encoder. In both a GELU stands between two
steps, and none on the code. The designs: one step, one step by way of a hidden level of equal
parameters, three steps. Every design has the same updates, and its learning rate is chosen by
validation from the same ones.
"""

import itertools
from collections.abc import Iterator, Sequence

import runs
import torch
from torch import Tensor, nn

from linear_time.compression import LinearCompression
from linear_time.datasets import photograph
from linear_time.training import seed_everything, train

DESIGNS = ((64, 8), (64, 37, 8), (64, 32, 16, 8))
LEARNING_RATES = {
    "digits": (0.003, 0.01, 0.03, 0.1, 0.3),
    "photograph": (0.003, 0.01, 0.03, 0.1),
}
IN_DOUBT = {"digits": LEARNING_RATES["digits"], "photograph": (0.01, 0.03)}  # after the first seed
SEEDS = (0, 1, 2)
STEPS = {"digits": 600, "photograph": 2000}
BATCH, WARMUP, D_DIGIT = 128, 50, 4
PATCH_ROWS = {"train": 3000, "validation": 600, "test": 640}


def steps(sizes: Sequence[int]) -> nn.Sequential:
    """LCE from size to size, with a GELU between two."""
    layers: list[nn.Module] = []
    for pair in itertools.pairwise(sizes):
        layers += [nn.GELU()] if layers else []
        layers.append(LinearCompression(*pair))
    return nn.Sequential(*layers)


class Classifier(nn.Module):
    """A digit's pixels to tokens, compressed, and read by a linear layer."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.pixel = nn.Linear(1, D_DIGIT)
        self.code = steps(sizes)
        self.read = nn.Linear(sizes[-1] * D_DIGIT, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.code(self.pixel(x)).flatten(1))


class Autoencoder(nn.Module):
    """A patch compressed, and rebuilt by the mirror image."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.code, self.back = steps(sizes), steps(sizes[::-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.code(x))


def patches() -> dict[str, Tensor]:
    """Patches (rows, 64, 3) of a photograph, without their mean; a fixed split."""
    photo = photograph("china")[:424]  # 53 rows of patches
    x = photo.reshape(53, 8, 80, 8, 3).transpose(1, 2).reshape(-1, 64, 3)
    x = x - x.mean((0, 1))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    rows = order.split(list(PATCH_ROWS.values()))
    return {name: x[at] for name, at in zip(PATCH_ROWS, rows, strict=True)}


def run(job: dict) -> dict:
    runs.without_checks()
    device, digit = runs.device(), job["task"] == "digits"
    if digit:
        data = {
            name: (images.flatten(1)[..., None], classes)
            for name, (images, classes) in runs.digits_parts(device).items()
        }
    else:
        data = {name: (x.to(device), x.to(device)) for name, x in patches().items()}
    seed_everything(job["seed"])
    network = (Classifier if digit else Autoencoder)(job["sizes"]).to(device)
    x, y = data["train"]
    scale = float(x.square().mean())

    def batches(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            at = torch.randint(len(x), (BATCH,), generator=generator).to(device)
            yield x[at], y[at]

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        out = network(batch[0])
        if digit:
            return nn.functional.cross_entropy(out, batch[1], reduction="none")
        return (out - batch[1]).square().mean((1, 2)) / scale

    def quality(network: nn.Module, part: str) -> float:
        """The share of right answers, or the share kept."""
        x, y = data[part]
        with torch.no_grad():
            out = network(x)
            if digit:
                return float((out.argmax(1) == y).double().mean())
            return float(1 - (out - y).square().sum() / y.square().sum())

    settings = runs.config(job, WARMUP, 10, weight_decay=0.0)
    history = train(network, batches, loss, settings, lambda n: quality(n, "validation"))
    network.eval()
    return {
        "weights": runs.count(network.code),
        "validation": round(float(history.metric[-1]), 4),
        "test": round(quality(network, "test"), 4),
        "curve": [round(float(m), 4) for m in history.metric],
    }


def main() -> None:
    options = runs.parser(__doc__, SEEDS).parse_args()
    jobs = [
        {"task": task, "sizes": sizes, "lr": lr, "seed": seed, "steps": STEPS[task]}
        for seed in options.seeds
        for task in STEPS
        for sizes in DESIGNS
        for lr in (IN_DOUBT if seed else LEARNING_RATES)[task]
    ]
    fixed = {
        "batch": BATCH,
        "warmup": WARMUP,
        "learning_rates": LEARNING_RATES,
        "rows": {"digits": runs.DIGITS_ROWS, "photograph": PATCH_ROWS},
    }
    runs.Runner("pyramid", run, fixed, options)(jobs)


if __name__ == "__main__":
    main()
