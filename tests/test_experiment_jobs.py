"""Every script of ``experiments/``: a tiny job, what it is trained on, and what is scored.

Where a model is scored it is replaced by one that knows the answers of one part alone: a score of
another part, or of targets that are shifted, is then far from right.
"""

import copy
import functools
import inspect
import json
import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from book import ROOT, experiment
from linear_time import checks, records
from linear_time.datasets import Text, digits
from linear_time.training import Config, History

pytestmark = pytest.mark.usefixtures("no_gpu")

#: One job a kind, of two steps; what differs between kinds of one script stands beside it.
JOBS: dict[str, tuple[dict, ...]] = {
    "hybrids": tuple(
        {
            **{"size": "small", "task": task, "model": model},
            **{"lr": 1e-2, "seed": 0, "steps": 2, "batch": 4},
        }
        for task, model in (("text", "1 in 4"), ("recall", "1 in 2"), ("recall", "no attention"))
    ),
    "language_models": (
        {"model": "gru", "size": "small", "lr": 1e-2, "seed": 1, "steps": 2},
        {"model": "llama", "size": "small", "lr": 1e-2, "seed": 0, "steps": 2},
        {"baseline": "n-gram", "size": "small"},
        {"compressor": "xz", "size": "small"},
    ),
    "movielens": (
        {
            **{"stage": "sweep", "protocol": "user", "model": "fm", "width": 4, "epochs": 1},
            **{"dropout": 0.5, "quick": True, "rates": (1e-2,)},
        },
        {
            **{"stage": "final", "protocol": "user", "model": "lce", "width": 4, "epochs": 1},
            **{"dropout": 0.0, "quick": True, "lr": 1e-2, "weight_decay": 0.1},
            **{"linear_decay": 0.3, "strength": 2.0, "seeds": (0, 1)},
        },
    ),
    "paper_tables": tuple(
        {
            **{"table": table, "size": "small", **size, "model": "Mamba"},
            **{"lr": 1e-2, "seed": 0, "steps": 2, "batch": 2},
        }
        for table, size in (
            ("copying", {"width": 16, "length": 64, "n_tokens": 4}),
            ("induction", {"width": 16, "length": 32}),
            ("recall", {"width": 16, "length": 32, "n_pairs": 4}),
        )
    ),
    "perceiver_ar": ({"M": 32, "N": 16, "batch": 2, "lr": 1e-3, "seed": 0, "steps": 2},),
    "perceiver_digits": (
        {"condition": "permuted", "model": "cnn fourier", "lr": 1e-3, "seed": 0, "steps": 2},
    ),
    "perceiver_history": (
        {
            **{"target": "ratings", "compressor": "lce", "m": 4, "reader": "normed"},
            **{"lr": 1e-2, "seed": 0, "steps": 2},
        },
    ),
    "perceiver_io": ({"task": "both", "queries": 16, "lr": 1e-3, "seed": 0, "steps": 2},),
    "pyramid": (
        {"task": "digits", "sizes": (64, 8), "lr": 1e-2, "seed": 0, "steps": 2},
        {"task": "photograph", "sizes": (64, 8), "lr": 1e-2, "seed": 0, "steps": 2},
    ),
    "recall": tuple(
        {
            **{"size": size, "task": task, "model": model},
            **{"lr": 1e-2, "seed": 0, "steps": 2, "batch": 2},
        }
        for size, task, models in (
            ("small", "twice, 8", ("DeltaNet", "RWKV-7", "Mamba-3", "mLSTM", "TTT-Linear")),
            ("small", "twice, 8", ("linear attention", "Titans", "RG-LRU", "DeltaProduct")),
            ("full", "twice, 32", ("DeltaNet", "minGRU")),
        )
        for model in models
    ),
    "selective_copying": (
        {"size": "small", "length": 64, "model": "S6", "lr": 1e-2, "seed": 0, "steps": 2},
    ),
    "selective_steps": ({"length": 64, "model": "S6", "lr": 1e-2, "seed": 1, "steps": 2},),
    "sequential_digits": (
        {
            **{"size": 8, "read": "mean", "model": "s4d-lin", "N": 4, "lr": 1e-2},
            **{"fold": 2, "seed": 2, "steps": 2},
        },
    ),
}
SHARED = {"runs", "side_by_side", "stacked", "stacks"}  # by the scripts
SCRIPTS = {p.stem for p in (ROOT / "experiments").glob("*.py")} - SHARED
#: What runs jobs together: its rows have no time of their own.
TOGETHER = ("hybrids", "paper_tables", "recall", "sequential_digits")
CASES = [(name, job) for name, jobs in JOBS.items() for job in jobs]
every_job = pytest.mark.parametrize(
    ("name", "job"), CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)]
)
#: A text in which every character tells its place, in parts of 3600, 200 and 200.
PLACES = Text(torch.arange(4000), "".join(map(chr, range(0x3400, 0x3400 + 4000))))


@pytest.fixture
def small(monkeypatch):
    """A script by name, with sizes for a test."""

    def of(name: str) -> ModuleType:
        script = experiment(name)
        changes: dict[str, Any] = {}
        if name == "hybrids":
            of("language_models")  # whose text it reads
        elif name == "language_models":
            size = script.SIZES["small"]._replace(length=16, batch=2, long=64)
            script.data.cache_clear()
            changes = {"SIZES": {"small": size}, "text": lambda: PLACES, "ORDERS": (1, 2)}
            changes["PROMPT"] = PLACES.alphabet[:5]
        elif name == "perceiver_ar":
            script.data.cache_clear()
            changes = {"LONGEST": 32, "BATCH": 2, "SCORED": 8, "WINDOWS": 48}
            changes["text"] = lambda: PLACES
        elif name == "movielens":
            changes = {"DRAWS": 20, "SHRINKS": (10.0,), "EVIDENCE": (1.0,), "STRENGTHS": (2.0,) * 4}
        elif name == "recall":
            sizes = script.SIZES.items()
            changes = {"SIZES": {key: size._replace(evaluated=16) for key, size in sizes}}
        elif name in ("selective_copying", "selective_steps"):
            changes = {"EVALUATED": 16}
        for key, value in changes.items():
            monkeypatch.setattr(script, key, value)
        return script

    yield of
    checks(values=True)  # which a job switches off
    for name in ("language_models", "perceiver_ar"):
        experiment(name).data.cache_clear()


def run(script: ModuleType, job: dict) -> dict:
    """A job as ``runs`` runs it: a script of stacks is given a list."""
    if script.__name__ == "sequential_digits":
        with checks(values=False):  # as its ``main`` says
            (result,) = script.run([job])
        return result
    if script.__name__ in ("hybrids", "paper_tables", "recall"):
        kept = {"folder": None} if script.__name__ == "paper_tables" else {}  # nothing: no limit
        (result,) = script.run([job], math.inf, **kept)
        return result
    return script.run(job)


def test_every_script_has_a_job():
    assert JOBS.keys() == SCRIPTS


