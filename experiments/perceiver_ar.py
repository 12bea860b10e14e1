"""Chapter 10: how many latents? Perceiver AR on real text, at equal training compute.

Every model is a Llama of three layers with the same weights' shapes; what differs is how many of
the last positions are latents (N) and how many characters are read (M). N = M is the plain decoder.
The compute of an update is counted (``forward_flops``), and each model gets as many updates as the
same total buys: what ``--steps`` updates of the decoder on 256 characters in batches of 16 cost.
All are scored on the same characters of the validation and test parts, the last 32 positions of
windows of M characters.

Few latents give few losses a sequence. With the same batch for all, a model of few latents gets
more updates with fewer losses each. So each shape is trained twice: in batches of 16 sequences, and
in batches that give 1,024 losses, where compute, losses and (nearly) updates are equal.
"""

import functools
import math

import runs
import torch
from torch import Tensor, nn

from linear_time.datasets import text
from linear_time.perceiver_ar import PerceiverAR
from linear_time.training import seed_everything, train

D_MODEL, N_LAYER, N_HEADS, D_FF = 64, 3, 4, 176
SHAPES = ((256, 256), (256, 128), (256, 64), (128, 128), (64, 64))  # (M, N)
LONGEST, BATCH = 256, 16
LOSSES = 1024  # of an update, where the batch is not BATCH
STEPS, RATES, SEEDS = 200, (7.5e-4, 1.5e-3, 3e-3, 6e-3, 1.2e-2), (0, 1, 2)
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
        *(vocab_size, D_MODEL, N_LAYER, N),
        n_heads=N_HEADS,
        n_kv_heads=N_HEADS,
        d_ff=D_FF,
    )


@functools.lru_cache
def data(device: torch.device) -> tuple[tuple[Tensor, ...], int]:
    book = text()
    return tuple(part.to(device) for part in book.parts()), len(book.alphabet)


def bits(network: nn.Module, part: Tensor, M: int, windows: int = WINDOWS) -> list[float]:
    """Bits a character at the last positions of windows spread over a part, one number for 32."""
    ends = torch.linspace(LONGEST + 1, len(part), windows).long()
    found = []
    for some in ends.split(32):
        window = torch.stack([part[end - M - 1 : end] for end in some.tolist()])
        logits = network(window[:, :-1])[:, -SCORED:]
        targets = window[:, -SCORED:]
        loss = nn.functional.cross_entropy(logits.mT, targets)
        found.append(float(loss) / math.log(2))
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def run(job: dict) -> dict:
    runs.without_checks()
    device = runs.device()
    (training, validation, test), vocab_size = data(device)
    M, N, batch_size = job["M"], job["N"], job["batch"]
    seed_everything(job["seed"])
    network = model(N, vocab_size).to(device)
    network = runs.graphed(network, training[: batch_size * M].view(batch_size, M))
    budget = job["steps"] * BATCH * forward_flops(LONGEST, LONGEST, vocab_size)
    steps = round(budget / (batch_size * forward_flops(M, N, vocab_size)))

    def batches(generator: torch.Generator):
        offsets = torch.arange(M + 1, device=device)
        while True:
            start = torch.randint(len(training) - M - 1, (batch_size, 1), generator=generator)
            yield training[start.to(device) + offsets]

    def loss(network: nn.Module, batch: Tensor) -> Tensor:
        logits = network(batch[:, :-1])  # (batch, N, vocab_size)
        return nn.functional.cross_entropy(logits.mT, batch[:, -N:], reduction="none")

    config = runs.config(
        job, steps // 20 + 1, 10, steps=steps, weight_decay=0.1, lower_is_better=True
    )
    history = train(network, batches, loss, config, lambda n: mean(bits(n, validation, M, 64)))
    network.eval()
    with torch.no_grad():
        found = {
            name: bits(network, part, M)
            for name, part in (("validation", validation), ("test", test))
        }
    return {
        "updates": steps,
        "parameters": runs.count(network),
        "flops_an_update": 3 * batch_size * forward_flops(M, N, vocab_size),
        "losses": steps * batch_size * N,
        "validation": round(mean(found["validation"]), 4),
        "test": round(mean(found["test"]), 4),
        "test_parts": [round(value, 3) for value in found["test"]],
        "curve": [round(float(m), 3) for m in history.metric],
    }


def main() -> None:
    options = runs.parser(__doc__, SEEDS, steps=STEPS).parse_args()
    equal_losses = [(M, N, LOSSES // N) for M, N in SHAPES]
    equal_batch = [(M, N, BATCH) for M, N in SHAPES]
    jobs = [
        {"M": M, "N": N, "batch": batch, "lr": lr, "seed": seed, "steps": options.steps}
        for shapes in (equal_losses, equal_batch)
        for seed in options.seeds
        for lr in RATES
        for M, N, batch in shapes
        if shapes is equal_losses or (M, N, batch) not in equal_losses
    ]
    fixed = {
        "d_model": D_MODEL,
        "n_layer": N_LAYER,
        "n_heads": N_HEADS,
        "d_ff": D_FF,
        "rates": RATES,
        "scored": f"the last {SCORED} positions of {WINDOWS} windows, in 16 parts",
    }
    runs.Runner("perceiver_ar", run, fixed, options)(jobs)


if __name__ == "__main__":
    main()
