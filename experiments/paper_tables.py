"""Chapter 19: the three synthetic tables of the papers, at their sizes.

``copying``    selective copying, Mamba's table 1: 4096 places, 16 data tokens, 16 symbols;
``induction``  induction heads, Mamba's table 2: trained at 256, tested from 64 to 2^20;
``recall``     multi-query associative recall (MQAR), Zoology's figure 2: three sizes, four rates.

Within a table every model has the same blocks' width and number of blocks, the same updates on the
same batches, and its learning rate chosen from the same list by the loss on validation sequences;
where the best rate is an end of the list, the rates beyond are run. ``--size full`` is what is
recorded: fewer updates than the papers took, at a rate that falls by half a cosine. ``--size
published`` has their numbers of updates (but for H3's) and, where they were constant, their rates
(and, on induction heads, their width of attention), and ``--size small`` is a few updates on a
CPU. A command that is stopped is resumed by the same command; with ``--seconds`` it stops by
itself, and goes on where it was.
"""

import functools
import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import runs
import side_by_side
import torch
from language_models import WithoutSelection
from torch import Tensor, nn
from torch.nn import functional

from linear_time.decoder import GroupedQueryAttention
from linear_time.mamba import Mamba
from linear_time.mamba2 import Mamba2
from linear_time.mixer import LanguageModel, Residual, SequenceMixer
from linear_time.records import Record
from linear_time.s4 import S4, S4D
from linear_time.selective import Selective, selective_scan
from linear_time.tasks import (
    NO_ANSWER,
    associative_recall,
    induction_heads,
    selective_copying,
)
from linear_time.training import Config, seed_everything

SEEDS = (0, 1, 2)
WARMUP = 100
VALIDATION, TEST = 10**6, 10**6 + 1  # seeds of what no model is trained on


class Attention(GroupedQueryAttention):
    """The library's attention with rotary positions; of whole sequences by torch's fused kernel."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__(d_model, n_heads, n_heads)

    def _read(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if q.shape != k.shape:
            return super()._read(q, k, v, mask)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


class H3(SequenceMixer):
    """H3's frame: y = W (q ⊙ systems(shift(k) ⊙ v)) + b, with q, k and v maps of x.

    Args:
        systems: of as many channels, (batch, length, d_model) to the same.
    """

    def __init__(self, systems: SequenceMixer) -> None:
        d_model = systems.d_model
        super().__init__(d_model)
        self.project = nn.Linear(d_model, 3 * d_model, bias=False)
        self.taps = nn.Parameter(torch.empty(4, d_model).uniform_(-0.5, 0.5))
        self.systems = systems
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        self.refuse_mask(mask)
        q, products, _ = self.read(x, self.window(x))
        out: Tensor = self.out(q * self.systems(products))
        return out

    def prefill(self, x: Tensor, state: Any = None, mask: Tensor | None = None) -> Any:
        self.refuse_mask(mask)
        window, h = (self.window(x), None) if state is None else state
        q, products, window = self.read(x, window)
        y, h = self.systems.prefill(products, h)
        return self.out(q * y), (window, h)

    def window(self, x: Tensor) -> Tensor:
        """The keys before the first, (batch, taps − 1, d_model)."""
        return x.new_zeros(len(x), len(self.taps) - 1, self.d_model)

    def read(self, x: Tensor, window: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, shift(k) ⊙ v, and the last keys, for what comes next."""
        q, k, v = self.project(x).chunk(3, dim=-1)
        past = torch.cat([window, k], dim=1)
        shifted: Any = sum(
            tap * past[:, i : i + x.shape[1]] for i, tap in enumerate(self.taps.unbind())
        )
        return q, shifted * v, past[:, x.shape[1] :]


class BareS4D(S4D):
    """The systems of S4D alone, without what is around them."""

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model, N=32)
        del self.out

    def _output(self, y: Tensor, x: Tensor) -> Tensor:
        return y + self.D * x