@every_job
@pytest.mark.bad_input  # jaxtyping cannot look inside vmap
def test_a_tiny_job(small, monkeypatch, name, job):
    """Its row is of the kind that the record keeps, of numbers, the same twice."""
    script = small(name)
    if name == "language_models" and "compressor" in job:  # of bytes
        few = Text(PLACES.tokens % 200, PLACES.alphabet[:200])
        monkeypatch.setattr(script, "text", lambda: few)
    if hasattr(script, "width"):
        script.width.cache_clear()  # what the first job counts, the second finds counted
    first, second = run(script, dict(job)), run(script, dict(job))
    assert first == second
    whole = {*job, *first, *(() if name in TOGETHER else ("seconds",))}
    recorded = f"paper_{job['table']}" if name == "paper_tables" else name
    kinds = {frozenset(row) for row in records.read(recorded)}
    kinds |= {kind | {"logit"} for kind in kinds if "best_step" in kind}
    assert frozenset(whole) in kinds
    assert json.loads(json.dumps(first)) == json.loads(json.dumps(second))
    assert "NaN" not in json.dumps(first) and "Infinity" not in json.dumps(first)
    if name == "selective_steps":  # which keeps three digits of any number
        return
    most: dict[str, int] = {}
    for row in records.read(recorded):
        for key, n in digits_kept(dict(row)):
            most[key] = max(n, most.get(key, 0))
    for key, n in digits_kept(first):
        assert n <= most.get(key, 0), f"{key}: {n} digits behind the point"


def leaves(value: Any, key: str = "") -> list[tuple[str, Any]]:
    """What a row has inside, each with its place; numbers of a list, and of steps, share one."""
    if isinstance(value, Mapping):
        inside = [
            (f"{key}.{k}" if not str(k).isdigit() else f"{key}.#", v) for k, v in value.items()
        ]
        return [one for name, v in inside for one in leaves(v, name)]
    if isinstance(value, (tuple, list)):
        return [one for v in value for one in leaves(v, f"{key}.#")]
    return [(key, value)]


def digits_kept(row: Any) -> list[tuple[str, int]]:
    """Of every number in a row, by its place: how many digits it has behind the point."""
    texts = [(key, f"{x:.12f}".rstrip("0")) for key, x in leaves(row) if isinstance(x, float)]
    return [(key, len(text) - text.index(".") - 1) for key, text in texts]


# --- resuming ------------------------------------------------------------------------------------


@every_job
def test_resuming_looks_at_every_setting(tmp_path, name, job):
    """A job is done where a row has all of its settings, and not where one differs."""
    runs = experiment("runs")
    options = runs.parser("", [0]).parse_args(["--out", str(tmp_path)])
    runner = runs.Runner("some", dict, {}, options)
    row = {**json.loads(json.dumps(job)), "found": 1}
    record, missing = runner._begun([job])
    assert missing == [job]
    runner._with(record, [row])
    again, missing = runner._begun([job])
    assert not missing and len(again) == 1
    for key, value in job.items():
        other = {str: "another", bool: not value, tuple: (9,), type(None): 3}.get(
            type(value), -1 if type(value) in (int, float) else None
        )
        changed = {**job, key: other}
        assert runner._begun([changed])[1] == [changed], key
    assert runner._begun([{**job, "more": 1}])[1], "a setting that the row does not know"


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_the_jobs_of_a_script(small, monkeypatch, tmp_path, name):
    """Of other steps, seeds or sizes they are other jobs; none is asked for twice."""
    script = experiment(name)
    asked: list[dict] = []

    class Recorder:
        def __init__(self, name, run, settings, options):
            self.settings, self.name = settings, name
            self.options = options

        def before(self):
            raise Done

        def __call__(self, jobs, workers=None):
            asked.extend(jobs)
            raise Done

        def together(self, jobs, key):
            asked.extend(jobs)
            raise Done

    class Done(Exception):
        pass

    monkeypatch.setattr(script.runs, "Runner", Recorder)

    def jobs(*arguments: str) -> list[dict]:
        monkeypatch.setattr("sys.argv", [f"{name}.py", "--out", str(tmp_path), *arguments])
        asked.clear()
        with pytest.raises(Done):
            script.main()
        return copy.deepcopy(asked)

    steps = "--steps" in inspect.getsource(script.main) or "steps=" in inspect.getsource(
        script.main
    )
    more = {
        "language_models": ["--repeats", "0"],
        "paper_tables": ["--tables", "induction"],  # whose sweep has all seeds
    }.get(name, [])
    if name == "movielens":  # it reads the record before it has jobs
        return
    plain = jobs(*more)
    assert plain and len({json.dumps(job, sort_keys=True) for job in plain}) == len(plain)
    trained = [job for job in plain if "lr" in job]
    (keys,) = {frozenset(job) for job in trained}
    assert keys in {frozenset(job) for job in JOBS[name]}
    assert {"lr", "seed", "steps"} <= keys
    assert {job["seed"] for job in trained} == set(
        range(len({job["seed"] for job in trained}))
    ) and len({job["seed"] for job in trained}) >= 3
    by_setting: dict[str, set] = {}
    for job in trained:
        rest = {k: v for k, v in job.items() if k not in ("lr", "seed", "fold")}
        by_setting.setdefault(json.dumps(rest), set()).add((job["lr"], job["seed"]))
    rates_and_seeds = 3 if name == "selective_steps" else 8
    assert min(map(len, by_setting.values())) >= rates_and_seeds
    few = jobs("--seeds", "7", *more)
    assert {job["seed"] for job in few if "lr" in job} == {7}
    if steps:
        for job in jobs("--steps", "13", *more):
            assert "lr" not in job or (job["steps"] == 13 and job not in plain)


# --- the record is of the script -----------------------------------------------------------------

#: There was not the time for all: README.md of the experiments says what is there.
UNFINISHED = (
    "paper_copying",
    "paper_induction_published",
    "paper_recall",
    "paper_recall_longer",
    "recall",
)
RECORDED = [
    record
    for path in sorted((ROOT / "src" / "linear_time" / "recorded").glob("*.json"))
    for record in [records.read(path.stem)]
    if record.command.startswith("python experiments/")
]


def frozen(value: Any) -> Hashable:
    if isinstance(value, dict):
        return frozenset((key, frozen(one)) for key, one in value.items())
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def parts(row: dict, kinds: set[frozenset[str]]) -> set[Hashable]:
    """Which jobs, of these kinds of keys, a row can be the result of."""
    return {frozen({key: row[key] for key in kind}) for kind in kinds if kind <= row.keys()}


