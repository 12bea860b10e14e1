"""Chapter 10: how many latents? Perceiver AR on real text, at equal training compute.

Every model is a Llama of four layers with the same weights' shapes; what differs is how many of the
last positions are latents (N) and how many characters are read (M). N = M is the plain decoder.
The compute of a training step is counted (``forward_flops``), and each model gets as many steps as
the same total buys: few latents make a step cheap and give few losses. All are scored on the same
characters of the validation and test parts, the last 32 positions of windows of M characters.

``--size small`` is an hour on two cores of a CPU; ``--size full`` is for a GPU.
"""

import functools
import math
from typing import NamedTuple

import runs
import torch
from torch import Tensor, nn

from linear_time.datasets import text
from linear_time.perceiver_ar import PerceiverAR
from linear_time.training import seed_everything, train

N_HEADS = 4
SEEDS = (0, 1, 2)
SCORED, WINDOWS = 32, 512


class Size(NamedTuple):
    """How large a comparison is."""

    d_model: int
    n_layer: int
    d_ff: int
    batch: int
    steps: int  # of the first shape: the plain decoder on the longest input
    shapes: tuple[tuple[int, int], ...]  # (M, N)
    rates: tuple[float, ...]


SIZES = {
    "full": Size(
        *(128, 4, 352, 32, 1000),
        ((512, 512), (512, 256), (512, 128), (512, 64), (128, 128), (64, 64)),
        (1e-3, 2e-3, 4e-3),
    ),
    "small": Size(
        *(64, 3, 176, 16, 200),
        ((256, 256), (256, 128), (256, 64), (128, 128), (64, 64)),
        (3e-3, 6e-3, 1.2e-2),
    ),
}


def forward_flops(size: Size, M: int, N: int, vocab_size: int) -> int:
    """Multiplications and additions of one sequence, matrix products only."""
    d = size.d_model
    mlp, head = 6 * d * size.d_ff, 2 * d * vocab_size
    first = 4 * N * d * d + 4 * M * d * d + 4 * N * M * d + N * mlp
    other = 8 * N * d * d + 4 * N * N * d + N * mlp
    return first + (size.n_layer - 1) * other + N * head


def model(size: Size, N: int, vocab_size: int) -> PerceiverAR:
    return PerceiverAR(
        *(vocab_size, size.d_model, size.n_layer, N),
        n_heads=N_HEADS,
        n_kv_heads=N_HEADS,
        d_ff=size.d_ff,
    )


@functools.lru_cache
def data(device: torch.device) -> tuple[tuple[Tensor, ...], int]:
    book = text()
    return tuple(part.to(device) for part in book.parts()), len(book.alphabet)


def bits(network: nn.Module, part: Tensor, M: int, longest: int, windows: int = WINDOWS) -> float:
    """Bits a character at the last positions of windows spread over a part."""
    ends = torch.linspace(longest + 1, len(part), windows).long().tolist()
    total = 0.0
    for some in torch.tensor(ends).split(32):
        window = torch.stack([part[end - M - 1 : end] for end in some.tolist()])
        logits = network(window[:, :-1])[:, -SCORED:]
        targets = window[:, -SCORED:]
        total += float(nn.functional.cross_entropy(logits.mT, targets, reduction="sum"))
    return total / (windows * SCORED * math.log(2))


def run(job: dict) -> dict:
    device = runs.device()
    (training, validation, test), vocab_size = data(device)
    size, M, N = SIZES[job["size"]], job["M"], job["N"]
    seed_everything(job["seed"])
    network = model(size, N, vocab_size).to(device)
    longest, _ = size.shapes[0]
    budget = job["steps"] * forward_flops(size, longest, longest, vocab_size)
    steps = round(budget / forward_flops(size, M, N, vocab_size))

    def batches(generator: torch.Generator):
        offsets = torch.arange(M + 1, device=device)
        while True:
            start = torch.randint(len(training) - M - 1, (size.batch, 1), generator=generator)
            yield training[start.to(device) + offsets]

    def loss(network: nn.Module, batch: Tensor) -> Tensor:
        logits = network(batch[:, :-1])  # (batch, N, vocab_size)
        return nn.functional.cross_entropy(logits.mT, batch[:, -N:], reduction="none")

    config = runs.config(
        job, steps // 20 + 1, 10, steps=steps, weight_decay=0.1, lower_is_better=True
    )
    history = train(network, batches, loss, config, lambda n: bits(n, validation, M, longest, 64))
    network.eval()
    with torch.no_grad():
        found = [bits(network, part, M, longest) for part in (validation, test)]
    return {
        "updates": steps,
        "parameters": runs.count(network),
        "flops_a_step": 3 * size.batch * forward_flops(size, M, N, vocab_size),
        "losses": steps * size.batch * N,
        "validation": round(found[0], 4),
        "test": round(found[1], 4),
        "curve": [round(float(m), 4) for m in history.metric],
    }


def main() -> None:
    options = runs.parser(__doc__, SEEDS, SIZES).parse_args()
    size = SIZES[options.size]
    steps = options.steps or size.steps  # of the plain decoder
    jobs = [
        {"size": options.size, "M": M, "N": N, "lr": lr, "seed": seed, "steps": steps}
        for seed in options.seeds
        for lr in size.rates
        for M, N in reversed(size.shapes)  # the longest runs first
    ]
    fixed = {
        **size._asdict(),
        "n_heads": N_HEADS,
        "scored": f"the last {SCORED} positions of {WINDOWS} windows",
    }
    runs.Runner("perceiver_ar", run, fixed, options)(jobs)


if __name__ == "__main__":
    main()
