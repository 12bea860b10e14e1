"""Chapter 16: which steps Δ does a trained selective layer take at noise, data and markers?

Trains networks of ``selective_copying.py`` again, each at the learning rate that its record chose,
and looks into them. Of every run the record keeps, for both blocks and the three kinds of token,
the mean Δ of every channel, how much of a state one token leaves and how much it writes; and the
share of test sequences that are still right when the steps are changed by hand. Of the first seed
it keeps the Δ of three test sequences, as a mean over the channels, and of one sequence the Δ of
every channel. No weights are kept. On a GPU it is two minutes.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import runs
import torch
from selective_copying import EVALUATED, N_TOKENS, SIZES, WARMUP, network, width
from torch import Tensor, nn

from linear_time import records
from linear_time.layer import inverse_softplus
from linear_time.selective import Selective
from linear_time.tasks import accuracy, answer_loss, selective_copying
from linear_time.training import seed_everything, train

MODELS = {64: ("S6", "only Δ selected"), 256: ("S6",)}
KINDS = ("noise", "data", "marker")
LOOKED_AT, SHOWN = 256, 3  # test sequences: for the means, and with their own steps

#: (Δ before softplus, B, C, a mask of each kind of token) → the three that the scan gets
Change = Callable[..., tuple[Tensor, Tensor, Tensor]]


def kinds_of(tokens: Tensor, vocab_size: int) -> dict[str, Tensor]:
    """Where each kind of token stands."""
    noise, marker = tokens == 0, tokens == vocab_size - 1
    return {"noise": noise, "data": ~noise & ~marker, "marker": marker}


def per_kind(values: Tensor, kinds: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of values (batch, length, …) over the tokens of each kind."""
    return {name: values[at].mean(0) for name, at in kinds.items()}


def mixers(model: nn.Module) -> list[Selective]:
    return [block.mixer for block in model.blocks]  # type: ignore[union-attr, misc]


@contextmanager
def inputs_of(model: nn.Module) -> Iterator[list[Tensor]]:
    """What each mixer reads while the model runs."""
    found: list[Tensor] = []
    hooks = [m.register_forward_pre_hook(lambda m, x: found.append(x[0])) for m in mixers(model)]
    yield found
    for hook in hooks:
        hook.remove()


@contextmanager
def changed(model: nn.Module, change: Change, kinds: dict[str, Tensor], blocks: Any) -> Iterator:
    """The model whose mixers, in these blocks, choose otherwise."""
    own = [mixers(model)[i] for i in blocks]
    for mixer in own:
        was = mixer.choose

        def choose(x: Tensor, was: Any = was) -> tuple[Tensor, Tensor, Tensor]:
            return change(*was(x), kinds)

        mixer.choose = choose  # type: ignore[method-assign]
    yield model
    for mixer in own:
        del mixer.choose  # the class's is there again


def stands_still(delta: Tensor, B: Tensor, C: Tensor, kinds: dict[str, Tensor]) -> tuple:
    """Noise takes no time: Δ = 0."""
    return delta.masked_fill(kinds["noise"][..., None], -torch.inf), B, C


def as_data(delta: Tensor, B: Tensor, C: Tensor, kinds: dict[str, Tensor]) -> tuple:
    """Noise takes a channel's mean step at data tokens."""
    step = nn.functional.softplus(delta)[kinds["data"]].mean(0)
    return torch.where(kinds["noise"][..., None], inverse_softplus(step), delta), B, C


def one_step(delta: Tensor, B: Tensor, C: Tensor, kinds: dict[str, Tensor]) -> tuple:
    """Every token takes a channel's mean step over all."""
    step = nn.functional.softplus(delta).mean((0, 1))
    return inverse_softplus(step).expand_as(delta), B, C


def unwritten(delta: Tensor, B: Tensor, C: Tensor, kinds: dict[str, Tensor]) -> tuple:
    """Noise takes its time, and writes nothing: B = 0."""
    return delta, B.masked_fill(kinds["noise"][..., None], 0.0), C


CHANGES: dict[str, tuple[Change, tuple[int, ...]]] = {
    "noise takes no time": (stands_still, (0, 1)),
    "noise takes no time, first block": (stands_still, (0,)),
    "noise takes no time, second block": (stands_still, (1,)),
    "noise writes nothing": (unwritten, (0, 1)),
    "noise takes the time of data": (as_data, (0, 1)),
    "noise takes the time of data, first block": (as_data, (0,)),
    "noise takes the time of data, second block": (as_data, (1,)),
    "one step for all": (one_step, (0, 1)),
}


def rounded(x: Tensor) -> Any:
    """Three digits of every number."""
    if x.ndim:
        return [rounded(part) for part in x]
    return float(f"{x.item():.3g}")


