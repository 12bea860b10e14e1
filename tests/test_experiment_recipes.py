"""The recipes of ``experiments/``: constants, networks, settings, and what a tiny job comes to.

The records were made by these recipes, and a script is run again so rarely that nobody would notice
another number in one of them. What a record does not say itself stands in ``recipes.json``: every
constant of a script, what each network answers from seed 0, and what the tiny jobs of
``test_experiment_jobs.py`` come to. Who changes a recipe on purpose writes it anew by

    PYTHONPATH=src python tests/test_experiment_recipes.py

and sees in the difference which recipes have changed.
"""

import argparse
import contextlib
import importlib.util
import inspect
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from book import ROOT, experiment
from linear_time import checks, records
from linear_time.training import seed_everything
from test_experiment_jobs import (
    CASES,
    JOBS,
    SCRIPTS,
    SHARED,
    TRAINED,
    caught,
    digits_kept,
    leaves,
    run,
    small,
)

pytestmark = pytest.mark.usefixtures("no_gpu")

__all__ = ["small"]
RECIPES = ROOT / "tests" / "recipes.json"
CPU = torch.device("cpu")


def known(part: str) -> dict[str, Any]:
    return json.loads(RECIPES.read_text(encoding="utf8"))[part]


# --- constants -----------------------------------------------------------------------------------


def fresh(name: str) -> ModuleType:
    """A script read anew, beside the one that others have imported."""
    experiment(name)
    path = ROOT / "experiments" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_anew", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        spec.loader.exec_module(module)
    return module


def plain(value: Any) -> Any:
    """As JSON: of what is made the name, of many numbers their sum."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, (tuple, list, set, range)):
        return [plain(v) for v in value]
    if isinstance(value, Tensor):
        return [*value.shape, round(float(value.double().square().sum()), 3)]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, "__name__", type(value).__name__)


def constants(name: str) -> dict[str, Any]:
    """All that a script writes in capitals, and the defaults of its functions."""
    script = fresh(name)
    found = {key: plain(value) for key, value in vars(script).items() if key.isupper()}
    found.pop("RECORDED", None)  # a folder
    for key, value in vars(script).items():
        if getattr(value, "__module__", None) == script.__name__:
            begins = vars(value).get("__init__") if inspect.isclass(value) else None
            for one, default in [*defaults(value), *defaults(begins)]:
                found[f"{key}({one})"] = plain(default)
    return json.loads(json.dumps(found))


def defaults(function: Any) -> list[tuple[str, Any]]:
    """What arguments are where nobody says otherwise, or the fields of a tuple."""
    if hasattr(function, "_field_defaults"):
        return list(function._field_defaults.items())
    if not inspect.isfunction(function):
        return []
    every = inspect.signature(function).parameters.values()
    return [(one.name, one.default) for one in every if one.default is not one.empty]


@pytest.mark.parametrize("name", sorted(SCRIPTS | SHARED))
def test_the_constants_of_a_recipe(name):
    assert constants(name) == known("constants")[name]


def command(name: str) -> dict[str, Any]:
    """What a script's arguments are where a command gives none."""
    script, asked = experiment(name), []

    class Stop(Exception):
        pass

    def parse(parser: argparse.ArgumentParser, *given: Any) -> None:
        for one in parser._actions:
            how = one.type.__name__ if one.type else None
            choices = list(one.choices) if one.choices else None
            asked.append([*one.option_strings, one.nargs, how, choices, plain(one.default)])
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script.runs.argparse.ArgumentParser, "parse_args", parse)
        with pytest.raises(Stop):
            script.main()
    found = {one[-5]: one[-4:] for one in asked if one[-5] not in ("--help", "--out")}
    return json.loads(json.dumps(found))


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_the_arguments_of_a_recipe(name):
    assert command(name) == known("arguments")[name]


# --- networks ------------------------------------------------------------------------------------


def tokens(length: int, size: int) -> Tensor:
    return torch.randint(size, (2, length), generator=torch.Generator().manual_seed(1))


def digit(rows: int) -> Tensor:
    return experiment("runs").digits_parts(CPU)["test"][0][:rows]


