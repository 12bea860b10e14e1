"""What the experiments share: a record that is resumed, and a sweep that goes on beyond its end."""

import contextlib
import itertools
import json
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from book import ROOT, experiment
from linear_time import checks, records
from linear_time.datasets import digits


@pytest.fixture
def runs(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "experiments")  # for the workers, too
    return experiment("runs")


@pytest.fixture
def here(runs, monkeypatch):
    """Jobs run in this process; how many were asked for."""
    asked = []

    class Pool:
        """And a context that makes it."""

        def Pool(self, workers):
            asked.append(workers)
            return contextlib.nullcontext(self)

        def imap_unordered(self, work, tasks):
            return map(work, tasks)

        def close(self):
            pass

        join = close

    monkeypatch.setattr(runs.multiprocessing, "get_context", lambda kind: Pool())
    return asked


def test_a_stopped_record_is_resumed(runs, tmp_path):
    """Only what is missing is run; what was there before stays as it was, other jobs' too."""
    options = runs.parser("", [0], ["full", "small"]).parse_args(["--out", str(tmp_path)])
    run_all = runs.Runner("some", dict, {"batch": 8}, options)
    assert run_all.before() is None
    first = [{"lr": 0.1, "seed": seed} for seed in (0, 1)]
    assert run_all(first, 1).values("seed") == [0, 1]
    path = tmp_path / "some.json"
    record = json.loads(path.read_text(encoding="utf8"))
    assert record["settings"] == {"batch": 8, "seeds": [0]} and "torch" in record["machines"][0]
    for run in record["runs"]:
        run["found"] = "before"
    path.write_text(json.dumps(record), encoding="utf8")
    jobs = [{"lr": 0.1, "seed": seed} for seed in (2, 1)]
    options.seeds = [2, 1]
    results = runs.Runner("some", dict, {"batch": 8}, options)(jobs, 1)
    assert [(r["seed"], r.get("found")) for r in results] == [(2, None), (1, "before")]
    record = records.read("some", tmp_path)
    assert record.values("seed") == [0, 1, 2] and record.settings == {
        "batch": 8,
        "seeds": (0, 1, 2),
    }
    assert len(record.machines) == 1 and record.command.startswith("python experiments/")


def test_every_tenth_run_and_the_last_are_told(runs, here, tmp_path, capsys):
    options = runs.parser("", [0]).parse_args(["--out", str(tmp_path)])
    runs.Runner("some", dict, {}, options)([{"seed": seed} for seed in range(12)], 1)
    told = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert told == ["12", "10/12", "12/12"]


def test_as_many_processes_as_are_asked_for(runs, here, tmp_path):
    """The command's number; or, of jobs that are timed, the caller's."""
    given = ["--out", str(tmp_path), "--workers", "5"]
    run_all = runs.Runner("some", dict, {}, runs.parser("", [0]).parse_args(given))
    run_all([{"seed": 0}])
    run_all([{"seed": 1}], 2)
    assert here == [5, 2]


def test_another_machine_stays_beside_the_first(runs, here, tmp_path, monkeypatch):
    options = runs.parser("", [0]).parse_args(["--out", str(tmp_path)])
    run_all = runs.Runner("some", dict, {}, options)
    run_all([{"seed": 0}], 1)
    monkeypatch.setattr(records, "machine", lambda device: {"device": "another"})
    run_all([{"seed": 1}], 1)
    assert [m["device"] == "another" for m in run_all.before().machines] == [False, True]


def test_the_name_of_a_size(runs):
    for size, name in (("full", "some"), ("small", "some_small")):
        options = runs.parser("", [0], ["full", "small"]).parse_args(["--size", size])
        assert runs.Runner("some", dict, {}, options).name == name
        assert options.out == ROOT / "src" / "linear_time" / "recorded" and options.steps is None


def test_beyond(runs):
    rates, more = (0.1, 0.2, 0.3), (0.01, 0.05, 0.6)
    assert runs.beyond(0.1, rates, more) == [0.01, 0.05]
    assert runs.beyond(0.2, rates, more) == []
    assert runs.beyond(0.3, rates, more) == [0.6]
    assert runs.beyond(0.6, rates, more) == []


def test_config(runs):
    job = {"lr": 0.1, "seed": 3, "steps": 40}
    config = runs.config(job, 50, 20, weight_decay=0.5)
    assert (config.steps, config.lr, config.seed, config.warmup) == (40, 0.1, 3, 40)
    assert (config.eval_every, config.weight_decay, config.progress) == (2, 0.5, False)
    config = runs.config(job, 10, 100, steps=30)
    assert (config.steps, config.warmup, config.eval_every) == (30, 10, 1)


