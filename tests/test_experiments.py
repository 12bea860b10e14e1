"""What the experiments share: a record that is resumed, and a sweep that goes on beyond its end."""

import contextlib
import json

import pytest
import torch
from torch import nn

from book import ROOT, experiment
from linear_time import records
from linear_time.datasets import digits


@pytest.fixture
def runs(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "experiments")  # for the workers, too
    return experiment("runs")


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


def test_every_tenth_run_and_the_last_are_told(runs, tmp_path, capsys):
    options = runs.parser("", [0]).parse_args(["--out", str(tmp_path)])
    runs.Runner("some", dict, {}, options)([{"seed": seed} for seed in range(12)], 1)
    told = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert told == ["12", "10/12", "12/12"]


def test_as_many_processes_as_are_asked_for(runs, tmp_path, monkeypatch):
    """The command's number; or, of jobs that are timed, the caller's."""
    asked = []

    class Pool:
        """In this process; and a context that makes it."""

        def Pool(self, workers):
            asked.append(workers)
            return contextlib.nullcontext(self)

        def imap_unordered(self, work, tasks):
            return map(work, tasks)

        def close(self):
            pass

        join = close

    monkeypatch.setattr(runs.multiprocessing, "get_context", lambda kind: Pool())
    given = ["--out", str(tmp_path), "--workers", "5"]
    run_all = runs.Runner("some", dict, {}, runs.parser("", [0]).parse_args(given))
    run_all([{"seed": 0}])
    run_all([{"seed": 1}], 2)
    assert asked == [5, 2]


def test_another_machine_stays_beside_the_first(runs, tmp_path, monkeypatch):
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