@pytest.mark.parametrize("record", RECORDED, ids=lambda record: record.name)
def test_the_script_as_it_stands_asks_for_what_was_recorded(monkeypatch, record):
    """The recorded command, given again, finds all its jobs done, by the settings of today."""
    _, path, *arguments = record.command.split()
    name = Path(path).stem
    script, read = experiment(name), records.read
    rows = json.loads(json.dumps(list(record), default=list))
    asked: list[dict] = []

    def begun(runner, jobs):
        """What ``together`` and a call begin with; here nothing may be left to run."""
        before = runner.before()
        assert runner.name == record.name
        now, then = (
            json.loads(json.dumps(dict(settings), default=list))
            for settings in (runner.settings, record.settings)
        )
        assert now == then
        plain = [json.loads(json.dumps(job)) for job in jobs]
        kinds = {frozenset(job) for job in plain}
        assert before.rows == record.rows
        known = set().union(*(parts(row, kinds) for row in rows))
        missing = [job for job in plain if frozen(job) not in known]
        if record.name not in UNFINISHED:
            assert not missing, f"{len(missing)} of {len(jobs)} are not recorded: {missing[:2]}"
        asked.extend(plain)
        return before, []

    monkeypatch.setattr(script.runs.Runner, "_begun", begun)
    monkeypatch.setattr(records, "read", functools.cache(read))  # asked for at each of its parts
    monkeypatch.setattr(script.runs.multiprocessing, "get_context", lambda _: NoPool)
    monkeypatch.setattr("sys.argv", [path, *arguments])
    script.main()
    checks(values=True)
    wanted = {json.dumps(job, sort_keys=True) for job in asked}
    assert len(wanted) >= 3
    if record.name in UNFINISHED:  # then all that is recorded was asked for
        jobs, kinds = {frozen(job) for job in asked}, {frozenset(job) for job in asked}
        for row in rows:
            assert jobs & parts(row, kinds), row
    assert read(record.name).rows == record.rows


class NoPool:
    """In the place of processes: nothing may be asked of it."""

    def Pool(self=None, workers=None):
        return NoPool()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def imap_unordered(self, work, tasks):
        assert not tasks
        return tasks

    def close(self):
        pass

    join = close


# --- what is trained on, and how -----------------------------------------------------------------


class Caught(Exception):
    """What a job gives to ``train``."""

    def __init__(self, model, batches, loss, config, evaluate=None):
        super().__init__()
        self.model, self.batches, self.loss = model, batches, loss
        self.config, self.evaluate = config, evaluate

    def some(self, number: int) -> list:
        stream = self.batches(torch.Generator().manual_seed(self.config.seed))
        return [next(stream) for _ in range(number)]