def look(mixer: Selective, x: Tensor, kinds: dict[str, Tensor]) -> dict[str, Any]:
    """The steps of one mixer, and what a token does to the state, by kind."""
    delta, B, _ = mixer.select(x)
    keep, write = {}, {}
    for name, at in kinds.items():
        step = delta[at]  # (tokens, channels)
        decay = torch.exp(step[..., None] * mixer.A)  # (tokens, channels, N)
        keep[name] = rounded(decay.mean())
        pushed = (step * x[at])[..., None] * B[at][..., None, :]
        write[name] = rounded(pushed.abs().mean())
    mean = {name: rounded(value) for name, value in per_kind(delta, kinds).items()}
    return {"delta": mean, "kept": keep, "written": write}


def run(job: dict) -> dict:
    runs.without_checks()
    device, size = runs.device(), SIZES["full"]
    length, vocab_size = job["length"], size.vocab_size

    def drawn(batch: int, generator: torch.Generator, length: int = length) -> tuple:
        return selective_copying(batch, length, N_TOKENS, vocab_size, generator=generator)

    def test_of(length: int) -> tuple:
        generator = torch.Generator().manual_seed(10**6 + 1)
        return tuple(x.to(device) for x in drawn(EVALUATED, generator, length))

    def batches(generator: torch.Generator) -> Iterator[tuple]:
        while True:
            yield drawn(size.batch, generator)

    own = width(job["model"], "full")  # which draws numbers, once a process
    seed_everything(job["seed"])
    model = network(job["model"], own, size).to(device)
    trained = model
    try:
        trained = runs.graphed(model, next(batches(torch.Generator()))[0].to(device))
    except RuntimeError as error:  # a kernel that cannot be captured: slower, the same
        print(f"without graphs: {error}", flush=True)
    config = replace(runs.config(job, WARMUP, 1), eval_every=None)
    train(trained, batches, answer_loss, config)
    model.eval()
    with torch.no_grad():
        return look_into(model, job, test_of)


def look_into(model: nn.Module, job: dict, test_of: Callable[[int], tuple]) -> dict[str, Any]:
    """What the record keeps of a trained model."""
    length = job["length"]
    tokens, targets = test = test_of(length)
    kinds = kinds_of(tokens, SIZES["full"].vocab_size)
    found: dict[str, Any] = {"right": round(accuracy(model, test)[1], 4), "changed": {}}
    for name, (change, blocks) in CHANGES.items():
        with changed(model, change, kinds, blocks):
            # all at once, since the masks are of all the sequences
            answers = model(tokens).argmax(-1)
        whole = ((answers == targets) | (targets < 0)).all(1).double().mean()
        found["changed"][name] = round(whole.item(), 4)
    found["longer"] = {
        str(n): round(accuracy(model, test_of(n))[1], 4) for n in (64, 128, 256, 512)
    }
    some = tokens[:LOOKED_AT]
    with inputs_of(model) as inputs:
        model(some)
    those = {name: at[:LOOKED_AT] for name, at in kinds.items()}
    pairs = list(zip(mixers(model), inputs, strict=True))
    found["blocks"] = [look(mixer, x, those) for mixer, x in pairs]
    if job["seed"] > 0:
        return found
    steps = [mixer.select(x[:SHOWN])[0] for mixer, x in pairs]  # (sequences, length, channels)
    found["tokens"] = some[:SHOWN].tolist()
    found["mean_delta"] = [rounded(delta.log().mean(-1).exp()) for delta in steps]
    if (job["model"], length) == ("S6", 64):
        found["every_delta"] = [rounded(delta[0].mT) for delta in steps]  # (channels, length)
    return found


def rate(length: int, model: str) -> float:
    """The learning rate that the comparison chose."""
    own = records.read("selective_copying").where(length=length, model=model)
    return own.chosen("validation_loss")[0]["lr"]


def main() -> None:
    options = runs.parser(__doc__, (0, 1, 2), steps=SIZES["full"].steps, workers=9).parse_args()
    fixed = {
        "n_tokens": N_TOKENS,
        "sequences_evaluated": EVALUATED,
        "sequences_looked_at": LOOKED_AT,
    }
    run_all = runs.Runner("selective_steps", run, fixed, options)
    jobs = [
        {"length": n, "model": m, "lr": rate(n, m), "seed": seed, "steps": options.steps}
        for seed in options.seeds
        for n in sorted(MODELS, reverse=True)
        for m in MODELS[n]
    ]
    for (length, model), rows in run_all(jobs).by("length", "model").items():
        print(f"{length} positions, {model}: right {rows.values('right')}")
        for name in CHANGES:
            print(f"    {name}: {statistics.mean(row['changed'][name] for row in rows):.3f}")


if __name__ == "__main__":
    main()
