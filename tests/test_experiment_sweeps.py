"""The commands of ``experiments/``: what a sweep goes on to, what an argument leaves, what is said.

No job is run here: in the runner's place stands one that knows the best learning rate of every
setting, and gives a job the better results the nearer it is to that.
"""

import contextlib
import itertools
import json
import math
import re
import statistics
import zlib
from collections import defaultdict

import pytest
import torch

from book import experiment
from linear_time import checks, records
from linear_time.records import Record
from linear_time.tasks import selective_copying

pytestmark = pytest.mark.usefixtures("no_gpu")

SEEDS = (0, 1, 2)
#: What a job is, beside its rate and seed.
SETTING = ("table", "task", "width", "length", "n_pairs", "n_tokens", "model", "size")
#: Of the best rates: beyond a list's lower end, within it, beyond its upper end.
BEST = (1e-6, 5e-3, 9.0)


def setting(job: dict) -> tuple:
    return tuple((key, job[key]) for key in SETTING if key in job)


def best_of(job: dict, turn: int) -> float:
    """Of each setting its own, another in every turn."""
    return BEST[(zlib.crc32(repr(setting(job)).encode()) + turn) % 3]


def result(job: dict, turn: int) -> dict:
    """What this job would come to: no two of a setting alike, and the test tells nothing."""
    if "lr" not in job:
        return {}
    off = abs(math.log10(job["lr"] / best_of(job, turn))) + 0.001 * job["seed"]
    loss, drawn = round(off, 5), zlib.crc32(repr([turn, *sorted(job.items())]).encode())
    share = drawn % 9000 / 10_000  # who chose by it would choose otherwise
    found = {"validation": loss, "validation_loss": loss, "test": share}
    found |= {"tokens": share, "sequences": round(share / 2, 4), "state": 77}
    return found | {"parameters": 1000 + zlib.crc32(repr(setting(job)).encode()) % 1000,
                    "updates": job["steps"] - job["seed"]}  # fmt: skip


@pytest.fixture
def command(monkeypatch, tmp_path):
    """A script's command: the jobs that it asks for; there is time for those that ``fits`` says."""

    def of(name: str, *arguments: str, turn: int = 0, fits=lambda job: True) -> list[dict]:
        script = experiment(name)

        class Knows:
            def __init__(self, name, run, settings, options):
                self.name, self.rows = name, {}

            def before(self):
                rows = tuple(self.rows.values())
                return Record(self.name, "", (), {}, rows) if rows else None

            def __call__(self, jobs, workers=None):
                done = []
                for job in jobs:
                    if fits(job):
                        row = {**job, **result(job, turn)}
                        self.rows[json.dumps(job, sort_keys=True)] = row
                        done.append(row)
                    asked.append(dict(job))
                return Record(self.name, "", (), {}, tuple(done))

            def together(self, jobs, key):
                [hash(key(job)) for job in jobs]
                return self(jobs)

        asked: list[dict] = []
        monkeypatch.setattr(script.runs, "Runner", Knows)
        monkeypatch.setattr("sys.argv", [f"{name}.py", "--out", str(tmp_path), *arguments])
        script.main()
        return asked

    yield of
    checks(values=True)


def by_setting(jobs: list[dict]) -> dict[tuple, set]:
    """(rate, seed) of each."""
    found = defaultdict(set)
    for job in jobs:
        if "lr" in job:
            found[setting(job)].add((job["lr"], job["seed"]))
    return dict(found)


def swept(rates, more, best: float, one_by_one: bool) -> set[float]:
    """Where the best is an end of what was tried, what lies beyond it: the nearest, or all."""
    tried = list(rates)
    while True:
        nearest = min(tried, key=lambda lr: abs(math.log(lr / best)))
        ends = (min(tried), max(tried))
        beyond = [lr for lr in more if (lr < ends[0] == nearest) or (lr > ends[1] == nearest)]
        if not beyond:
            return set(tried)
        if not one_by_one:
            return {*tried, *beyond}
        tried.append(min(beyond, key=lambda lr: abs(math.log(lr / nearest))))


