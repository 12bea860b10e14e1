"""Chapter 22: from no attention to nothing else, by text and by recall, at equal parameters.

Every model has eight layers, each a mixer and an MLP (``HybridLM``): Mamba-2, or attention with
rotary positions at the middle of every so many layers. The two mixers have as many parameters to
within 6 % and the models to within 2 %, for which Mamba-2 is as wide inside as attention
(expand = 1); "wide" is the control with its customary expand = 2, whose MLPs are smaller instead.

``text``   chapter 18's text, by its recipe: the same pieces, batches, updates and rates, and their
           choice by validation;
``recall`` chapter 21's pairs of a key and a value, each written once (MQAR), of which every batch
           has sequences with 4, 8, 16, 32 and 64: what few teach helps with many. A layer of
           Mamba-2 keeps 2,048 numbers here, as there.

Three seeds at each learning rate of the same list, chosen by the loss on validation; where the
best is an end of the list, the rates beyond are run. The runs of a model are trained side by side.
A run that is stopped is resumed by the same command; with ``--seconds`` it stops by itself.
"""

import functools
import gc
import math
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import language_models
import paper_tables
import recall
import runs
import side_by_side
import torch
from torch import Tensor

from linear_time.hybrid import HybridLM, ratio
from linear_time.records import Record
from linear_time.training import seed_everything

SEEDS = (0, 1, 2)
N_LAYER = 8
WARMUP, TARGET = 100, 0.995
MORE_RATES = (1e-4, 3e-4, 3e-2, 1e-1)
VALIDATION, TEST = 10**6, 10**6 + 1  # seeds of what no model is trained on
LENGTHS = (1024, 65_536)  # at which the states are counted
MODELS = {
    "no attention": "mf" * N_LAYER,
    "1 in 8": ratio(N_LAYER, 8, offset=4, after="f"),
    "1 in 4": ratio(N_LAYER, 4, offset=2, after="f"),
    "1 in 2": ratio(N_LAYER, 2, offset=1, after="f"),
    "all attention": ratio(N_LAYER, 1, after="f"),
    "no attention, wide": "mf" * N_LAYER,
}


class Task(NamedTuple):
    """The sizes of a task's models, and how they are trained."""

    width: int
    heads: int  # of attention, d_model / heads each; of Mamba-2 as many channels a head
    N: int  # of Mamba-2: S is (P, N) a head
    d_ff: int
    d_ff_wide: int  # beside the wider Mamba-2
    batch: int
    steps: int
    weight_decay: float
    rates: tuple[float, ...]
    more_rates: tuple[float, ...]  # for a model that is best at that end of the rates


class Pairs(NamedTuple):
    """How many are written, and into how many sequences of a batch."""

    length: int
    rows: dict[int, int]  # sequences of a batch by their number of pairs
    vocab_size: int
    evaluated: int  # sequences of each number


PAIRS = {
    "full": Pairs(256, {4: 24, 8: 16, 16: 12, 32: 8, 64: 4}, 256, 512),
    "small": Pairs(16, {2: 2, 4: 2}, 32, 8),
}


def tasks(size: str) -> dict[str, Task]:
    """Those of a size, with the recipes of the two chapters."""
    book = language_models.SIZES[size]
    sizes = {"full": ((128, 4, 64, 256, 125), (64, 2, 32, 128, 60))}
    of_text, of_pairs = sizes.get(size, ((16, 2, 8, 16, 4), (16, 2, 8, 16, 4)))
    text = Task(*of_text, book.batch, book.steps, 0.1, book.rates, MORE_RATES)
    batch = sum(PAIRS[size].rows.values())
    steps = recall.SIZES["full"].steps if size == "full" else book.steps
    asked = Task(*of_pairs, batch, steps, 0.01, (3e-4, *recall.RATES), MORE_RATES)
    return {"text": text, "recall": asked}


