"""Chapter 16: selective copying, by layers of a fixed system and by layers that select.

Eight data tokens stand among noise, at random places, and are asked for in order. Every model has
the same frame (an embedding that is also the head, two residual blocks, a norm), the same number of
parameters to within 2 %, the same number of updates on the same batches, and its learning rate
chosen from the same list by the loss on validation sequences. Reported is the share of test
sequences with all eight answers right.

``--size small`` is 40 minutes on two cores of a CPU: there the rates are swept with the first seed,
and the rate chosen is run with all three. A run that is stopped is resumed by the same command.
"""

import functools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import runs
import torch
from torch import nn

from linear_time.mixer import LanguageModel, Residual
from linear_time.records import Record
from linear_time.s4 import S4D
from linear_time.selective import Selective
from linear_time.tasks import accuracy, answer_loss, selective_copying
from linear_time.training import seed_everything, train

N, N_LAYER, N_TOKENS = 16, 2, 8
SEEDS = (0, 1, 2)
WARMUP, EVALUATED = 50, 1024
FIXED: dict[str, Any] = {"select_delta": False, "select_B_C": False}
MIXERS: dict[str, Any] = {
    "S6": lambda d: Selective(d, N),
    "S6, zero-order hold": lambda d: Selective(d, N, rule="zero_order_hold"),
    "only Δ selected": lambda d: Selective(d, N, select_B_C=False),
    "only B and C selected": lambda d: Selective(d, N, select_delta=False),
    "fixed": lambda d: Selective(d, N, **FIXED),
    "S4D": lambda d: S4D(d, N=2 * N),
}


class Size(NamedTuple):
    """How large a comparison is."""

    d_model: int  # of S6; the others get the width that makes the parameters equal
    vocab_size: int  # two of them are the noise and the question
    steps: int
    batch: int
    rates: tuple[float, ...]
    more_rates: tuple[float, ...]  # for a model that is best at that end of the rates
    lengths: dict[int, tuple[str, ...]]  # the models at each length


SIZES = {
    "full": Size(
        *(64, 16, 3000, 64, (2.5e-3, 5e-3, 1e-2, 2e-2), (1.25e-3, 4e-2)),
        {64: tuple(MIXERS), 256: ("S6", "S6, zero-order hold", "fixed", "S4D")},
    ),
    "small": Size(*(32, 6, 1500, 32, (5e-3, 1e-2, 2e-2, 4e-2), ()), {64: tuple(MIXERS)}),
}


def network(name: str, width: int, size: Size) -> nn.Module:
    """The frame around the mixer of this name."""
    return LanguageModel(lambda: Residual(MIXERS[name](width)), size.vocab_size, width, N_LAYER)


@functools.cache
def width(name: str, of_size: str) -> int:
    """The width that gives a model as many parameters as S6 has."""
    size = SIZES[of_size]
    wanted = runs.count(network("S6", size.d_model, size))
    widths = range(size.d_model // 4, 2 * size.d_model)
    return min(widths, key=lambda w: abs(runs.count(network(name, w, size)) - wanted))


def run(job: dict) -> dict:
    runs.without_checks()
    device = runs.device()
    size, length = SIZES[job["size"]], job["length"]

    def held_out(seed: int):
        generator = torch.Generator().manual_seed(seed)
        drawn = selective_copying(EVALUATED, length, N_TOKENS, size.vocab_size, generator=generator)
        return tuple(x.to(device) for x in drawn)

    validation, test = held_out(10**6), held_out(10**6 + 1)
    some = tuple(x[:128] for x in validation)

    def batches(generator: torch.Generator):
        while True:
            yield selective_copying(
                size.batch, length, N_TOKENS, size.vocab_size, generator=generator
            )

    own = width(job["model"], job["size"])  # which draws numbers, once a process
    seed_everything(job["seed"])
    model = network(job["model"], own, size).to(device)
    model = runs.graphed(model, next(batches(torch.Generator()))[0].to(device))
    curve: list[tuple[float, float]] = []

    def evaluate(model: nn.Module) -> float:
        curve.append(accuracy(model, some))
        return curve[-1][1]

    config = runs.config(job, WARMUP, 20)
    found: dict[str, Any] = {"parameters": runs.count(model), "width": own}
    try:
        history = train(model, batches, answer_loss, config, evaluate)
    except FloatingPointError:  # it diverged: a result, too
        return {**found, "validation_loss": None, "tokens": 0.0, "sequences": 0.0, "curve": []}
    model.eval()
    with torch.no_grad():
        loss = answer_loss(model, validation).double().mean().item()
    tokens, sequences = accuracy(model, test)
    return {
        **found,
        "validation_loss": round(loss, 4),
        "training_loss": round(float(history.loss[-50:].mean()), 4),
        "tokens": round(tokens, 4),
        "sequences": round(sequences, 4),
        "curve": [[round(t, 3), round(s, 3)] for t, s in curve],
    }


def report(record: Record) -> None:
    for length, of_length in sorted(record.by("length").items()):
        print(f"\nlength {length}, {N_TOKENS} data tokens: right sequences, right tokens")
        for name, own in of_length.by("model").items():
            picked = own.chosen("validation_loss")
            right, tokens = (statistics.mean(picked.values(k)) for k in ("sequences", "tokens"))
            by_rate = {
                rate: round(statistics.mean(rows.values("sequences")), 3)
                for rate, rows in sorted(own.by("lr").items())
            }
            print(
                f"{name:22} {picked[0]['parameters']} parameters, lr {picked[0]['lr']}: "
                f"{right:.3f} {picked.values('sequences')}, {tokens:.3f}; by rate {by_rate}"
            )


def main() -> None:
    options = runs.parser(__doc__, SEEDS, SIZES).parse_args()
    size = SIZES[options.size]
    steps = options.steps or size.steps
    fixed = {
        **size._asdict(),
        "n_tokens": N_TOKENS,
        "N": N,
        "n_layer": N_LAYER,
        "warmup": WARMUP,
        "sequences_evaluated": EVALUATED,
    }

    run_all = runs.Runner("selective_copying", run, fixed, options)

    def jobs(rates_of: Callable[[int, str], Sequence[float]], seeds: Sequence[int]) -> list[dict]:
        return [
            {
                **{"size": options.size, "length": length, "model": model},
                **{"lr": lr, "seed": seed, "steps": steps},
            }
            for seed in seeds
            for length in sorted(size.lengths, reverse=True)  # the slowest first
            for model in size.lengths[length]
            for lr in rates_of(length, model)
        ]

    def swept(length: int, model: str) -> Sequence[float]:
        return size.rates

    swept_seeds = options.seeds if options.size == "full" else options.seeds[:1]
    found = run_all(jobs(swept, swept_seeds))
    best = {
        key: own.chosen("validation_loss")[0]["lr"]
        for key, own in found.by("length", "model").items()
    }

    def more(length: int, model: str) -> Sequence[float]:
        return runs.beyond(best[length, model], size.rates, size.more_rates)

    rows = [*found, *run_all(jobs(more, swept_seeds))]
    if options.size == "small":  # the rate chosen with one seed, with the others too
        rows += run_all(jobs(lambda *key: [best[key]], options.seeds[1:]))
    report(replace(found, rows=tuple(rows)))


if __name__ == "__main__":
    main()