def lists(name: str, job: dict) -> tuple:
    """The rates of a job's sweep, those beyond, and whether these come one by one."""
    script = experiment(name)
    if name == "recall":
        return script.RATES, script.MORE_RATES, True
    if name == "hybrids":
        own = script.tasks(job["size"])[job["task"]]
        return own.rates, own.more_rates, True
    size = script.SIZES[job["size"]]
    own = size[job["table"]] if name == "paper_tables" else size
    return own.rates, own.more_rates, False


SWEEPS = ("recall", "hybrids", "selective_copying", "language_models")


@pytest.mark.parametrize("turn", range(3))
@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_goes_on_where_its_end_is_best(command, name, turn):
    """And nowhere else; every rate with every seed."""
    more = ["--repeats", "0"] if name == "language_models" else []
    asked = [job for job in command(name, *more, turn=turn) if "lr" in job]
    found = by_setting(asked)
    kinds = set()
    for job in {setting(job): job for job in asked}.values():
        rates, further, one_by_one = lists(name, job)
        wanted = swept(rates, further, best_of(job, turn), one_by_one)
        assert found[setting(job)] == set(itertools.product(wanted, SEEDS)), job
        kinds.add(len(wanted) > len(rates))
    assert True in kinds


@pytest.mark.parametrize("turn", range(3))
def test_a_table_s_best_rate_is_run_with_all_seeds(command, turn):
    """Swept with few seeds: what is best then, within the list or beyond it, gets the others."""
    script = experiment("paper_tables")
    asked = command("paper_tables", turn=turn)
    found = by_setting(asked)
    assert {job["table"] for job in asked} == set(script.SIZES["full"])
    for job in {setting(job): job for job in asked}.values():
        table = script.SIZES["full"][job["table"]]
        best = best_of(job, turn)
        wanted = swept(table.rates, table.more_rates, best, False)
        chosen = min(wanted, key=lambda lr: abs(math.log(lr / best)))
        few = set(itertools.product(wanted, SEEDS[: table.sweep]))
        assert found[setting(job)] == few | {(chosen, seed) for seed in SEEDS}, job


def test_the_small_comparison_sweeps_with_one_seed(command):
    asked = command("selective_copying", "--size", "small")
    rates = experiment("selective_copying").SIZES["small"].rates
    for at, own in by_setting(asked).items():
        best = min(rates, key=lambda lr: abs(math.log(lr / best_of(dict(at), 0))))
        assert own == {(lr, 0) for lr in rates} | {(best, seed) for seed in SEEDS}


#: (script, arguments before, the argument, the key of a job, values): it leaves those alone.
LEAVES = [
    ("recall", (), "--tasks", "task", ("once, 64", "twice, 32")),
    ("recall", (), "--models", "model", ("DeltaNet", "RWKV-7")),
    ("recall", (), "--batch", "batch", (5,)),
    ("recall", (), "--seeds", "seed", (4, 6)),
    ("hybrids", (), "--tasks", "task", ("recall",)),
    ("hybrids", (), "--models", "model", ("1 in 8", "all attention")),
    ("hybrids", (), "--batch", "batch", (5,)),
    ("hybrids", (), "--rates", "lr", (0.123, 0.321)),
    ("paper_tables", (), "--tables", "table", ("recall", "copying")),
    ("paper_tables", (), "--models", "model", ("S4D", "Mamba")),
    ("paper_tables", (), "--rates", "lr", (0.123, 0.321)),
    ("paper_tables", (), "--batch", "batch", (5,)),
    ("paper_tables", ("--tables", "recall"), "--widths", "width", (128, 512)),
    ("paper_tables", ("--tables", "copying", "recall"), "--lengths", "length", (128, 4096)),
    ("paper_tables", ("--tables", "recall", "--widths", "64"), "--lengths", "length", (64, 256)),
    ("paper_tables", ("--tables", "recall", "--lengths", "64"), "--widths", "width", (64, 256)),
    ("language_models", ("--repeats", "0"), "--only", "model", ("gru", "s4d")),
    ("language_models", ("--repeats", "0", "--after"), "--only", "model", ("mamba-2",)),
    ("sequential_digits", (), "--seeds", "fold", (1, 3)),
]