def network(size: str, task: str, model: str, vocab_size: int) -> HybridLM:
    """The model of a pattern, at the sizes of a task."""
    own, pattern, wide = tasks(size)[task], MODELS[model], model.endswith("wide")
    settings: dict[str, dict[str, Any]] = {
        "m": {"N": own.N, "P": own.width // own.heads, "expand": 1 + wide},
        "a": {"n_heads": own.heads, "n_kv_heads": own.heads},
        "f": {"d_ff": own.d_ff_wide if wide else own.d_ff},
    }
    used = {letter: of for letter, of in settings.items() if letter in pattern}
    return HybridLM(pattern, vocab_size, own.width, **used)


def held(model: HybridLM) -> dict[str, Any]:
    """Parameters, and the bytes of a sequence's state at each length: recurrent, and the cache."""
    return {
        "parameters": runs.count(model),
        "state": {str(n): list(model.state_bytes(n)) for n in LENGTHS},
    }


class Text:
    """Chapter 18's characters."""

    target = math.inf  # bits have none

    def __init__(self, device: torch.device, size: str, batch: int) -> None:
        book, (self.training, self.validation, self.test) = language_models.data(device, size)
        self.vocab_size, self.size = len(book.alphabet), language_models.SIZES[size]
        self.batch = batch
        self.offsets = torch.arange(self.size.length + 1, device=device)

    def draw(self, generator: torch.Generator, n: int) -> tuple[Tensor, ...]:
        last = len(self.training) - self.size.length - 1
        sizes = (n, self.batch, 1)
        start = torch.randint(last, sizes, generator=generator, device=self.training.device)
        return (self.training[start + self.offsets],)

    def terms(self, model: Any, piece: Tensor) -> Tensor:
        return language_models.loss(model, piece)

    def metric(self, model: Any) -> list[float]:
        """Bits a character of the beginning of the validation part."""
        some = self.validation[: 64 * self.size.length + 1]
        return [language_models.bits(model, some, self.size.length)]

    @torch.no_grad()
    def result(self, model: Any, curve: list) -> dict[str, Any]:
        length, long = self.size.length, self.size.long
        return {
            "validation": round(language_models.bits(model, self.validation, length), 4),
            "test": round(language_models.bits(model, self.test, length), 4),
            "by_position": language_models.bits_by_position(model, self.test, long),
        }


class Recall:
    """Chapter 21's pairs, of several numbers in each batch."""

    target = TARGET

    def __init__(self, device: torch.device, size: str, batch: int) -> None:
        self.pairs = PAIRS[size]
        self.vocab_size = self.pairs.vocab_size
        assert batch == sum(self.pairs.rows.values())
        self.held_out = {
            of: {
                n: self.drawn(n, self.pairs.evaluated, torch.Generator(device).manual_seed(of))
                for n in self.pairs.rows
            }
            for of in (VALIDATION, TEST)
        }

    def drawn(self, n_pairs: int, n: int, generator: torch.Generator) -> Any:
        """n sequences: tokens, places of the answers and answers."""
        task = recall.Task(self.pairs.length, n_pairs, False)
        return recall.drawn(task, self.vocab_size, n, generator)

    def draw(self, generator: torch.Generator, n: int) -> tuple[Tensor, ...]:
        """Of n batches: tokens (n, batch, length), all answers, and their places in a batch."""
        parts, first = [], 0
        for n_pairs, rows in self.pairs.rows.items():
            tokens, places, right = self.drawn(n_pairs, n * rows, generator)
            row = first + torch.arange(rows, device=tokens.device)[:, None]
            places = places.unflatten(0, (n, rows)) + row * self.pairs.length
            of_batch = tokens.unflatten(0, (n, rows)), places, right.unflatten(0, (n, rows))
            parts.append((of_batch[0], *(x.flatten(1) for x in of_batch[1:])))
            first += rows
        tokens, places, right = (torch.cat(x, 1) for x in zip(*parts, strict=True))
        return tokens, places, right

    def terms(self, model: Any, tokens: Tensor, places: Tensor, right: Tensor) -> Tensor:
        x = model.embedding(tokens)
        for block in model.blocks:
            x = block(x)
        logits = model.logits(x.flatten(0, 1)[places])
        return torch.nn.functional.cross_entropy(logits, right, reduction="none")

    def scores(self, model: Any, of: int) -> dict[int, tuple[float, float, float]]:
        """Loss, share of right answers and of whole sequences, by the number of pairs."""
        return {n: paper_tables.score(model, x, 256) for n, x in self.held_out[of].items()}

    def metric(self, model: Any) -> list[float]:
        """The means over the numbers of pairs of the loss and of the share of right answers."""
        loss, right, _ = zip(*self.scores(model, VALIDATION).values(), strict=True)
        return [statistics.mean(loss), statistics.mean(right)]

    def result(self, model: Any, curve: list) -> dict[str, Any]:
        found = self.scores(model, TEST)
        return {
            "validation": curve[-1][1],
            "test": round(statistics.mean(right for _, right, _ in found.values()), 4),
            "by_pairs": {str(n): round(right, 4) for n, (_, right, _) in found.items()},
        }


class Trainee(side_by_side.Trainee):
    """One of several large graphs: what its trials took is given back before the next."""

    def record(self) -> None:
        super().record()
        if self.on_gpu:
            torch.cuda.empty_cache()


def run(group: Sequence[dict], end: float) -> list[dict] | None:
    """These jobs of one task side by side; None where there is not the time."""
    if time.perf_counter() > end:
        return None
    gc.collect()  # the graphs of the group before
    runs.without_checks()
    torch.set_float32_matmul_precision("high")
    device, same = runs.device(), group[0]  # but for the rate and the seed
    size, name, batch = (same[key] for key in ("size", "task", "batch"))
    task: Any = (Text if name == "text" else Recall)(device, size, batch)
    trainees = []
    for job in group:
        seed_everything(job["seed"])
        model = network(size, name, job["model"], task.vocab_size).to(device)
        settings = runs.config(job, WARMUP, 1, weight_decay=tasks(size)[name].weight_decay)
        trainees.append(Trainee(model, task.draw, task.terms, settings))

    def evaluate(trainee: side_by_side.Trainee) -> float:
        found = task.metric(trainee.network.eval())
        trainee.curve.append([trainee.done, *(round(x, 4) for x in found)])
        return -math.inf if name == "text" else found[1]

    steps = same["steps"]
    chunk = min(side_by_side.CHUNK, steps)
    every = chunk * max(1, steps // 12 // chunk)
    left = end - time.perf_counter()
    if not side_by_side.train_side_by_side(trainees, evaluate, every, task.target, left):
        return None
    results = []
    for trainee in trainees:
        model = trainee.network.eval()  # type: ignore[assignment]
        found = {**held(model), "updates": trainee.done, "curve": trainee.curve}
        if trainee.curve and trainee.finite():
            found |= task.result(model, trainee.curve)
        else:
            found |= {"validation": None, "test": None}
        results.append(found)
    return results


def report(record: Record) -> None:
    for task, of_task in record.by("task").items():
        print(f"\n{task}: bits a character" if task == "text" else f"\n{task}: right answers")
        for name, own in of_task.by("model").items():
            picked = own.chosen("validation")
            by_rate = {
                lr: [row["validation"] for row in rows] for lr, rows in sorted(own.by("lr").items())
            }
            print(
                f"{name:18} {picked[0]['parameters']} parameters, lr {picked[0]['lr']:.2g}: "
                f"{statistics.mean(picked.values('test')):.4f} {picked.values('test')}; "
                f"updates {picked.values('updates')}; validation by rate {by_rate}"
            )


def main() -> None:
    parser = runs.parser(__doc__, SEEDS, language_models.SIZES)
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rates", type=float, nargs="+", help="these alone, and none beyond")
    parser.add_argument("--together", type=int, default=9, help="runs side by side")
    parser.add_argument("--seconds", type=float, default=math.inf, help="to stop after")
    options = parser.parse_args()
    end = time.perf_counter() + options.seconds
    every_task = tasks(options.size)
    fixed = {
        "n_layer": N_LAYER,
        "patterns": MODELS,
        "tasks": {name: task._asdict() for name, task in every_task.items()},
        "pairs": PAIRS[options.size]._asdict(),
        **{"warmup": WARMUP, "target": TARGET, "precision": "float32, TF32"},
    }
    runner = runs.Runner("hybrids", functools.partial(run, end=end), fixed, options)

    def swept(task: str, model: str, rates: Sequence[float]) -> Record | None:
        """The runs at these rates; None where there was not the time for all."""
        own = every_task[task]
        same = {"size": options.size, "task": task, "model": model}
        numbers = {"steps": options.steps or own.steps, "batch": options.batch or own.batch}
        jobs = [
            {**same, "lr": lr, "seed": seed, **numbers} for lr in rates for seed in options.seeds
        ]
        found = runner.together(
            jobs, lambda job: (task, model, jobs.index(job) // options.together)
        )
        return found if len(found) == len(jobs) else None

    for task in options.tasks or every_task:
        for model in options.models:
            if options.rates:
                swept(task, model, options.rates)
                continue
            rates, more = list(every_task[task].rates), every_task[task].more_rates
            while (found := swept(task, model, rates)) is not None:
                best = found.chosen("validation")[0]["lr"]
                beyond = runs.beyond(best, rates, more)
                if not beyond:
                    break
                rates.append(min(beyond, key=lambda lr: abs(math.log(lr / best))))
    done = runner.before()
    if done is not None and len(done):
        report(done)


if __name__ == "__main__":
    main()