def of_recall(script: ModuleType) -> Iterator[tuple[str, Callable, tuple]]:
    for size, models in (("small", script.RULES), ("full", (*script.OWN, "GDN-2", "Mamba-3"))):
        for model in models:
            given = (tokens(19, script.SIZES[size].vocab_size),)
            yield (
                f"{size} {model}",
                lambda s=size, m=model: script.network(script.SIZES[s], m),
                given,
            )


def of_paper_tables(script: ModuleType) -> Iterator[tuple[str, Callable, tuple]]:
    table = script.SIZES["small"]["induction"]._replace(models=dict.fromkeys(script.MIXERS, 2))
    sizes = [(model, 32) for model in script.MIXERS if model != "DeltaNet"]
    sizes += [
        (model, width) for model in ("Mamba-2", "DeltaNet", "attention") for width in (16, 64)
    ]
    for model, width in [*sizes, ("attention", 8)]:
        make = lambda m=model, w=width: script.network(table, m, w)  # noqa: E731
        yield f"{model} {width}", make, (tokens(19, 16),)


def of_language_models(script: ModuleType) -> Iterator[tuple[str, Callable, tuple]]:
    starts = [("library", "small", name) for name in script.MODELS]
    starts += [("library", "full", name) for name in script.AFTER]
    starts += [("customary", "small", name) for name in ("llama", "mamba")]
    starts += [(start, "small", name) for start, own in script.STARTS.items() for name in own]
    for start, size, name in starts:
        make = lambda n=name, s=size, at=start: script.model(n, s, 20, at)  # noqa: E731
        yield f"{start} {size} {name}", make, (tokens(19, 20),)


def of_hybrids(script: ModuleType) -> Iterator[tuple[str, Callable, tuple]]:
    for size, task, models in (
        ("small", "text", script.MODELS),
        ("full", "recall", ("1 in 4", "no attention, wide")),
    ):
        for model in models:
            make = lambda s=size, t=task, m=model: script.network(s, t, m, 20)  # noqa: E731
            yield f"{size} {task} {model}", make, (tokens(19, 20),)


def of_movielens(script: ModuleType) -> Iterator[tuple[str, Callable, tuple]]:
    d = script.data("user", CPU, True)
    given = d.fields.codes[:6], d.fields.genres[:6]
    for name in script.MODELS:
        yield name, lambda n=name: script.ranker(d.fields, n, 8), given


def of_perceiver_ar(script: ModuleType) -> Iterator[tuple[str, Callable, tuple]]:
    yield "16 latents", lambda: script.model(16, 20), (tokens(24, 20),)


def of_perceiver_digits(script: ModuleType) -> Iterator[tuple[str, Callable, tuple]]:
    for condition in script.CONDITIONS:
        d = script.data(condition, CPU)
        given = d["test"][0][:3], d["positions"], d["index"]
        for name in script.MODELS:
            yield f"{condition} {name}", lambda n=name: script.model(n), given


def of_perceiver_history(script: ModuleType) -> Iterator[tuple[str, Callable, tuple]]:
    g = torch.Generator().manual_seed(2)
    sizes = {"tokens": (64, 17), "sorted": (64, 17), "candidates": (8, 16), "liked": (8,)}
    batch = {key: torch.randn(3, *size, generator=g) for key, size in sizes.items()}

    class Both(nn.Module):
        def __init__(self, *given: Any) -> None:
            super().__init__()
            self.reader = script.Reader(*given)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return torch.cat([self.reader(batch).flatten(), self.reader.rating(batch).flatten()])

    kinds = [(name, 4) for name in script.COMPRESSORS]
    for name, m in [("none", 0), ("whole", script.LENGTH), *kinds]:
        for reader in script.READERS:
            yield f"{name} {reader}", lambda n=name, m=m, r=reader: Both(n, m, r), (batch,)


def of_perceiver_io(script: ModuleType) -> Iterator[tuple[str, Callable, tuple]]:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.io = script.DigitIO()

        def forward(self, pixels: Tensor, read: Tensor, asked: Tensor) -> Tensor:
            z = self.io.latent(pixels, read)
            return torch.cat([self.io.values(z, asked).flatten(), self.io.logits(z).flatten()])

    points = script.grid(8, 8)
    pixels = digit(3).flatten(1)[:, :24, None]
    yield "both", Both, (pixels, points[:24].expand(3, -1, -1), points[20:30].expand(3, -1, -1))