@pytest.mark.parametrize(("name", "before", "argument", "key", "values"), LEAVES)
def test_an_argument_leaves_what_it_says(command, name, before, argument, key, values):
    """Of the jobs of the plain command those with these values; or all of them, changed."""
    left = [j for j in command(name, *before, argument, *map(str, values)) if "lr" in j]
    plain = [job for job in command(name, *before) if "lr" in job]
    assert {job[key] for job in left} == set(values)
    rest = {"lr"} if argument == "--rates" else {key}  # what the argument itself changes
    if argument == "--seeds":
        rest = {"seed", "fold"}

    def others(jobs):
        return {json.dumps({k: v for k, v in j.items() if k not in rest}) for j in jobs}

    if argument in ("--batch", "--rates", "--seeds"):
        wanted = others(plain)
    else:
        wanted = others(job for job in plain if job[key] in values)
    assert others(left) == wanted


def test_further_rates_come_after_the_sweep(command):
    given = ("--repeats", "0", "--only", "gru", "--rates", "0.5", "0.25")
    asked = [job["lr"] for job in command("language_models", *given) if "lr" in job]
    sweep = [job["lr"] for job in command("language_models", *given[:4]) if "lr" in job]
    assert asked == [*sweep, *[0.5, 0.25] * 3]


@pytest.mark.parametrize("name", ["recall", "hybrids", "paper_tables"])
def test_what_has_no_time_is_left_and_the_others_are_asked(command, capsys, name):
    """A setting whose sweep is not whole gets no further rate, and says nothing of it."""
    plain = by_setting(command(name))
    short = {at for i, at in enumerate(plain) if i % 2}
    last = {at: max(lr for lr, _ in plain[at]) for at in short}

    def fits(job):
        at = setting(job)
        return at not in short or job["lr"] < min(last[at], max(lists(name, job)[0]))

    found = by_setting(command(name, fits=fits))
    assert found.keys() == plain.keys() and short
    for at, jobs in found.items():
        rates = set(lists(name, dict(at))[0])
        assert {lr for lr, _ in jobs} == (rates if at in short else {lr for lr, _ in plain[at]})
    capsys.readouterr()
    assert command(name, fits=lambda job: False)
    assert not capsys.readouterr().out


# --- what is said --------------------------------------------------------------------------------


def lines_of(text: str) -> dict[str, list[str]]:
    """Of each heading the lines below it."""
    blocks = [block.splitlines() for block in text.strip().split("\n\n")]
    return {head: rest for head, *rest in blocks}


@pytest.mark.parametrize("turn", range(3))
@pytest.mark.parametrize(
    ("name", "group", "keys"),
    [
        ("recall", ("task",), ("tokens", "sequences", "updates")),
        ("hybrids", ("task",), ("test", "updates")),
        ("paper_tables", ("table", "width", "length"), ("tokens", "sequences")),
        ("selective_copying", ("length",), ("sequences", "tokens")),
    ],
)
def test_a_table_says_what_the_chosen_runs_came_to(command, capsys, name, group, keys, turn):
    """A heading for each task, a line for each model: rate, size, values by seed, means."""
    asked = command(name, turn=turn)
    told = lines_of(capsys.readouterr().out)
    rows = [{**job, **result(job, turn)} for job in asked]
    tasks = {tuple(row[key] for key in group): None for row in rows}
    assert len(told) == len(tasks)
    for task in tasks:
        words = [str(task[0]), *([str(task[1:])] if task[1:] else [])]  # "copying", "(64, 1024)"
        (head,) = (h for h in told if all(word in h for word in words))
        own = [row for row in rows if tuple(row[key] for key in group) == task]
        assert len(told[head]) == len({row["model"] for row in own})
        for line in told[head]:
            model = max((r["model"] for r in own if line.startswith(r["model"])), key=len)
            of_model = {(r["lr"], r["seed"]): r for r in own if r["model"] == model}
            best = min(of_model, key=lambda at: of_model[at]["validation"])[0]
            picked = [of_model[best, seed] for seed in SEEDS]
            assert f"{picked[0]['parameters']} parameters" in line
            assert re.search(r"lr ([\d.e-]+\d)", line)[1] in (f"{best:.2g}", f"{best}")
            said, first = line.split(": ", 1)[1], keys[0]
            values = [row[first] for row in picked]
            digits = 4 if name == "hybrids" else 3
            assert said.startswith(f"{statistics.mean(values):.{digits}f} {values}"), (line, values)
            if "sequences" in keys:
                mean = statistics.mean(row[keys[1]] for row in picked)
                assert f"], {mean:.3f}" in said
            if "updates" in keys:
                assert f"updates {[row['updates'] for row in picked]}" in said
            if name == "recall":
                assert "state 77" in line
            if name == "paper_tables":
                assert "3 seeds" in line
            if "by rate" in said:
                table = {}
                for (lr, _), row in sorted(of_model.items()):
                    table.setdefault(lr, []).append(row["validation" if digits == 4 else keys[0]])
                if digits == 3:
                    table = {lr: round(statistics.mean(of), 3) for lr, of in table.items()}
                assert f"by rate {table}" in said