class BareS6(Selective):
    """The selected systems of S6 alone."""

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model, 16)
        del self.out

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        self.refuse_mask(mask)
        delta, B, C = self.choose(x)
        y: Any = selective_scan(x.mT, delta.mT, self.A, B.mT, C.mT, self.D, delta_softplus=True)
        return y.mT


def delta_net(d_model: int) -> SequenceMixer:
    """The delta rule in chapter 21's block, two heads of 32 × 32 for each 64 channels."""
    from recall import Member  # which takes its attention from here

    return Member("DeltaNet", d_model, max(d_model // 32, 1))


# Of S4D and S4 half of the states are the others' conjugates: as many real numbers as S6 keeps.
MIXERS: dict[str, Callable[[int], Any]] = {
    "S4D": lambda d: S4D(d, N=32),
    "S4": lambda d: S4(d, N=32),
    "S6": lambda d: Selective(d, 16),
    "S6, nothing selected": lambda d: Selective(d, 16, select_delta=False, select_B_C=False),
    "Mamba, nothing selected": WithoutSelection,
    "Mamba": Mamba,
    "S4D in H3": lambda d: H3(BareS4D(d)),
    "S6 in H3": lambda d: H3(BareS6(d)),
    "Mamba-2": lambda d: Mamba2(d, P=min(64, 2 * d)),
    "DeltaNet": delta_net,
    "attention": lambda d: Attention(d, max(d // 16, 1)),
    "attention, one head": lambda d: Attention(d, 1),
}


class Table(NamedTuple):
    """One table: a task at its sizes, and how the models are trained on it."""

    models: dict[str, int]  # and their numbers of blocks
    # Of the task, each with the blocks' width; where it has steps or blocks, they stand here.
    sizes: tuple[dict[str, int], ...]
    vocab_size: int
    batch: int
    steps: int
    rates: tuple[float, ...]
    more_rates: tuple[float, ...]  # for a model that is best at that end of the rates
    together: int  # runs side by side
    sweep: int  # seeds with which the rates are swept; the chosen one is run with all
    target: float  # share of right answers at which a run has ended
    evaluated: int  # sequences
    lengths: tuple[int, ...] = ()  # of further tests
    constant: bool = False  # the rate stays after the warm-up; else half a cosine
    weight_decay: float = 0.01
    own: dict[str, dict[str, int]] | None = None  # of a model, in the place of the table's


COPYING = Table(
    models={
        "Mamba": 2,
        "S6": 2,
        "S4D": 2,
        "Mamba, nothing selected": 2,
        "S4D in H3": 2,
        "S6 in H3": 2,
        "S6, nothing selected": 2,
        "S4": 2,
    },
    sizes=(
        {"width": 64, "length": 1024, "n_tokens": 16},
        {"width": 64, "length": 4096, "n_tokens": 16, "steps": 30_000},
    ),
    vocab_size=16,
    batch=16,
    steps=12_500,
    rates=(2.5e-4, 1e-3, 4e-3),
    more_rates=(6e-5, 1.6e-2, 6.4e-2),
    together=3,
    sweep=1,
    target=math.inf,
    evaluated=512,
)
INDUCTION = Table(
    models={"Mamba": 2, "attention": 2, "Mamba, nothing selected": 2, "S4D": 2},
    sizes=({"width": 64, "length": 256},),
    vocab_size=16,
    batch=8,
    steps=20_000,
    rates=(1.25e-4, 2.5e-4, 5e-4, 1e-3),
    more_rates=(6e-5, 2e-3),
    together=12,
    sweep=3,
    target=math.inf,
    evaluated=512,
    lengths=tuple(2**k for k in range(6, 21)),
)
RECALL = Table(
    models={"Mamba": 4, "attention, one head": 2, "S4D": 4, "Mamba-2": 4, "DeltaNet": 4},
    sizes=tuple(
        {"width": width, "length": length, "n_pairs": n_pairs}
        for width in (64, 128, 256, 512)
        for length, n_pairs in ((64, 4), (128, 8), (256, 16))
    ),
    vocab_size=8192,
    batch=256,
    steps=3000,
    rates=tuple(10 ** (-4 + 2 * k / 3) for k in range(4)),
    more_rates=(10 ** (-4 + 8 / 3),),
    together=4,
    sweep=1,
    target=0.99,  # as Zoology's runs
    evaluated=1024,
)
SIZES = {
    "full": {"copying": COPYING, "induction": INDUCTION, "recall": RECALL},
    "published": {
        "copying": COPYING._replace(
            sizes=({"width": 64, "length": 4096, "n_tokens": 16},),
            steps=400_000,
            batch=64,
            rates=(1e-4,),
            more_rates=(),
            sweep=3,
            constant=True,
        ),
        "induction": INDUCTION._replace(
            models={**INDUCTION.models, "S4D in H3": 2},
            steps=204_800,
            rates=(2e-4, 1e-3),
            more_rates=(),
            together=6,
            constant=True,
            weight_decay=0.0,
            own={"attention": {"width": 128, "steps": 409_600}},
        ),
        "recall": RECALL._replace(
            steps=12_500,
            batch=512,
            more_rates=(),
            weight_decay=0.1,
        ),
    },
    "longer": {
        "recall": RECALL._replace(
            sizes=(
                {"width": 64, "length": 128, "n_pairs": 8, "blocks": 2},
                {"width": 64, "length": 256, "n_pairs": 16, "blocks": 2},
                {"width": 128, "length": 256, "n_pairs": 16, "blocks": 2},
            ),
            steps=12_500,
        )
    },
    "small": {
        "copying": COPYING._replace(
            sizes=({"width": 16, "length": 64, "n_tokens": 4},), batch=8, steps=20, evaluated=32
        ),
        "induction": INDUCTION._replace(
            sizes=({"width": 16, "length": 32},), steps=20, evaluated=32, lengths=(16, 64)
        ),
        "recall": RECALL._replace(
            sizes=({"width": 16, "length": 32, "n_pairs": 4},), batch=8, steps=20, evaluated=32
        ),
    },
}


def network(table: Table, model: str, width: int, blocks: int | None = None) -> LanguageModel:
    """The frame that is the same for all: embedding, residual blocks, norm, and the head."""
    blocks = blocks or table.models[model]
    return LanguageModel(lambda: Residual(MIXERS[model](width)), table.vocab_size, width, blocks)


def drawn(name: str, table: Table, size: dict, n: int, generator: torch.Generator) -> Any:
    """Sequences of a table's task: tokens (n, length), places of the answers, and answers."""
    vocab_size = table.vocab_size
    if name == "copying":
        tokens, targets = selective_copying(
            n, size["length"], size["n_tokens"], vocab_size, generator=generator
        )
    elif name == "induction":
        tokens, targets = induction_heads(n, size["length"], vocab_size, generator=generator)
    else:  # Zoology's own figure has no random filler
        tokens, targets = associative_recall(
            n, size["length"], size["n_pairs"], vocab_size, 0.01, False, generator=generator
        )
    places = (targets != NO_ANSWER).nonzero()[:, 1].view(n, -1)
    return tokens, places, targets.gather(1, places)


def answers(model: LanguageModel, tokens: Tensor, places: Tensor) -> Tensor:
    """The logits at these places alone, (rows, answers, vocabulary)."""
    x = model.embedding(tokens)
    for block in model.blocks:
        x = block(x)
    return model.logits(x.gather(1, places[..., None].expand(-1, -1, x.shape[-1])))


def terms(model: LanguageModel, tokens: Tensor, places: Tensor, right: Tensor) -> Tensor:
    logits = answers(model, tokens, places)
    return functional.cross_entropy(logits.flatten(0, 1), right.flatten(), reduction="none")


@torch.no_grad()
def score(model: LanguageModel, sequences: Any, rows: int) -> tuple[float, float, float]:
    """Loss, share of right answers, share of sequences without a wrong one."""
    losses, right = [], []
    for tokens, places, wanted in zip(*(x.split(rows) for x in sequences), strict=True):
        logits = answers(model, tokens, places)
        one = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
        losses.append(one)
        right.append(logits.argmax(-1) == wanted)
    found = torch.cat(right)
    loss = torch.cat(losses).double().mean().item()
    return loss, found.double().mean().item(), found.all(1).double().mean().item()


@torch.no_grad()
def at_length(
    model: LanguageModel, table: Table, length: int, device: torch.device, piece: int = 2**14
) -> dict[str, float] | None:
    """The share of right answers at another length; the state is handed from piece to piece."""
    n = max(min(512, 2**24 // length), 32)
    attends = any(isinstance(block.mixer, Attention) for block in model.blocks)
    if attends and length > 2**14:
        return None
    generator = torch.Generator(device).manual_seed(TEST + length)
    tokens, targets = induction_heads(n, length, table.vocab_size, generator=generator)
    right = 0
    for some, wanted in zip(tokens.split(16), targets[:, -1].split(16), strict=True):
        state = None
        if attends:
            logits, _ = model.prefill(some)
        else:
            for part in some.split(piece, dim=1):
                logits, state = model.prefill(part, state)
        right += int((logits.argmax(-1) == wanted).sum())
    return {"right": round(right / n, 4), "sequences": n}


def run(group: Sequence[dict], end: float, folder: Path) -> list[dict] | None:
    """These jobs of one table side by side; None where there is not the time.

    What is not done by then waits in the folder.
    """
    if time.perf_counter() > end:
        return None
    runs.without_checks()
    torch.set_float32_matmul_precision("high")
    device, same = runs.device(), group[0]  # but for the rate and the seed
    name = same["table"]
    table = SIZES[same["size"]][name]
    size = {k: same[k] for k in ("width", "length", "n_tokens", "n_pairs") if k in same}
    held_out = {
        of: drawn(name, table, size, table.evaluated, torch.Generator(device).manual_seed(of))
        for of in (VALIDATION, TEST)
    }
    batch = same["batch"]

    def draw(generator: torch.Generator, n: int) -> Any:
        flat = drawn(name, table, size, n * batch, generator)
        return tuple(x.unflatten(0, (n, -1)) for x in flat)

    trainees = []
    for job in group:
        seed_everything(job["seed"])
        model = network(table, job["model"], size["width"], job.get("blocks")).to(device)
        settings: Config = runs.config(job, WARMUP, 1, weight_decay=table.weight_decay)
        trainees.append(side_by_side.Trainee(model, draw, terms, settings, table.constant))
    rows = max(1, min(table.evaluated, 2**24 // size["length"] // size["width"]))

    def evaluate(trainee: side_by_side.Trainee) -> float:
        found = score(trainee.network.eval(), held_out[VALIDATION], rows)  # type: ignore[arg-type]
        trainee.curve.append([trainee.done, *(round(x, 4) for x in found)])
        return found[1]

    steps = same["steps"]
    chunk = min(side_by_side.CHUNK, steps)
    every = chunk * max(1, steps // 20 // chunk)
    seconds = end - time.perf_counter()
    jobs = hashlib.sha256(json.dumps(group).encode()).hexdigest()
    keep = folder / f"paper_{name}-{jobs[:12]}.pt" if seconds < math.inf else None
    if not side_by_side.train_side_by_side(trainees, evaluate, every, table.target, seconds, keep):
        return None
    results = []
    for trainee in trainees:
        model: Any = trainee.network.eval()
        found: dict[str, Any] = {"parameters": runs.count(model), "updates": trainee.done}
        curve = trainee.curve
        if not curve or not trainee.finite():
            none = {"validation_loss": None, "tokens": 0.0, "sequences": 0.0, "curve": curve}
            results.append({**found, **none})
            continue
        loss = curve[-1][1]
        _, tokens, sequences = score(model, held_out[TEST], rows)
        last = trainee.losses[max(1, trainee.done - 49) : trainee.done + 1]
        found |= {
            "validation_loss": loss,
            "training_loss": round(float(last.mean()), 4),
            "tokens": round(tokens, 4),
            "sequences": round(sequences, 4),
            "curve": curve,
        }
        if table.lengths:
            found["lengths"] = {
                str(length): of
                for length in table.lengths
                if (tokens > 0.5 or length <= 2**12)  # who fails at 256 is not asked for a million
                and (of := at_length(model, table, length, device)) is not None
            }
        results.append(found)
    return results


def report(record: Record) -> None:
    for size, of_size in record.by("width", "length").items():
        print(f"\n{record.name}: width and length {size}; right answers, right sequences")
        for name, own in of_size.by("model").items():
            picked = own.chosen("validation_loss")
            right, whole = (statistics.mean(picked.values(k)) for k in ("tokens", "sequences"))
            print(
                f"{name:26} {picked[0]['parameters']} parameters, lr {picked[0]['lr']:.2g}, "
                f"{len(picked)} seeds: {right:.3f} {picked.values('tokens')}, {whole:.3f}"
            )


def complete(name: str, options: Any, end: float) -> None:
    """All runs of a table: the sweep with every seed, then beyond it where an end is best."""
    table = SIZES[options.size][name]
    fixed = {
        **{k: v for k, v in table._asdict().items() if k not in {"target", "together", "sweep"}},
        **{"warmup": WARMUP, "target": min(table.target, 2.0), "precision": "float32, TF32"},
    }
    runner = runs.Runner(
        f"paper_{name}", functools.partial(run, end=end, folder=options.out), fixed, options
    )

    def jobs(size: dict, model: str, rates: Sequence[float], seeds: Sequence[int]) -> list[dict]:
        same = {"table": name, "size": options.size, **size, "model": model}
        batch, own = options.batch or table.batch, (table.own or {}).get(model, {})
        number = options.steps or size.get("steps", table.steps)
        return [
            {**same, "lr": lr, "seed": seed, "steps": number, "batch": batch, **own}
            for seed in seeds
            for lr in rates
        ]

    def every(wanted: list[dict]) -> Record:
        """These jobs, so many at once; what is done already leaves its place empty."""

        def key(job: dict) -> Any:
            return job["model"], job["width"], job["length"], wanted.index(job) // table.together

        return runner.together(wanted, key)

    models = [m for m in table.models if not options.models or m in options.models]
    widths = options.widths or sorted({size["width"] for size in table.sizes})
    for size in table.sizes:
        if size["width"] not in widths or size["length"] not in (
            options.lengths or [size["length"]]
        ):
            continue
        for model in models:
            rates = options.rates or table.rates
            swept = options.seeds[: table.sweep]
            first = every(jobs(size, model, rates, swept))
            if len(first) < len(rates) * len(swept):
                continue  # there was not the time
            best = first.chosen("validation_loss")[0]["lr"]
            if not options.rates:
                others = runs.beyond(best, rates, table.more_rates)
                more = every(jobs(size, model, others, swept))
                both = replace(first, rows=(*first, *more))
                best = both.chosen("validation_loss")[0]["lr"]
            every(jobs(size, model, [best], options.seeds))
    found = runner.before()
    if found is not None and len(found):
        report(found)


def main() -> None:
    parser = runs.parser(__doc__, SEEDS, SIZES)
    parser.add_argument("--tables", nargs="+", choices=SIZES["full"], default=list(SIZES["full"]))
    parser.add_argument("--models", nargs="+", choices=MIXERS)
    parser.add_argument("--widths", type=int, nargs="+")
    parser.add_argument("--lengths", type=int, nargs="+")
    parser.add_argument("--rates", type=float, nargs="+")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--seconds", type=float, default=math.inf, help="to stop after")
    options = parser.parse_args()
    end = time.perf_counter() + options.seconds
    for name in options.tables:
        if name not in SIZES[options.size]:
            parser.error(f"--size {options.size} has the tables {', '.join(SIZES[options.size])}")
        complete(name, options, end)


if __name__ == "__main__":
    main()