def of_pyramid(script: ModuleType) -> Iterator[tuple[str, Callable, tuple]]:
    for sizes in script.DESIGNS:
        given = (digit(3).flatten(1)[..., None],)
        yield f"digits {sizes}", lambda s=sizes: script.Classifier(s), given
        given = (script.patches()["test"][:3],)
        yield f"photograph {sizes}", lambda s=sizes: script.Autoencoder(s), given


def of_selective_copying(script: ModuleType) -> Iterator[tuple[str, Callable, tuple]]:
    for name in script.MIXERS:
        size = script.SIZES["small"]
        yield name, lambda n=name, s=size: script.network(n, 12, s), (tokens(19, 6),)


def of_sequential_digits(script: ModuleType) -> Iterator[tuple[str, Callable, tuple]]:
    x = 2 * digit(2).flatten(1)[..., None] - 1
    for i, (name, N) in enumerate(script.MODELS):
        read = ("mean", "last")[i % 2]
        yield f"{name} {N} {read}", lambda n=name, N=N, r=read: script.model(n, N, 8, r), (x,)


def kinds(name: str) -> dict[str, tuple[Callable, tuple]]:
    """The networks of a script, and what each is given."""
    of = globals().get(f"of_{name}")
    return {key: (make, given) for key, make, given in of(experiment(name))} if of else {}