def test_a_cpu_needs_no_graph(runs):
    network = torch.nn.Embedding(4, 2)
    assert runs.graphed(network, torch.zeros(1, 3, dtype=torch.int64)) is network


def test_the_digits_are_split_once(runs):
    """Every row is in one part, with its class; the parts are as long as the records say."""
    parts = runs.digits_parts(torch.device("cpu"))
    rows = {name: len(classes) for name, (_, classes) in parts.items()}
    assert rows == dict(records.read("perceiver_digits").settings["rows"])
    images, classes = digits()
    pairs = {(x.numpy().tobytes(), int(y)) for x, y in zip(images, classes, strict=True)}
    found = [
        (x.numpy().tobytes(), int(y)) for part in parts.values() for x, y in zip(*part, strict=True)
    ]
    assert len(found) == len(images) and set(found) == pairs


def test_the_fused_gru_is_the_library_s(runs):
    torch.manual_seed(0)
    fused, x = runs.FusedGRU(5), torch.randn(2, 7, 5)
    torch.testing.assert_close(fused(x), super(runs.FusedGRU, fused).forward(x))
    torch_s = nn.GRU(5, 5, batch_first=True)
    for kind in ("weight", "bias"):
        getattr(torch_s, f"{kind}_ih_l0").data = getattr(fused.input, kind).data
        getattr(torch_s, f"{kind}_hh_l0").data = getattr(fused.recurrent, kind).data
    torch.testing.assert_close(fused(x), torch_s(x)[0], rtol=0, atol=0)


# --- the command line, the processes, what is told ------------------------------------------------


def test_a_command_line(runs):
    plain = runs.parser("What it is.", range(3)).parse_args([])
    assert vars(plain) == {"workers": 2, "seeds": [0, 1, 2], "out": runs.RECORDED}
    steps = runs.parser("", (4,), steps=7, workers=9).parse_args([])
    assert (steps.steps, steps.workers, steps.seeds) == (7, 9, [4])
    given = ["--seeds", "3", "5", "--workers", "1", "--size", "b", "--steps", "12", "--out", "x"]
    found = runs.parser("", (4,), ("full", "b")).parse_args(given)
    assert (found.seeds, found.workers, found.size, found.steps) == ([3, 5], 1, "b", 12)
    assert str(found.out) == "x"
    assert runs.parser("What it is.", ()).description == "What it is."


def test_what_one_machine_s_is_left_out_of_the_command(runs):
    given = ["--size", "small", "--out", "here", "--seeds", "1", "--seconds", "60", "--quick"]
    assert runs._told(given) == ["--size", "small", "--seeds", "1", "--quick"]
    assert given[2] == "--out"  # another list's


def test_processes_take_turns_over_gpus(runs, monkeypatch):
    chosen = []
    cuda = runs.torch.cuda
    for name, value in (
        ("is_available", lambda: True),
        ("device_count", lambda: 3),
        ("set_device", chosen.append),
        ("current_device", lambda: chosen[-1]),
    ):
        monkeypatch.setattr(cuda, name, value)
    for identity, wanted in (((), 0), ((4,), 1), ((6, 1), 0), ((2,), 2)):
        process = SimpleNamespace(_identity=identity)
        monkeypatch.setattr(runs.multiprocessing, "current_process", lambda p=process: p)
        assert runs.device() == torch.device("cuda", wanted)
    assert chosen == [0, 1, 0, 2]
    monkeypatch.setattr(cuda, "is_available", lambda: False)
    assert runs.device() == torch.device("cpu") and len(chosen) == 4


def test_a_job_looks_for_no_wrong_values(runs):
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            runs.without_checks()
            warnings.warn("RNN module weights are not part of one chunk", stacklevel=1)
            assert not caught
            warnings.warn("another", stacklevel=1)
        assert not checks._on and len(caught) == 1
    finally:
        checks(values=True)


def test_on_a_gpu_a_network_is_a_graph(runs, monkeypatch):
    """In training, of tokens as they come; graphs that are gone are collected before."""
    told = []

    def make(network, given, allow_unused_input):
        told.append((network.training, given, allow_unused_input))
        return network

    monkeypatch.setattr(runs.torch.cuda, "make_graphed_callables", make)
    monkeypatch.setattr(runs.gc, "collect", lambda: told.append("collected"))
    network = torch.nn.Embedding(4, 2).eval()
    tokens = SimpleNamespace(device=SimpleNamespace(type="cuda"))
    assert runs.graphed(network, tokens) is network
    assert told == ["collected", (True, (tokens,), True)]