def test_ratings_are_told_as_they_were_recorded(capsys):
    """A line for each baseline and each run that was scored, in the record's order."""
    record = records.read("movielens")
    experiment("movielens").report(record)
    lines = capsys.readouterr().out.splitlines()
    rows = []
    for row in record:
        if row["stage"] == "baseline":
            rows += [(name, {**row, **own}) for name, own in row["baselines"].items()]
        elif row["stage"] != "sweep":
            rows.append((row["model"], row))
    assert len(lines) == len(rows) > 30
    for line, (name, row) in zip(lines, rows, strict=True):
        assert line.split()[:2] == [row["protocol"], row["stage"]]
        assert line[14:42].strip() == name
        test = row["test"]
        means = [test["all"]["auc"], test["users"]["auc"], test["users"]["ndcg"]]
        wanted = [f"{statistics.mean(values):.4f}" for values in means]
        change = row.get("to_logistic_regression")
        if change:
            for key in ("auc", "within_auc"):
                wanted += [f"{change[key]['mean']:+.4f}", "±", f"{change[key]['error']:.4f}"]
        cells = line[42:].split()
        assert cells[: len(wanted)] == wanted
        rest = " ".join(cells[len(wanted) :])
        keys = [k for k in ("width", "epochs", "dropout", "lr", "weight_decay") if k in row]
        assert all(f"{key} {row[key]}" in rest for key in keys)


def test_selected_steps_are_told_as_they_were_recorded(monkeypatch, capsys, tmp_path):
    script, record = experiment("selective_steps"), records.read("selective_steps")

    class Done:
        def __init__(self, *_):
            pass

        def __call__(self, jobs):
            return record

    monkeypatch.setattr(script.runs, "Runner", Done)
    monkeypatch.setattr("sys.argv", ["selective_steps.py", "--out", str(tmp_path)])
    script.main()
    lines = capsys.readouterr().out.splitlines()
    wanted = []
    for (length, model), rows in record.by("length", "model").items():
        wanted.append(f"{length} positions, {model}: right {rows.values('right')}")
        for name in script.CHANGES:
            mean = statistics.mean(row["changed"][name] for row in rows)
            wanted.append(f"    {name}: {mean:.3f}")
    assert lines == wanted


def test_a_trained_layer_is_looked_into_at_every_length(monkeypatch):
    """What is scored at a length is drawn at that length; the shares are of its sequences."""
    script = experiment("selective_steps")
    torch.manual_seed(0)
    model = script.network("S6", 8, script.SIZES["full"]).eval()
    asked = []

    def test_of(length):
        asked.append(length)
        generator = torch.Generator().manual_seed(length)
        return selective_copying(4, length, 3, 16, generator=generator)

    shares = {20: 0.75, 64: 0.5, 128: 0.25, 256: 0.125, 512: 0.0625}
    monkeypatch.setattr(script, "accuracy", lambda model, test: (0.0, shares[test[0].shape[1] - 3]))
    with contextlib.suppress(AttributeError), torch.no_grad():
        found = script.look_into(model, {"model": "S6", "length": 20, "seed": 1}, test_of)
    assert asked == [20, 64, 128, 256, 512]
    assert found["right"] == 0.75
    assert found["longer"] == {str(n): share for n, share in shares.items() if n > 20}
    assert "tokens" not in found and len(found["blocks"]) == 2
    assert found["changed"].keys() == script.CHANGES.keys()
