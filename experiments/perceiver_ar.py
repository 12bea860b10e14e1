"""Chapter 10: how many latents? Perceiver AR on real text, at equal training compute.

Every model is a Llama of four layers with the same weights' shapes; what differs is how many of the
last positions are latents (N) and how many characters are read (M). N = M is the plain decoder.
The compute of a training step is counted (``forward_flops``), and each model gets as many steps as
the same total buys: few latents make a step cheap and give few losses. All are scored on the same
characters of the validation and test parts, the last 32 positions of windows of M characters.
"""

import argparse
import functools
import math

import runs
import torch
from torch import Tensor, nn

from linear_time.datasets import text
from linear_time.perceiver_ar import PerceiverAR
from linear_time.training import Config, seed_everything, train

D_MODEL, N_LAYER, N_HEADS, D_FF = 128, 4, 4, 352
SHAPES = ((512, 512), (512, 256), (512, 128), (512, 64), (128, 128), (64, 64))  # (M, N)
LEARNING_RATES = (1e-3, 2e-3, 4e-3)
SEEDS = (0, 1, 2)
STEPS, BATCH = 1000, 32  # of the plain decoder at M = 512
SCORED, WINDOWS = 32, 512


def forward_flops(M: int, N: int, vocab_size: int) -> int:
    """Multiplications and additions of one sequence, matrix products only."""
    d = D_MODEL
    mlp, head = 6 * d * D_FF, 2 * d * vocab_size
    first = 4 * N * d * d + 4 * M * d * d + 4 * N * M * d + N * mlp
    other = 8 * N * d * d + 4 * N * N * d + N * mlp
    return first + (N_LAYER - 1) * other + N * head


def model(N: int, vocab_size: int) -> PerceiverAR:
    return PerceiverAR(
        vocab_size, D_MODEL, N_LAYER, N, n_heads=N_HEADS, n_kv_heads=N_HEADS, d_ff=D_FF
    )


@functools.lru_cache
def data(device: torch.device) -> tuple[tuple[Tensor, ...], int]:
    book = text()
    return tuple(part.to(device) for part in book.parts()), len(book.alphabet)


def bits(network: nn.Module, part: Tensor, M: int) -> float:
    """Bits a character at the last positions of windows spread over a part."""
    longest = max(m for m, _ in SHAPES)
    ends = torch.linspace(longest + 1, len(part), WINDOWS).long().tolist()
    total = 0.0
    for some in torch.tensor(ends).split(32):
        window = torch.stack([part[end - M - 1 : end] for end in some.tolist()])
        logits = network(window[:, :-1])[:, -SCORED:]
        targets = window[:, -SCORED:]
        total += float(nn.functional.cross_entropy(logits.mT, targets, reduction="sum"))
    return total / (WINDOWS * SCORED * math.log(2))


def run(job: dict) -> dict:
    device = runs.device()
    (training, validation, test), vocab_size = data(device)
    M, N = job["M"], job["N"]
    seed_everything(job["seed"])
    network = model(N, vocab_size).to(device)
    longest, _ = SHAPES[0]
    budget = job["steps"] * forward_flops(longest, longest, vocab_size)
    steps = round(budget / forward_flops(M, N, vocab_size))

    def batches(generator: torch.Generator):
        offsets = torch.arange(M + 1, device=device)
        while True:
            start = torch.randint(len(training) - M - 1, (BATCH, 1), generator=generator)
            yield training[start.to(device) + offsets]

    def loss(network: nn.Module, batch: Tensor) -> Tensor:
        logits = network(batch[:, :-1])  # (batch, N, vocab_size)
        return nn.functional.cross_entropy(logits.mT, batch[:, -N:], reduction="none")

    config = Config(
        steps=steps,
        lr=job["lr"],
        warmup=min(steps, steps // 20 + 1),
        weight_decay=0.1,
        seed=job["seed"],
        eval_every=max(1, steps // 10),
        lower_is_better=True,
        progress=False,
    )
    history = train(network, batches, loss, config, lambda n: bits(n, validation, M))
    network.eval()
    with torch.no_grad():
        found = bits(network, test, M)
    return {
        "updates": steps,
        "parameters": sum(p.numel() for p in network.parameters()),
        "flops_a_step": 3 * BATCH * forward_flops(M, N, vocab_size),
        "losses": steps * BATCH * N,
        "validation": round(float(history.metric[-1]), 4),
        "test": round(found, 4),
        "curve": [round(float(m), 4) for m in history.metric],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", help="folder of the result file")
    options = parser.parse_args()
    jobs = [
        {"M": M, "N": N, "lr": lr, "seed": seed, "steps": options.steps}
        for seed in SEEDS
        for lr in LEARNING_RATES
        for M, N in reversed(SHAPES)  # the longest runs first
    ]
    fixed = {
        "d_model": D_MODEL,
        "n_layer": N_LAYER,
        "n_heads": N_HEADS,
        "d_ff": D_FF,
        "batch": BATCH,
        "learning_rates": LEARNING_RATES,
        "seeds": SEEDS,
        "scored": f"the last {SCORED} positions of {WINDOWS} windows",
    }
    save = functools.partial(runs.write, "perceiver_ar", fixed, out=options.out)
    done = runs.recorded("perceiver_ar", options.out)["runs"]
    runs.run_all(run, jobs, options.workers, save, done)


if __name__ == "__main__":
    main()