def seen(make: Callable, given: tuple) -> list[float]:
    """From seed 0: the size of the parameters, the output, its gradient."""
    seed_everything(0)
    with checks(values=False):
        network = make()
        parts = [p.detach().double().square().sum() for p in network.parameters()]
        start = math.sqrt(sum(map(float, parts)))
        y = network(*given)
        weights = torch.linspace(-1, 1, y.numel()).view(y.shape).sin()
        with contextlib.suppress(NotImplementedError):  # a GRU learns in a stack alone
            (y * weights).sum().backward()
    flat = y.detach().double().flatten()
    grads = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    sizes = [float(g.double().norm()) for g in grads.values()]
    some = flat[:: max(1, len(flat) // 4)][:4]
    numbers = [start, *some.tolist(), float(flat.mean()), float(flat.std())]
    numbers += [math.sqrt(sum(s * s for s in sizes)), sum(math.log1p(s) for s in sizes)]
    return [float(f"{x:.5g}") for x in numbers]


@pytest.mark.parametrize("name", sorted(n for n in SCRIPTS if f"of_{n}" in globals()))
def test_a_network_of_a_recipe(name):
    """Of seed 0 it starts, answers and learns as it did when the recipe was written."""
    wanted = known("networks")[name]
    found = kinds(name)
    assert found.keys() == wanted.keys()
    for key, (make, given) in found.items():
        least = 5e-4 * wanted[key][6]  # of what spreads less than the outputs do
        assert seen(make, given) == pytest.approx(wanted[key], rel=2e-3, abs=least), key


def test_every_script_has_its_networks_here():
    assert {n for n in SCRIPTS if f"of_{n}" not in globals()} == {"selective_steps"}  # of copying


def histories() -> dict[str, list[float]]:
    """Of each part's histories what no sign of a singular vector changes."""
    found = {}
    for name, part in experiment("perceiver_history").data.__wrapped__().items():
        tokens, ordered, asked = part["tokens"], part["sorted"], part["candidates"]
        products = tokens[..., :-1] @ asked.mT
        numbers = [tokens[..., :-1].square().mean(), tokens[..., -1].square().mean()]
        numbers += [(ordered[..., :-1].norm(dim=-1) * torch.arange(64)).mean() / 64]
        numbers += [(ordered[..., -1] * torch.arange(64)).square().mean().sqrt() / 64]
        numbers += [asked.square().mean(), products.mean(), products.std()]
        numbers += [part[key].square().mean() for key in ("answers", "ratings", "liked")]
        numbers += [(tokens * part["answers"][:, :1]).sum(-1).std(), part["users"].float().mean()]
        found[name] = [float(f"{float(x):.5g}") for x in numbers]
    return found


def test_the_histories_of_a_recipe():
    found = histories()
    assert found.keys() == known("histories").keys()
    for name, wanted in known("histories").items():
        assert found[name] == pytest.approx(wanted, rel=1e-3), name


# --- settings of training ------------------------------------------------------------------------

#: Of a job of 1000 updates: (warm-up, updates from one evaluation to the next, decay, β₂, loss?)
SETTINGS = {
    "language_models": (100, 66, 0.1, 0.999, True),
    "perceiver_digits": (50, 66, 0.01, 0.999, False),
    "perceiver_history": (30, 50, 0.01, 0.999, False),
    "perceiver_io": (50, 100, 0.01, 0.999, True),
    "pyramid": (50, 100, 0.0, 0.999, False),
    "selective_copying": (50, 50, 0.01, 0.999, False),
    "selective_steps": (50, None, 0.01, 0.999, False),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_of_a_recipe(small, monkeypatch, name):
    script = small(name)
    for own, job in TRAINED:
        if own == name:
            given = {**job, "steps": 1000, "seed": 5, "lr": 0.0123}
            found = caught(script, monkeypatch, given).config
            said = (found.warmup, found.eval_every, found.weight_decay, found.beta2)
            assert (*said, found.lower_is_better) == SETTINGS[name]
            assert (found.steps, found.seed, found.lr) == (1000, 5, 0.0123)
            assert (found.clip, found.target, found.progress) == (1.0, None, False)


def test_the_budget_of_the_decoder_is_trained_as_it_says(small, monkeypatch):
    """Of as many updates as were asked for; evaluated ten times."""
    job = {"M": 32, "N": 32, "batch": 2, "lr": 1e-3, "seed": 0, "steps": 400}
    found = caught(small("perceiver_ar"), monkeypatch, job).config
    said = (found.steps, found.warmup, found.eval_every, found.weight_decay, found.beta2)
    assert said == (400, 21, 40, 0.1, 0.999) and found.lower_is_better


#: (script, job, updates between evaluations, target, decay): of the updates of the full size.
BESIDE = [
    ("recall", {"size": "full", "task": "twice, 32", "steps": 3000}, 250, 0.99, 0.01),
    ("recall", {"size": "full", "task": "twice, 32", "steps": 40}, 40, 0.99, 0.01),
    ("hybrids", {"size": "small", "task": "text", "steps": 2000, "batch": 3}, 150, math.inf, 0.1),
    ("hybrids", {"size": "small", "task": "recall", "steps": 3000, "batch": 4}, 250, 0.995, 0.01),
    ("paper_tables", {"size": "small", "table": "copying", "steps": 12_500}, 600, math.inf, 0.01),
    ("paper_tables", {"size": "small", "table": "recall", "steps": 3000}, 150, 0.99, 0.01),
    ("paper_tables", {"size": "published", "table": "recall", "steps": 30}, 30, 0.99, 0.1),
    ("paper_tables", {"size": "published", "table": "induction", "steps": 90}, 50, math.inf, 0.0),
]


@pytest.mark.parametrize(("name", "job", "every", "target", "decay"), BESIDE)
def test_the_settings_of_what_is_trained_side_by_side(
    small, monkeypatch, tmp_path, name, job, every, target, decay
):
    """Each of its own rate and seed; warmed up for 100 updates; it goes on from its own file."""
    script, asked = small(name), []
    model = {"recall": "DeltaNet", "hybrids": "1 in 4", "paper_tables": "S4D"}[name]
    if name == "paper_tables":
        (size, *_) = script.SIZES["small"][job["table"]].sizes
        monkeypatch.setattr(
            script, "SIZES", {of: {t: own._replace(evaluated=2) for t, own in tables.items()}
                              for of, tables in script.SIZES.items()})  # fmt: skip
        job = {**size, **job}
    both = [
        {"batch": 2, **job, "model": model, "lr": lr, "seed": seed}
        for lr, seed in ((0.0123, 5), (0.0321, 6))
    ]

    def trained(trainees, evaluate, *given):
        asked.append((trainees, *given))
        return False

    monkeypatch.setattr(script.side_by_side, "train_side_by_side", trained)
    clock = SimpleNamespace(perf_counter=lambda: 100.0)
    monkeypatch.setattr(script, "time", clock)
    more = {"folder": tmp_path} if name == "paper_tables" else {}
    assert script.run(both, 99.9, **more) is None and not asked
    assert script.run(both, 130.0, **more) is None
    trainees, *given = asked.pop()
    assert given[:3] == [every, target, 30.0]
    for trainee, one in zip(trainees, both, strict=True):
        found = trainee.config
        assert (found.lr, found.seed, found.steps) == (one["lr"], one["seed"], job["steps"])
        assert (found.warmup, found.weight_decay) == (min(100, job["steps"]), decay)
        assert (found.beta2, found.clip) == (0.999, 1.0)
        seed_everything(one["seed"])
        start = next(trainee.network.parameters())
        assert torch.equal(trainee.generator.get_state(),
                           torch.Generator().manual_seed(one["seed"]).get_state())  # fmt: skip
        assert float(start.detach().std()) > 0
        rates = trainee.rates
        stays = name == "paper_tables" and script.SIZES[job["size"]][job["table"]].constant
        assert rates[0] == 0 and len(rates) == job["steps"] + 1
        assert float(rates.max()) == pytest.approx(one["lr"], rel=2e-3)
        assert (rates[-1] == rates.max()) == (stays or job["steps"] <= 100)
    starts = [next(t.network.parameters()).detach() for t in trainees]
    assert not torch.equal(*starts)
    if name == "paper_tables":
        assert given[3].parent == tmp_path and given[3].name.startswith(f"paper_{job['table']}-")
        assert script.run(both, math.inf, tmp_path) is None
        assert asked.pop()[-1] is None  # who has all the time keeps nothing


@pytest.mark.parametrize("name", ["recall", "sequential_digits"])
def test_the_settings_of_a_stack(small, monkeypatch, name):
    """Each network has its job's rate, seed and batches; the limit of time is the command's."""
    script, asked = small(name), []

    def train_stack(networks, data, rows, configs, seconds=None, after=None):
        asked.append((networks, data, rows, configs, seconds))

    monkeypatch.setattr(script, "train_stack", train_stack)
    clock = SimpleNamespace(perf_counter=lambda: 100.0, monotonic=lambda: 100.0)
    monkeypatch.setattr(script, "time", clock)
    job = {**JOBS[name][0], "steps": 80}
    both = [{**job, "lr": lr, "seed": seed} for lr, seed in ((0.0123, 5), (0.0321, 6))]
    if name == "recall":
        found = script.run(both, 130.0)
    else:
        monkeypatch.setattr(script, "UNTIL", 140.0)
        with checks(values=False):
            found = script.run(both)
    assert found is None
    networks, data, rows, configs, seconds = asked.pop()
    assert seconds == 30.0  # of sequential digits ten are left to measure in
    warmup = script.WARMUP
    for config, one in zip(configs, both, strict=True):
        assert (config.lr, config.seed, config.steps) == (one["lr"], one["seed"], 80)
        assert (config.warmup, config.weight_decay) == (min(warmup, 80), 0.01)
    batch = 2 if name == "recall" else script.BATCH
    assert rows.shape == (80, 2, batch)
    assert not torch.equal(rows[:, 0], rows[:, 1])
    starts = [next(n.parameters()).detach() for n in networks]
    assert not torch.equal(*starts)
    if name == "recall":  # every sequence once, each seed's own
        assert torch.equal(rows[:, 0].flatten(), torch.arange(160))
        assert torch.equal(rows[:, 1].flatten(), torch.arange(160, 320))
        size = script.SIZES["small"]
        task = size.tasks[job["task"]]
        for at, one in enumerate(both):
            generator = torch.Generator().manual_seed(one["seed"])
            wanted, places, right = script.drawn(task, size.vocab_size, 160, generator)
            own = data[0][160 * at : 160 * at + 160]
            assert torch.equal(own[:, : task.length], wanted)
            assert torch.equal(own[:, task.length :], places)
            assert torch.equal(data[1][160 * at : 160 * at + 160], right)


# --- what the tiny jobs come to ------------------------------------------------------------------


def numbers(value: Any, key: str = "") -> list[tuple[str, float]]:
    """All numbers of a row, by their places; texts and names of rows are not numbers."""
    if isinstance(value, Mapping):
        pairs = [(f"{key}.{k}".lstrip("."), v) for k, v in value.items()]
    elif isinstance(value, (tuple, list)):
        pairs = [(f"{key}.{i}", v) for i, v in enumerate(value)]
    elif isinstance(value, (bool, int, float)):
        return [(key, float(value))]
    else:
        return []
    return [one for k, v in pairs for one in numbers(v, k)]


def came_to(script: ModuleType, name: str, job: dict) -> dict[str, float]:
    """The first numbers of a job's row; of the digits that are named as wrong, how many."""
    row = run(script, dict(job))
    found = dict(numbers({k: v for k, v in row.items() if k != "logits"}))
    many = sum(".wrong." in key for key in found)
    kept = {k: v for k, v in found.items() if ".wrong." not in k and not k.startswith("tokens.")}
    return {**dict(list(kept.items())[:120]), **({"wrong": float(many)} if many else {})}


#: All but the compressors of a text, which are of bytes.
WHOLE = [(i, n, j) for i, (n, j) in enumerate(CASES) if j.keys() != {"compressor", "size"}]


@pytest.mark.parametrize(("at", "name", "job"), WHOLE, ids=[f"{n}-{i}" for i, n, _ in WHOLE])
@pytest.mark.bad_input  # jaxtyping cannot look inside vmap
def test_what_a_tiny_job_comes_to(small, at, name, job):
    """As when the recipe was written: a share to one answer in a few, a loss to a thousandth."""
    wanted = known("jobs")[f"{name}-{at}"]
    found = came_to(small(name), name, job)
    assert found.keys() == wanted.keys()
    for key, value in found.items():
        share = any(w in key for w in ("accuracy", "tokens", "sequences", "right", "wrong", "auc"))
        most = 3.0 if key == "wrong" else 0.004 if share else 2e-4
        assert value == pytest.approx(wanted[key], rel=3e-3, abs=most), key


class Rounded(float):
    """A number that knows to how many digits it was rounded."""

    digits: int


def rounding(number: Any, digits: int | None = None) -> Any:
    if digits is None:
        return round(number)
    found = Rounded(round(number, digits))
    found.digits = digits
    return found


def places(row: Any) -> list[tuple[str, int]]:
    """As ``digits_kept``, of what was rounded."""
    return [(key, x.digits) for key, x in leaves(row) if isinstance(x, Rounded)]


@pytest.mark.parametrize(("at", "name", "job"), WHOLE, ids=[f"{n}-{i}" for i, n, _ in WHOLE])
@pytest.mark.bad_input  # jaxtyping cannot look inside vmap
def test_a_row_is_rounded_as_its_record(small, monkeypatch, at, name, job):
    """To as many digits as the longest number there has, wherever there are some."""
    script = small(name)
    monkeypatch.setattr(script, "round", rounding, raising=False)
    found = dict(places(run(script, dict(job))))
    recorded = f"paper_{job['table']}" if name == "paper_tables" else name
    have = defaultdict(list)
    for row in records.read(recorded + ("_small" if job.get("size") == "small" and name in (
            "recall", "selective_copying") else "")):  # fmt: skip
        for key, n in digits_kept(dict(row)):
            have[key].append(n)
    for key, digits in found.items():
        assert digits >= max(have[key], default=0), key
        assert digits == max(have[key], default=digits) or len(have[key]) < 20, key


# --- a new file of recipes ------------------------------------------------------------------------


def written(value: Any, deep: int = 3) -> str:
    """JSON with a line for each constant, network and job."""
    if not deep or not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    lines = [
        f"{' ' * (4 - deep)}{json.dumps(key, ensure_ascii=False)}: {written(of, deep - 1)}"
        for key, of in value.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n" + " " * (3 - deep) + "}"


def main() -> None:
    """Write down what the recipes are now."""
    names = sorted(SCRIPTS | SHARED)
    kept: dict[str, Any] = {"constants": {name: constants(name) for name in names}}
    kept["arguments"] = {name: command(name) for name in sorted(SCRIPTS)}
    kept["histories"] = histories()
    kept["networks"] = {
        name: {key: seen(*one) for key, one in kinds(name).items()}
        for name in names
        if f"of_{name}" in globals()
    }
    kept["jobs"] = {}
    for at, name, job in WHOLE:
        with pytest.MonkeyPatch.context() as patch:
            made = small.__wrapped__(patch)
            kept["jobs"][f"{name}-{at}"] = came_to(next(made)(name), name, job)
            list(made)
    RECIPES.write_text(written(kept) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
