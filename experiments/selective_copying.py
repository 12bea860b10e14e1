"""Chapter 16: selective copying, by layers of a fixed system and by layers that select.

Eight data tokens stand among noise, at random places, and are asked for in order. Every model has
the same frame (an embedding that is also the head, two residual blocks, a norm), the same number of
parameters to within 2 %, the same number of updates on the same batches, and its learning rate
chosen from the same list by the loss on validation sequences. Reported is the share of test
sequences with all eight answers right.

The short length comes first. A run that is stopped is resumed by the same command.
"""

import argparse
import functools
import itertools
import statistics
from typing import Any

import runs
import torch
from torch import nn

from linear_time.mixer import LanguageModel, Residual
from linear_time.s4 import S4D
from linear_time.selective import Selective
from linear_time.tasks import accuracy, answer_loss, selective_copying
from linear_time.training import Config, seed_everything, train

D_MODEL, N, N_LAYER, VOCAB = 64, 16, 2, 16
N_TOKENS = 8
LEARNING_RATES = (6e-3, 2e-2, 6e-2)
SEEDS = (0, 1, 2)
STEPS, BATCH, WARMUP, EVALUATED = 2500, 64, 100, 1024
FIXED: dict[str, Any] = {"select_delta": False, "select_B_C": False}
MIXERS: dict[str, Any] = {
    "S6": lambda d: Selective(d, N),
    "S6, zero-order hold": lambda d: Selective(d, N, rule="zero_order_hold"),
    "only Δ selected": lambda d: Selective(d, N, select_B_C=False),
    "only B and C selected": lambda d: Selective(d, N, select_delta=False),
    "fixed": lambda d: Selective(d, N, **FIXED),
    "S4D": lambda d: S4D(d, N=2 * N),
}
MODELS = {64: tuple(MIXERS), 256: ("S6", "S6, zero-order hold", "fixed", "S4D")}


def network(name: str, width: int) -> nn.Module:
    """The frame around the mixer of this name."""
    return LanguageModel(lambda: Residual(MIXERS[name](width)), VOCAB, width, N_LAYER)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@functools.cache
def width(name: str) -> int:
    """The width that gives a model as many parameters as S6 has at D_MODEL."""
    wanted = count(network("S6", D_MODEL))
    widths = range(D_MODEL // 4, 2 * D_MODEL)
    return min(widths, key=lambda w: abs(count(network(name, w)) - wanted))


def run(job: dict) -> dict:
    device = runs.device()
    length = job["length"]

    def held_out(seed: int):
        generator = torch.Generator().manual_seed(seed)
        drawn = selective_copying(EVALUATED, length, N_TOKENS, VOCAB, generator=generator)
        return tuple(x.to(device) for x in drawn)

    validation, test = held_out(10**6), held_out(10**6 + 1)

    def batches(generator: torch.Generator):
        while True:
            yield selective_copying(BATCH, length, N_TOKENS, VOCAB, generator=generator)

    seed_everything(job["seed"])
    model = network(job["model"], width(job["model"])).to(device)
    curve: list[tuple[float, float]] = []

    def evaluate(model: nn.Module) -> float:
        curve.append(accuracy(model, validation))
        return curve[-1][1]

    steps = job["steps"]
    config = Config(
        steps=steps,
        lr=job["lr"],
        warmup=min(WARMUP, steps),
        seed=job["seed"],
        eval_every=max(1, steps // 20),
        progress=False,
    )
    found: dict[str, Any] = {"parameters": count(model), "width": width(job["model"])}
    try:
        history = train(model, batches, answer_loss, config, evaluate)
    except (FloatingPointError, ValueError) as error:  # it diverged: a result, too
        if "finite" not in str(error):
            raise
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


def chosen(results: list[dict], length: int, model: str) -> list[dict]:
    """The runs, one a seed, of the learning rate with the least mean validation loss."""
    by_rate: dict[float, list[dict]] = {}
    for r in results:
        if r["length"] == length and r["model"] == model and r["validation_loss"] is not None:
            by_rate.setdefault(r["lr"], []).append(r)
    most = max(map(len, by_rate.values()), default=0)
    complete = [rs for rs in by_rate.values() if len(rs) == most]
    return min(complete, key=lambda rs: mean(rs, "validation_loss"), default=[])


def mean(results: list[dict], key: str) -> float:
    return statistics.mean(r[key] for r in results)


def report(results: list[dict]) -> None:
    for length in sorted({r["length"] for r in results}):
        print(f"\nlength {length}, {N_TOKENS} data tokens: right sequences, right tokens")
        for name in MODELS[length]:
            own = [r for r in results if r["length"] == length and r["model"] == name]
            picked = chosen(results, length, name)
            if not picked:
                continue
            rates = sorted({r["lr"] for r in own})
            by_rate = {
                x: round(mean([r for r in own if r["lr"] == x], "sequences"), 3) for x in rates
            }
            print(
                f"{name:22} {picked[0]['parameters']} parameters, lr {picked[0]['lr']}: "
                f"{mean(picked, 'sequences'):.3f} {[r['sequences'] for r in picked]}, "
                f"{mean(picked, 'tokens'):.3f}; by rate {by_rate}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=24 if torch.cuda.is_available() else 2)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--quick", action="store_true", help="one rate, one seed")
    parser.add_argument("--out", help="folder of the result file")
    options = parser.parse_args()
    if options.quick and not options.out:
        parser.error("--quick needs --out: it must not replace the recorded runs")
    rates, seeds = LEARNING_RATES, SEEDS
    if options.quick:
        rates, seeds = rates[2:3], seeds[:1]
    jobs = [
        {"length": length, "model": model, "lr": lr, "seed": seed, "steps": options.steps}
        for length in sorted(options.lengths)
        for lr, seed, model in itertools.product(rates[::-1], seeds, MODELS[length])
    ]
    fixed = {
        "n_tokens": N_TOKENS,
        "vocab_size": VOCAB,
        "N": N,
        "n_layer": N_LAYER,
        "batch": BATCH,
        "warmup": WARMUP,
        "learning_rates": rates,
        "seeds": seeds,
        "sequences_evaluated": EVALUATED,
    }
    finished: list[dict] = []

    def save(results: list[dict]) -> None:
        finished[:] = results
        runs.write("selective_copying", fixed, results, out=options.out)

    done = runs.recorded("selective_copying", options.out)["runs"]
    runs.run_all(run, jobs, options.workers, save, done)
    report(finished or done)


if __name__ == "__main__":
    main()