def test_a_job_s_row(runs, monkeypatch):
    """The job, what it gave, and its seconds, to a tenth; by one thread."""
    clock, threads = iter([10.0, 12.3456]), []
    monkeypatch.setattr(runs.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(runs.torch, "set_num_threads", threads.append)
    row = runs._work((lambda job: {"found": job["lr"] + 1, "seed": 7}, {"lr": 1, "seed": 3}))
    assert row == {"lr": 1, "seed": 7, "found": 2, "seconds": 2.3} and threads == [1]


def test_jobs_together(runs, tmp_path, monkeypatch, capsys):
    """By equal keys, in the order of the first of each; who has no time gives no rows."""
    clock = itertools.count(0.0, 2.4)
    monkeypatch.setattr(runs.time, "perf_counter", lambda: next(clock))
    options = runs.parser("", [0]).parse_args(["--out", str(tmp_path)])
    asked = []

    def run(group):
        asked.append([job["n"] for job in group])
        return None if group[0]["n"] == 2 else [{"found": 10 * job["n"]} for job in group]

    run_all = runs.Runner("some", run, {}, options)
    jobs = [{"n": n} for n in (5, 2, 3, 4, 1)]
    found = run_all.together(jobs, lambda job: job["n"] % 2)
    assert asked == [[5, 3, 1], [2, 4]]
    assert [(row["n"], row["found"]) for row in found] == [(5, 50), (3, 30), (1, 10)]
    assert [dict(row) for row in run_all.before()] == [
        {"n": n, "found": 10 * n} for n in (1, 3, 5)
    ]  # sorted
    out = capsys.readouterr().out
    assert out == "5 runs, 0 done before\n1 3 runs True, 2 s\n0 2 runs False, 2 s\n"
    again = runs.Runner("some", run, {}, options).together(jobs, lambda job: job["n"])
    assert asked[2:] == [[2], [4]] and again.values("n") == [5, 3, 4, 1]
    assert capsys.readouterr().out.startswith("2 runs, 3 done before\n2 1 runs False, 2 s\n")

    def short(group):
        return [{"found": 0}]

    with pytest.raises(ValueError):
        runs.Runner("other", short, {}, options).together(jobs, lambda job: 0)


class InProcess:
    """In the place of processes: what is asked of them, done here."""

    def __init__(self):
        self.told = []

    def Pool(self, workers):
        self.told.append(workers)
        return contextlib.nullcontext(self)

    def imap_unordered(self, work, tasks):
        return map(work, reversed(tasks))

    def close(self):
        self.told.append("close")

    def join(self):
        self.told.append("join")


def test_jobs_in_processes(runs, tmp_path, monkeypatch, capsys):
    """Spawned; in whatever order they end, the rows come back in that of the jobs."""
    clock, pool, kinds = itertools.count(0.0, 1.6), InProcess(), []
    monkeypatch.setattr(runs.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(
        runs.multiprocessing, "get_context", lambda kind: kinds.append(kind) or pool
    )
    options = runs.parser("", [0]).parse_args(["--out", str(tmp_path)])
    run_all = runs.Runner("some", lambda job: {"found": -job["n"]}, {"of": 1}, options)
    jobs = [{"n": n} for n in (3, 1, 2)]
    found = run_all(jobs)
    assert [(row["n"], row["found"], row["seconds"]) for row in found] == [
        *((3, -3, 1.6), (1, -1, 1.6), (2, -2, 1.6)),
    ]
    assert run_all.before().values("n") == [1, 2, 3]
    assert kinds == ["spawn"] and pool.told == [2, "close", "join"]
    # Two looks at the clock of each run, after one at the beginning.
    assert capsys.readouterr().out == "3 runs, 0 done before\n3/3 runs, 11 s\n"
    assert run_all.before().settings == {"of": 1, "seeds": (0,)}


def test_a_record_tells_of_the_machine_and_the_command(runs, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        records, "machine", lambda device: asked.append(device) or {"device": device}
    )
    given = ["somewhere/script.py", "--seeds", "4", "--out", str(tmp_path), "--seconds", "9"]
    monkeypatch.setattr("sys.argv", given)
    options = runs.parser("", [0]).parse_args(["--out", str(tmp_path)])
    for there in (True, False, True):
        monkeypatch.setattr(runs.torch.cuda, "is_available", lambda there=there: there)
        run_all = runs.Runner("some", None, {}, options)
        record, missing = run_all._begun([{"n": 1}])
        run_all._with(record, [{"n": 2}])
    assert asked == ["cuda", "cpu", "cuda"] and missing == [{"n": 1}]
    record = run_all.before()
    assert record.command == "python experiments/script.py --seeds 4"
    assert [dict(m) for m in record.machines] == [{"device": "cuda"}, {"device": "cpu"}]


def test_a_count_is_of_parameters(runs):
    assert runs.count(nn.Linear(3, 4)) == 16