def caught(script: ModuleType, monkeypatch, job: dict) -> Caught:
    """The arguments of the training that a job begins."""

    def stop(*given, **named):
        raise Caught(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(script, "train", stop)
        with pytest.raises(Caught) as found:
            script.run(dict(job))
    return found.value


TRAINED = [(n, j) for n, j in CASES if "lr" in j and n not in ("movielens", *TOGETHER)]
trained = pytest.mark.parametrize(
    ("name", "job"), TRAINED, ids=[f"{name}-{i}" for i, (name, _) in enumerate(TRAINED)]
)


@trained
def test_a_job_is_trained_as_it_says(small, monkeypatch, name, job):
    """The rate, the seed and the steps of the job, and a network that its seed made."""
    script = small(name)
    one, other = (caught(script, monkeypatch, {**job, "seed": seed}) for seed in (3, 4))
    again = caught(script, monkeypatch, {**job, "seed": 3})
    assert (one.config.lr, one.config.seed) == (job["lr"], 3)
    if name != "perceiver_ar":  # its steps are a budget's
        assert one.config.steps == job["steps"]
    assert one.config.eval_every or name == "selective_steps"
    starts = [next(c.model.parameters()).detach() for c in (one, again, other)]
    assert torch.equal(starts[0], starts[1])
    same = torch.equal(starts[0], starts[2])
    assert not same or bool((starts[0] == starts[0].flatten()[0]).all())  # a constant's start
    sizes = {len(next(iter(b.values())) if isinstance(b, dict) else b[0]) for b in one.some(3)}
    assert len(sizes) == 1


# --- texts: what stands at a place is the place ---------------------------------------------------


class Known(nn.Module):
    """Logits of the character that follows, right at some places; elsewhere of the one just read.

    ``last`` positions are given, where a model is asked for some of them.
    """

    def __init__(self, right: range, last: int | None = None, vocab_size: int = 4000) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.right, self.last, self.vocab_size = right, last, vocab_size

    def forward(self, tokens: Tensor) -> Tensor:
        known = (tokens >= self.right.start) & (tokens < self.right.stop)
        said = torch.where(known, tokens + 1, tokens)[:, -(self.last or tokens.shape[1]) :]
        return 100 * nn.functional.one_hot(said % self.vocab_size, self.vocab_size).float()


ALL, NOTHING = range(4000), range(0)
PARTS = {"train": range(3600), "validation": range(3600, 3800), "test": range(3800, 4000)}


def test_a_twentieth_of_the_updates_warms_up(small, monkeypatch):
    job = {**JOBS["perceiver_ar"][0], "steps": 400}
    config = caught(small("perceiver_ar"), monkeypatch, job).config
    assert config.steps >= 400 and config.warmup == config.steps // 20 + 1


@pytest.mark.parametrize("part", ["validation", "test"])
def test_bits_are_of_the_next_character(small, part):
    """Who knows the next one needs 0 bits; who repeats what was read needs all."""
    language, ar = small("language_models"), small("perceiver_ar")
    tokens = PLACES.tokens[PARTS[part].start : PARTS[part].stop]
    assert language.bits(Known(ALL), tokens, 16) < 1e-6
    assert language.bits(Known(NOTHING), tokens, 16) > 100
    assert max(language.bits_by_position(Known(ALL), tokens, 64)) < 1e-6
    assert min(language.bits_by_position(Known(NOTHING), tokens, 64)) > 100
    assert max(ar.bits(Known(ALL, 16), tokens, 32)) < 1e-6
    assert min(ar.bits(Known(NOTHING, 16), tokens, 32)) > 100


@pytest.mark.parametrize("name", ["language_models", "perceiver_ar"])
def test_a_text_is_trained_on_its_first_part(small, monkeypatch, name):
    """The loss is of the next character; evaluated is the validation part, and nothing else."""
    script = small(name)
    found = caught(script, monkeypatch, JOBS[name][0])
    last = None if name == "language_models" else 16
    places = []
    for batch in found.some(200):
        assert batch.shape[0] == 2 and (batch.diff(dim=1) == 1).all()  # pieces of the text
        assert found.loss(Known(ALL, last), batch).max() < 1e-6
        assert found.loss(Known(NOTHING, last), batch).min() > 70
        places.append(batch.flatten())
    whole = torch.cat(places)
    assert whole.max() < 3600 and len(whole.unique()) > 2500 and whole.max() > 3500
    read = []

    class Reading(Known):
        def forward(self, tokens):
            read.append(tokens)
            return super().forward(tokens)

    assert found.evaluate(Reading(PARTS["validation"], last)) < 1e-6
    assert all(bool((t >= 3600).all() and (t < 3800).all()) for t in read)
    assert found.config.lower_is_better


def test_a_text_is_evaluated_on_64_pieces_on_the_way(small, monkeypatch):
    script = small("language_models")
    size = script.SIZES["small"]._replace(length=2)
    monkeypatch.setattr(script, "SIZES", {"small": size})
    found, read = caught(script, monkeypatch, JOBS["language_models"][0]), []

    class Reading(Known):
        def forward(self, tokens):
            read.append(tokens)
            return super().forward(tokens)

    assert found.evaluate(Reading(ALL)) < 1e-6
    assert sorted(set(torch.cat(read).flatten().tolist())) == list(range(3600, 3600 + 64 * 2))


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("name", ["language_models", "perceiver_ar"])
def test_a_texts_scores_are_of_their_parts(small, monkeypatch, name, part):
    script = small(name)
    last = None if name == "language_models" else 16
    monkeypatch.setattr(script, "model", lambda *arguments: Known(PARTS[part], last))
    monkeypatch.setattr(script, "train", untrained)
    found = script.run(JOBS[name][0])
    for other in ("validation", "test"):
        assert found[other] < 0.001 if other == part else found[other] > 100
    if name == "language_models":
        assert all((bits < 0.001) == (part == "test") for bits in found["by_position"])
        assert len(found["by_position"]) == 7
    else:
        assert all((bits < 0.001) == (part == "test") for bits in found["test_parts"])
        assert len(found["test_parts"]) == 16


def untrained(model, batches, loss, config: Config, evaluate=None) -> History:
    """In the place of ``train``: it evaluates once, and learns nothing."""
    import numpy as np

    with torch.no_grad():
        metric = float(evaluate(model.eval())) if evaluate else math.nan
    one, zero = np.array([1]), np.array([0.0])
    return History(one, zero, zero, zero, one, np.array([metric]), False)


def test_the_budget_of_a_shape(small, monkeypatch):
    """Equal compute: the updates of a shape cost what the decoder's cost, to within one update."""
    script = experiment("perceiver_ar")
    network = script.model(16, 66)
    for M, N in ((64, 64), (64, 16)):
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            script.model(N, 66)(torch.zeros(1, M, dtype=torch.int64))
        assert script.forward_flops(M, N, 66) == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert script.runs.count(network) > 0
    script = small("perceiver_ar")
    for M, N, batch in ((32, 32, 2), (32, 16, 2), (16, 16, 8)):
        job = {"M": M, "N": N, "batch": batch, "lr": 1e-3, "seed": 0, "steps": 50}
        found = caught(script, monkeypatch, job)
        spent = found.config.steps * batch * script.forward_flops(M, N, 4000)
        budget = 50 * 2 * script.forward_flops(32, 32, 4000)
        assert abs(spent - budget) <= batch * script.forward_flops(M, N, 4000)
        assert found.some(1)[0].shape == (batch, M + 1)


def test_baselines_of_a_text_read_the_training_part(small, monkeypatch):
    """n-grams and compressors are given the parts that their names say."""
    script, given = small("language_models"), []

    def grams(training, tokens, size, orders):
        given.append((training[0].item(), len(training), tokens[0].item(), len(tokens), size))
        return {2: torch.full((len(tokens),), 0.25)}

    def compressed(training, tokens, name):
        given.append((training[0].item(), len(training), tokens[0].item(), len(tokens), name))
        return 1.5

    monkeypatch.setattr(script, "n_gram", grams)
    monkeypatch.setattr(script, "compressed_bits", compressed)
    found = script.run({"baseline": "n-gram", "size": "small"})
    assert found == {"validation": {2: 2.0}, "test": {2: 2.0}}
    assert script.run({"compressor": "xz", "size": "small"}) == {"test": 1.5}
    assert given == [
        (0, 3600, 3600, 200, 4000),
        (0, 3600, 3800, 200, 4000),
        (0, 3600, 3800, 200, "xz"),
    ]


def test_a_control_is_trained_as_it_says(small, monkeypatch):
    """Its own start and its own β₂; without them the library's."""
    script = small("language_models")
    job = {"model": "llama", "size": "small", "lr": 1e-2, "seed": 0, "steps": 2}
    plain = caught(script, monkeypatch, job)
    other = caught(script, monkeypatch, {**job, "beta2": 0.95, "start": "customary"})
    assert (plain.config.beta2, other.config.beta2) == (0.999, 0.95)
    spread = [float(c.model.blocks[0].mlp.gate.weight.std()) for c in (plain, other)]
    assert spread[0] > 3 * spread[1] and spread[1] == pytest.approx(0.02, rel=0.1)
    assert plain.config.weight_decay == other.config.weight_decay == 0.1


def test_what_is_scored_of_a_text_is_the_parts_beginning(small, monkeypatch):
    script = small("language_models")
    sizes = {"small": script.SIZES["small"]._replace(scored=50)}
    monkeypatch.setattr(script, "SIZES", sizes)
    _, parts = script.data(torch.device("cpu"), "small")
    assert [(int(p[0]), len(p)) for p in parts] == [(0, 3600), (3600, 50), (3800, 50)]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_hybrids_text_is_in_its_parts(small, part):
    """Drawn from the first part alone; chosen by the second, and reported of the third."""
    text = small("hybrids").Text(torch.device("cpu"), "small", 3)
    (pieces,) = text.draw(torch.Generator().manual_seed(0), 300)
    assert pieces.shape == (300, 3, 17) and (pieces.diff(dim=2) == 1).all()
    assert 3500 < pieces.max() < 3600 and len(pieces.unique()) > 3000
    assert text.terms(Known(ALL), pieces[0]).max() < 1e-6
    assert text.terms(Known(NOTHING), pieces[0]).min() > 70
    found = text.result(Known(PARTS[part]), [])
    assert (found["validation"] < 0.001) == (part == "validation")
    assert (found["test"] < 0.001) == (part == "test") == (max(found["by_position"]) < 0.001)
    assert (text.metric(Known(PARTS[part]))[0] < 0.001) == (part == "validation")


def test_a_hybrids_pairs_are_answered_where_they_are_asked(small):
    """A lookup in the sequence finds every answer of a batch; scores are of their parts."""
    task = small("hybrids").Recall(torch.device("cpu"), "small", 4)
    tokens, places, right = task.draw(torch.Generator().manual_seed(0), 50)
    assert tokens.shape == (50, 4, 16) and places.shape == right.shape == (50, 2 * 2 + 2 * 4)

    def solved(rows, places):
        """Of (rows, length) and flat places: the token behind the first copy of that key."""
        asked = rows.flatten()[places]
        keys = rows[places // rows.shape[1]]  # (answers, length)
        first = (keys == asked[:, None]).int().argmax(1)
        assert (first % 2 == 0).all() and (places % rows.shape[1] > first).all()
        return keys.gather(1, first[:, None] + 1)[:, 0]

    for rows, at, answers in zip(tokens, places, right, strict=True):
        assert torch.equal(solved(rows, at), answers)
        by_row = (at // 16).bincount(minlength=4)
        assert by_row.tolist() == [2, 2, 4, 4] and len(at.unique()) == 12

    class Solves(nn.Module):
        """The answers of the sequences of these parts; of others, the token after each."""

        def __init__(self, *names):
            super().__init__()
            rows = [tokens for of in names for tokens, _, _ in task.held_out[of].values()]
            self.known = {row.numpy().tobytes() for one in rows for row in one}
            self.blocks = []

        def embedding(self, tokens):
            flat = torch.arange(tokens.numel())
            said = torch.zeros_like(flat)
            for at in flat[(tokens.flatten() > 0)].tolist():
                row, place = divmod(at, 16)
                first = (tokens[row] == tokens[row, place]).int().argmax()
                if first < place:
                    said[at] = tokens[row, first + 1]
            known = torch.tensor([row.numpy().tobytes() in self.known for row in tokens])
            shift = (~known).repeat_interleave(16).int()
            return ((said + shift) % 32).view(tokens.shape)[..., None].float()

        def logits(self, x):
            return 100 * nn.functional.one_hot(x[..., 0].long(), 32).float()

    from recall import drawn  # chapter 21's, of the same seed

    script = experiment("hybrids")
    for of in (script.VALIDATION, script.TEST):
        for n, held_out in task.held_out[of].items():
            generator = torch.Generator().manual_seed(of)
            pairs = experiment("recall").Task(16, n, False)
            for one, other in zip(held_out, drawn(pairs, 32, 8, generator), strict=True):
                assert torch.equal(one, other)
    loss, share = task.metric(Solves(script.VALIDATION))
    assert share == 1 and loss < 1e-6
    loss, share = task.metric(Solves(script.TEST))
    assert share == 0 and loss > 50
    found = task.result(Solves(script.TEST), [[1, 0.25, 0.5]])
    assert found == {"validation": 0.25, "test": 1, "by_pairs": {"2": 1, "4": 1}}
    assert task.result(Solves(script.VALIDATION), [[1, 0.5, 0.5]])["test"] == 0
    assert task.terms(Solves(script.VALIDATION), tokens[0], places[0], right[0]).min() > 50


def test_hybrids_are_of_equal_size_and_one_pattern(small):
    """Eight layers of a mixer and an MLP; parameters to 2 %, states as counted."""
    script = experiment("hybrids")
    attend = {"no attention": 0, "1 in 8": 1, "1 in 4": 2, "1 in 2": 4, "all attention": 8}
    for task, vocab_size in (("text", 66), ("recall", 256)):
        models = {name: script.network("full", task, name, vocab_size) for name in script.MODELS}
        sizes = {name: script.runs.count(model) for name, model in models.items()}
        assert max(sizes.values()) / min(sizes.values()) < 1.02
        for name, model in models.items():
            assert len(model.pattern) == 16 and set(model.pattern[1::2]) == {"f"}
            assert model.pattern.count("a") == attend.get(name, 0)
            found = script.held(model)
            assert found["state"]["1024"][1] * 64 == found["state"]["65536"][1]
            width = script.tasks("full")[task].width
            assert found["state"]["1024"][1] == attend.get(name, 0) * 2 * width * 1024 * 4
    S = models["no attention"].blocks[0].mixer.initial_state(1).S
    assert S.numel() == experiment("recall").N_STATE  # as many as a layer of chapter 21


# --- digits: who knows the classes of one part ----------------------------------------------------


def digit_parts() -> dict[str, dict[bytes, int]]:
    """Of each part the classes by the sorted pixels of an image: a permutation keeps them."""
    found = {}
    for name, (images, classes) in experiment("runs").digits_parts(torch.device("cpu")).items():
        found[name] = {sign(x): int(y) for x, y in zip(images.flatten(1), classes, strict=True)}
    return found


def sign(pixels: Tensor) -> bytes:
    return (16 * pixels.flatten()).round().to(torch.int16).sort().values.numpy().tobytes()


class KnowsDigits(nn.Module):
    """The class of an image that is in these parts; of others, the class after it."""

    def __init__(self, *names: str, signed: bool = True) -> None:
        super().__init__()
        self.code = self.weight = nn.Linear(1, 1)
        self.signed, self.table = signed, {}
        for name, classes in digit_parts().items():
            for key, y in classes.items():
                self.table.setdefault(key, y if name in names else (y + 1) % 10)
        self.seen: list[bytes] = []

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        signs = [sign((row + 1) / 2 if self.signed else row) for row in x]
        self.seen += signs
        classes = torch.tensor([self.table[key] for key in signs])
        return 100 * nn.functional.one_hot(classes, 10).float()


DIGITS = {"perceiver_digits": ("model", True), "pyramid": ("Classifier", False)}


@pytest.mark.parametrize("name", DIGITS)
def test_digits_are_trained_on_their_part(small, monkeypatch, name):
    script = small(name)
    found = caught(script, monkeypatch, JOBS[name][0])
    signed = DIGITS[name][1]
    parts = digit_parts()
    knows = KnowsDigits(*parts, signed=signed)
    for batch in found.some(30):
        assert found.loss(knows, batch).max() < 1e-6
    assert set(knows.seen) <= set(parts["train"]) and len(set(knows.seen)) > 700
    judge = KnowsDigits("validation", signed=signed)
    assert found.evaluate(judge) == 1
    assert set(judge.seen) == set(parts["validation"]) and len(judge.seen) == 240
    assert not found.config.lower_is_better


def test_pixels_and_their_positions(small):
    """Permuted, a pixel keeps its position's features; permuted first, it gets another's."""
    script, cpu = small("perceiver_digits"), torch.device("cpu")
    raw, permuted, first = (script.data(c, cpu) for c in script.CONDITIONS)
    x = raw["test"][0]
    assert torch.equal(raw["index"], torch.arange(64))
    assert torch.equal(raw["positions"], script.POSITIONS)
    moved = permuted["index"]
    assert torch.equal(moved.sort().values, torch.arange(64)) and not torch.equal(
        moved, torch.arange(64)
    )
    assert torch.equal(permuted["test"][0], x[:, moved])
    assert torch.equal(permuted["positions"], script.POSITIONS[moved])
    assert torch.equal(first["test"][0], x[:, moved])
    assert torch.equal(first["index"], torch.arange(64))
    assert torch.equal(first["positions"], script.POSITIONS)


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("name", DIGITS)
def test_digits_scores_are_of_their_parts(small, monkeypatch, name, part):
    script = small(name)
    maker, signed = DIGITS[name]
    monkeypatch.setattr(script, maker, lambda *given: KnowsDigits(part, signed=signed))
    monkeypatch.setattr(script, "train", untrained)
    found = script.run(JOBS[name][0])
    for other in ("validation", "test"):
        assert (found[other] > 0.99) == (other == part), found
        assert other == part or found[other] < 0.02


def test_digits_of_a_fold_are_scored_by_their_parts(small, monkeypatch):
    """``sequential_digits``: right are the rows of one part alone, and the wrong ones are named."""
    script = small("sequential_digits")
    classes = digits(8).labels
    rows = script.parts(2)
    for part in ("validation", "test"):
        known = torch.zeros(1797, dtype=torch.bool)
        known[rows[part]] = True
        said = torch.where(known, classes, (classes + 1) % 10)
        at = iter(said.split(script.BATCH))

        def train_stack(networks, data, rows, configs, seconds, at=at):
            assert rows.shape == (2, 1, script.BATCH)
            assert data[0].shape == (1797, 64, 1) and torch.equal(data[1], classes)
            assert float(data[0].min()) == -1 and float(data[0].max()) == 1
            assert set(rows.flatten().tolist()) <= set(script.parts(2)["train"].tolist())

            def stack(x):
                return 100 * nn.functional.one_hot(next(at), 10).float()[None]

            return stack, torch.ones(2, 1)

        monkeypatch.setattr(script, "train_stack", train_stack)
        (found,) = script.run([JOBS["sequential_digits"][0]])
        other = "validation" if part == "test" else "test"
        assert found[part]["accuracy"] == 1 and found[other]["accuracy"] == 0
        assert found[part]["loss"] == 0 and found[other]["loss"] > 90
        wrong = [] if part == "test" else sorted(rows["test"].tolist())
        assert found["test"]["wrong"] == wrong and "wrong" not in found["validation"]
        assert found["loss"] == 1.0


def test_a_photograph_is_scored_by_its_parts(small, monkeypatch):
    """Who gives a patch of one part back as it is keeps all of it, and loses the others'."""
    script = small("pyramid")
    parts = {name: {x.numpy().tobytes() for x in rows} for name, rows in script.patches().items()}

    class Keeps(nn.Module):
        def __init__(self, *names):
            super().__init__()
            self.code, self.seen = nn.Linear(1, 1), []
            self.known = set().union(*(parts[name] for name in names))

        def forward(self, x):
            keys = [row.numpy().tobytes() for row in x]
            self.seen += keys
            kept = torch.tensor([1.0 if key in self.known else -1.0 for key in keys])
            return x * kept[:, None, None]

    job = JOBS["pyramid"][1]
    found = caught(script, monkeypatch, job)
    keeps = Keeps(*parts)
    for batch in found.some(10):
        assert found.loss(keeps, batch).max() == 0
    assert set(keeps.seen) <= parts["train"]
    lost = torch.cat([found.loss(Keeps(), batch) for batch in found.some(10)])
    assert float(lost.mean()) == pytest.approx(4, rel=0.1)  # in units of the training patches
    assert found.evaluate(Keeps("validation")) == 1 and found.evaluate(Keeps("test")) == -3
    monkeypatch.setattr(script, "train", untrained)
    for part in ("validation", "test"):
        monkeypatch.setattr(script, "Autoencoder", lambda sizes, part=part: Keeps(part))
        row = script.run(job)
        assert row["validation"] == (1 if part == "validation" else -3)
        assert row["test"] == (1 if part == "test" else -3)


# --- digits from some of their pixels -------------------------------------------------------------


def test_what_is_drawn_was_not_read(small, monkeypatch):
    """The 40 places that are scored are those that were not read; classes are aligned."""
    script = small("perceiver_io")
    x, y = script.data(torch.device("cpu"))["validation"]

    class Looks:
        def latent(self, pixels, places):
            self.read = places
            keys = (16 * pixels[..., 0]).round()
            at = (places * 3.5 + 3.5).round()  # rows and columns
            index = (8 * at[..., 0] + at[..., 1]).long()
            assert torch.equal(keys, (16 * x.gather(1, index)).round())
            return index

        def values(self, index, places):
            at = (places * 3.5 + 3.5).round()
            asked = (8 * at[..., 0] + at[..., 1]).long()
            assert index.shape[1] == 24 and asked.shape[1] == 40
            both = torch.cat([index, asked], 1).sort(1).values
            assert torch.equal(both, torch.arange(64).expand_as(both))
            return x.gather(1, asked)

        def logits(self, index):
            return nn.functional.one_hot(y, 10).float()

    assert script.scores(Looks(), x, y) == {"mse": 0.0, "accuracy": 1.0}
    wrong = script.scores(Looks(), x, (y + 1) % 10)
    assert wrong == {"mse": 0.0, "accuracy": 0.0}


@pytest.mark.parametrize("task", ["draw", "name", "both"])
def test_a_digits_two_questions(small, monkeypatch, task):
    """Trained on its part; the metric is the validation's, an error or one minus a share."""
    script = small("perceiver_io")
    parts = script.data(torch.device("cpu"))
    found = caught(script, monkeypatch, {**JOBS["perceiver_io"][0], "task": task})
    train = {row.numpy().tobytes() for row in parts["train"][0]}
    table = {row.numpy().tobytes(): int(c) for row, c in zip(*parts["train"], strict=True)}
    for pixels, classes, order, asked in found.some(5):
        keys = [row.numpy().tobytes() for row in pixels]
        assert set(keys) <= train and [table[k] for k in keys] == classes.tolist()
        assert asked.shape == (64, 16) and order.shape == (64, 64)
        assert torch.equal(order.sort(1).values, torch.arange(64).expand(64, -1))
    asked_of = []

    def scores(network, x, y):
        (part,) = [name for name, (rows, _) in parts.items() if torch.equal(rows, x)]
        assert torch.equal(parts[part][1], y)
        asked_of.append(part)
        value = {"train": 0.1, "validation": 0.25, "test": 0.75}[part]
        return {"mse": value, "accuracy": value / 2}

    monkeypatch.setattr(script, "scores", scores)
    assert found.config.lower_is_better
    monkeypatch.setattr(script, "train", untrained)
    row = script.run({**JOBS["perceiver_io"][0], "task": task})
    assert row["curve"] == [1 - 0.125 if task == "name" else 0.25]
    assert row["validation"]["mse"] == 0.25 and row["test"]["mse"] == 0.75
    assert set(asked_of) == {"validation", "test"}

    class Both(nn.Module):
        """Draws everything 0.5 too bright, and knows the class."""

        def latent(self, pixels, places):
            return pixels

        def values(self, z, places):
            return batch[0].gather(1, batch[3]) + 0.5

        def logits(self, z):
            return 100 * nn.functional.one_hot((batch[1] + 1) % 10, 10).float()

    (batch,) = found.some(1)
    terms = found.loss(Both(), batch)
    wanted = {"draw": 20 * 0.25, "name": 100.0, "both": 105.0}[task]
    assert torch.allclose(terms, torch.full_like(terms, wanted))


def test_the_baselines_of_a_digit_from_some_pixels(small):
    """As recorded; the mean image is the training part's, the nearest pixel one that was read."""
    script = small("perceiver_io")
    parts = script.data(torch.device("cpu"))
    found = script.baselines(parts)
    recorded = dict(records.read("perceiver_io").settings["baselines"])
    assert found == pytest.approx(recorded, abs=1.1e-5)
    # Nearly half of the pixels have several nearest ones that are equally near, by whole numbers.
    x = parts["test"][0]
    order = script.choose(len(x), torch.Generator().manual_seed(0))
    row, column = order // 8, order % 8
    apart = (row[:, script.READ :, None] - row[:, None, : script.READ]) ** 2
    apart += (column[:, script.READ :, None] - column[:, None, : script.READ]) ** 2
    pixels = x.gather(1, order)
    tied = (apart == apart.min(-1, keepdim=True).values).double()
    means = (tied * pixels[:, None, : script.READ]).sum(-1) / tied.sum(-1)
    error = (means - pixels[:, script.READ :]).square().mean().item()
    assert found["nearest pixel"] == pytest.approx(error, abs=1.1e-5)
    assert 0.4 < float((tied.sum(-1) > 1).float().mean()) < 0.5
    other = {**parts, "train": (parts["train"][0] + 1, parts["train"][1])}
    changed = script.baselines(other)
    assert changed["nearest pixel"] == found["nearest pixel"]
    assert changed["mean image"] > 0.9


# --- histories -----------------------------------------------------------------------------------


def test_histories_are_of_disjoint_users_and_of_the_past(small, monkeypatch):
    """What others rated changes nothing in training; a candidate's rating is in no history."""
    script = small("perceiver_history")
    data = script.data()
    users = {name: set(part["users"].tolist()) for name, part in data.items()}
    assert not users["train"] & users["validation"] and not users["test"] & users["train"]
    assert not users["test"] & users["validation"]
    counts = dict(records.read("perceiver_history").settings["histories and users"])
    for name, part in data.items():
        assert (len(part["users"]), len(users[name])) == tuple(counts[name])
        assert part["tokens"].shape[1:] == (64, 17) and part["candidates"].shape[1:] == (8, 16)
        assert torch.allclose(part["tokens"][..., -1].mean(1), torch.zeros(()), rtol=0, atol=1e-4)
        weights = (
            8
            * nn.functional.normalize(part["candidates"], dim=-1)
            @ nn.functional.normalize(part["tokens"][..., :-1], dim=-1).mT
        ).softmax(-1)
        torch.testing.assert_close(part["answers"], weights @ part["tokens"], rtol=1e-3, atol=1e-4)
    real = script.movielens()
    held_out = torch.tensor([u not in users["train"] for u in real.user.tolist()])
    shuffled = torch.randperm(671, generator=torch.Generator().manual_seed(0))[:450]
    held_out &= ~torch.isin(real.user, shuffled)
    changed = real._replace(rating=torch.where(held_out, 5.5 - real.rating, real.rating))
    monkeypatch.setattr(script, "movielens", lambda: changed)
    after = script.data.__wrapped__()
    for key in ("tokens", "candidates", "answers", "ratings", "liked"):
        torch.testing.assert_close(after["train"][key], data["train"][key])
    for key in ("candidates", "liked"):  # movies are known by the ratings of the training users
        torch.testing.assert_close(after["test"][key], data["test"][key])
    assert not torch.allclose(after["test"]["ratings"], data["test"]["ratings"])
    later = real.timestamp[None]
    assert later.shape[1] == len(real.user)


def test_a_history_comes_before_its_candidates(small, monkeypatch):
    """Ratings that tell their time: every candidate is later than its whole history."""
    script = small("perceiver_history")
    real = script.movielens()
    in_time = torch.argsort(real.timestamp, stable=True)
    rank = torch.empty_like(in_time)
    rank[in_time] = torch.arange(len(in_time))
    timed = real._replace(rating=rank.double())
    monkeypatch.setattr(script, "movielens", lambda: timed)
    for part in script.data.__wrapped__().values():
        history, asked = part["tokens"][..., -1], part["ratings"]  # both less the same level
        assert (history.diff(dim=1) > 0).all() and (asked.diff(dim=1) > 0).all()
        assert (asked[:, 0] > history[:, -1]).all()


@pytest.mark.parametrize("target", ["answers", "ratings"])
def test_histories_scores_are_of_their_parts(small, monkeypatch, target):
    script = small("perceiver_history")
    data = script.data()
    job = {**JOBS["perceiver_history"][0], "target": target}

    class Knows(nn.Module):
        def __init__(self, *names):
            super().__init__()
            self.weight, self.names = nn.Parameter(torch.zeros(1)), names

        def forward(self, batch):
            known = any(batch is data[name] for name in self.names)
            return batch["answers"] if known else 10 + batch["answers"]

        def rating(self, batch):
            known = any(batch is data[name] for name in self.names)
            return batch["ratings"] if known else 10 + batch["ratings"]

    found = caught(script, monkeypatch, job)
    for batch in found.some(3):
        assert len(batch["users"]) == script.BATCH
        assert set(batch["users"].tolist()) <= set(data["train"]["users"].tolist())
        wrong = found.loss(Knows(), batch)
        assert torch.allclose(wrong, torch.full_like(wrong, 100 if target == "ratings" else 1700))
    monkeypatch.setattr(script, "train", untrained)
    for part in ("validation", "test"):
        monkeypatch.setattr(script, "Reader", lambda *given, part=part: Knows(part))
        monkeypatch.setattr(script, "share", share_above(script.share))
        row = script.run(job)
        for other in ("validation", "test"):
            assert (row[other] == 1) == (other == part), (part, row)


def share_above(share):
    """The same, at least −0.9: a job keeps nothing that is worse than −1."""
    plain = getattr(share, "plain", share)

    def above(network, part, target):
        value, error = plain(network, part, target)
        return max(value, -0.9), error

    above.plain = plain
    return above


def test_the_step_is_chosen_by_validation(small, monkeypatch):
    """Of a job's evaluations the one that is best there, with its test score."""
    script = small("perceiver_history")
    values = iter([(0.1, 0), (0.9, 0.5), (0.3, 0), (0.2, 0.25), (0.2, 0)])
    asked = []

    def share(network, part, target):
        asked.append(part)
        return next(values)

    def twice(model, batches, loss, config, evaluate):
        for _ in range(3):
            evaluate(model)

    monkeypatch.setattr(script, "share", share)
    monkeypatch.setattr(script, "train", twice)
    row = script.run(JOBS["perceiver_history"][0])
    assert asked == ["validation", "test", "validation", "test", "validation"]
    assert (row["validation"], row["test"], row["error_by_users"]) == (0.3, 0.2, 0.25)
    values, asked = iter([(-1.5, 0)] * 3), []  # none that is good for anything
    row = script.run(JOBS["perceiver_history"][0])
    assert asked == ["validation"] * 3
    assert (row["validation"], row["test"], row["error_by_users"]) == (-1, -1, 0)


# --- tasks that are drawn -------------------------------------------------------------------------


class Answers(nn.Module):
    """The right answers of these sequences; of others, the token after each."""

    def __init__(self, *known: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.table = {
            row.numpy().tobytes(): answer
            for tokens, targets in known
            for row, answer in zip(tokens, targets, strict=True)
        }

    def forward(self, tokens: Tensor) -> Tensor:
        rows = []
        for row in tokens:
            known = self.table.get(row.numpy().tobytes())
            rows.append(known.clamp(min=0) if known is not None else torch.zeros_like(row))
        return 100 * nn.functional.one_hot(torch.stack(rows), 16).float()


def test_sequences_are_drawn_apart(small, monkeypatch):
    """Training, validation and test by other seeds; scores are of their parts."""
    script = small("selective_copying")
    job = JOBS["selective_copying"][0]
    drawn: dict[int, list] = {}
    real = script.selective_copying

    def spy(batch, *given, generator):
        found = real(batch, *given, generator=generator)
        drawn.setdefault(generator.initial_seed(), []).append(found)
        return found

    monkeypatch.setattr(script, "selective_copying", spy)
    found = caught(script, monkeypatch, job)
    training = found.some(3)
    validation, test = drawn[10**6][0], drawn[10**6 + 1][0]
    rows = [
        {row.numpy().tobytes() for tokens, _ in batches for row in tokens}
        for batches in (training, [validation], [test])
    ]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]
    assert found.loss(Answers(*training), training[0]).max() < 1e-6
    assert found.evaluate(Answers(validation)) == 1 and found.evaluate(Answers(test)) == 0
    monkeypatch.setattr(script, "train", untrained)
    monkeypatch.setattr(script, "width", lambda *given: 32)
    for part in (validation, test):
        monkeypatch.setattr(script, "network", lambda *given, part=part: Answers(part))
        row = script.run(job)
        assert (row["validation_loss"] < 1e-3) == (part is validation)
        assert (row["tokens"], row["sequences"]) == ((0, 0) if part is validation else (1, 1))
    tokens, targets = test
    half = targets.clone()
    half[:, -1] = (half[:, -1] + 1) % 6  # of eight answers, the last is wrong
    monkeypatch.setattr(script, "network", lambda *given: Answers((tokens, half)))
    row = script.run(job)
    assert (row["tokens"], row["sequences"]) == (0.875, 0)


def test_the_look_into_a_layer_is_at_the_test_sequences(small):
    script = small("selective_steps")
    found = script.run(JOBS["selective_steps"][0])
    assert found["longer"]["64"] == found["right"] and set(found["changed"]) == set(script.CHANGES)
    recorded = dict(next(iter(records.read("selective_steps"))))
    assert list(found["longer"]) == list(recorded["longer"])
    again = script.run({**JOBS["selective_steps"][0], "seed": 0})
    tokens = torch.tensor(again["tokens"])
    generator = torch.Generator().manual_seed(10**6 + 1)
    wanted, _ = script.selective_copying(16, 64, 8, 16, generator=generator)
    assert torch.equal(tokens, wanted[:3])


# --- ratings -------------------------------------------------------------------------------------


@pytest.fixture
def ratings(small):
    """A small part of MovieLens, and what a change of its labels changes."""
    script = small("movielens")
    script.exact.cache_clear()
    yield script
    script.exact.cache_clear()


def test_ratings_are_split_once(ratings):
    for protocol in ratings.PROTOCOLS:
        d = ratings.data(protocol, torch.device("cpu"), True)
        parts = [set(rows.tolist()) for rows in d.split]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        places = [set(at.tolist()) for at in d.groups.values()]
        assert places[0] == set(range(len(d.split.test)))
        assert set.union(*places[1:]) <= places[0]
        known = [set(d.user[d.split.train].tolist()), set(d.movie[d.split.train].tolist())]
        for place in d.groups["warm"].tolist()[:50]:
            row = int(d.split.test[place])
            assert int(d.user[row]) in known[0] and int(d.movie[row]) in known[1]
        for place in d.groups["cold-user"].tolist()[:50]:
            assert int(d.user[int(d.split.test[place])]) not in known[0]
        for place in d.groups["cold-movie"].tolist()[:50]:
            row = int(d.split.test[place])
            assert int(d.user[row]) in known[0] and int(d.movie[row]) not in known[1]


def test_fields_are_learned_from_the_training_rows(ratings, monkeypatch):
    given_ = []
    real = ratings.movielens_fields

    def fields(data, rows):
        given_.append(rows)
        return real(data, rows)

    monkeypatch.setattr(ratings, "movielens_fields", fields)
    for protocol in ratings.PROTOCOLS:
        d = ratings.data.__wrapped__(protocol, torch.device("cpu"), True)
        assert torch.equal(given_.pop(), d.split.train)


def test_a_final_run_is_scored_on_the_test_rows(ratings, monkeypatch):
    """Who knows the labels of one part; and who says what logistic regression says."""
    d = ratings.data("user", torch.device("cpu"), True)
    job = JOBS["movielens"][1]
    exact = ratings.exact("user", job["strength"], True)

    class Says(nn.Module):
        network = linear = None

        def __init__(self, logits):
            super().__init__()
            self.weight, self.all = nn.Parameter(torch.zeros(1)), logits

        def logits(self, fields, rows):
            return self.all[rows]

    def fit(model, fields, label, split, config, batch):
        assert torch.equal(split.validation, d.split.validation)
        assert (config.lr, config.steps) == (job["lr"], 2) and config.seed in job["seeds"]
        return untrained(model, None, None, config, lambda model: 0.5)

    monkeypatch.setattr(ratings, "fit", fit)
    line = 0.0, 1.0  # there is none through labels that are all known
    monkeypatch.setattr(ratings, "calibration", lambda *given: line)
    right = 20 * d.label.double() - 10
    for rows, auc in ((d.split.test, 1.0), (d.split.validation, 0.0)):
        logits = -right.clone()
        logits[rows] = right[rows]
        monkeypatch.setattr(ratings, "ranker", lambda *given, logits=logits: Says(logits))
        found = ratings.run(job)
        assert found["test"]["all"]["auc"] == [auc, auc]
        assert found["best_step"] == [1, 1] and found["validation"] == [0.5, 0.5]
    monkeypatch.setattr(ratings, "ranker", lambda *given: Says(exact))
    found = ratings.run(job)["to_logistic_regression"]
    for change in found.values():
        assert change == {"mean": 0.0, "error": 0.0, "interval": [0.0, 0.0]}


def test_baselines_read_no_label_of_the_test(ratings, monkeypatch):
    """Other test labels change no choice and no validation loss; other validation labels change
    no rate of a user or a movie."""
    job = {"stage": "baseline", "protocol": "user", "quick": True}
    real = ratings.data
    d = real("user", torch.device("cpu"), True)
    # The evidence looks at all pairs of movies: those that no row of a part is of count as one.
    asked_for = torch.isin(d.movie, d.movie[torch.cat(d.split)])
    d = d._replace(movie=torch.where(asked_for, d.movie, -1).unique(return_inverse=True)[1])

    def found(rows=None):
        label = d.label.clone()
        if rows is not None:
            label[rows] = ~label[rows]
        monkeypatch.setattr(ratings, "data", lambda *given: d._replace(label=label))
        ratings.exact.cache_clear()
        return ratings.run(job)

    plain, test, validation = found(), found(d.split.test), found(d.split.validation)
    for key in ("strength", "shrink", "weight"):
        assert plain[key] == test[key]
    for name, row in plain["baselines"].items():
        assert row["validation"] == test["baselines"][name]["validation"]
        auc = row["test"]["all"]["auc"][0]
        assert test["baselines"][name]["test"]["all"]["auc"][0] == pytest.approx(1 - auc, abs=2e-5)
        assert validation["baselines"][name]["test"] == row["test"]
        assert validation["baselines"][name]["validation"] != row["validation"]
