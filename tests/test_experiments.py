"""What the experiments share: a record that is resumed, and a sweep that goes on beyond its end."""

import json

import pytest
import torch

from book import ROOT, experiment


@pytest.fixture(scope="module")
def runs():
    return experiment("runs")


def test_a_stopped_record_is_resumed(runs, tmp_path, monkeypatch):
    """Only what is missing is run; what was there before stays as it was, other jobs' too."""
    monkeypatch.syspath_prepend(ROOT / "experiments")  # for the workers, too
    first = [{"lr": 0.1, "seed": seed} for seed in (0, 1)]
    assert len(runs.run_all(dict, first, 1, "some", {"batch": 8}, str(tmp_path))) == 2
    path = tmp_path / "some.json"
    record = json.loads(path.read_text())
    assert record["settings"] == {"batch": 8} and "torch" in record["machines"][0]
    for run in record["runs"]:
        run["found"] = "before"
    path.write_text(json.dumps(record))
    jobs = [{"lr": 0.1, "seed": seed} for seed in (1, 2)]
    results = runs.run_all(dict, jobs, 1, "some", {"batch": 8}, str(tmp_path))
    assert [(r["seed"], r.get("found")) for r in results] == [(1, "before"), (2, None)]
    record = json.loads(path.read_text())
    assert sorted(r["seed"] for r in record["runs"]) == [0, 1, 2]
    assert len(record["machines"]) == 1


def test_beyond(runs):
    rates, more = (0.1, 0.2, 0.3), (0.01, 0.05, 0.6)
    assert runs.beyond(0.1, rates, more) == [0.01, 0.05]
    assert runs.beyond(0.2, rates, more) == []
    assert runs.beyond(0.3, rates, more) == [0.6]
    assert runs.beyond(0.6, rates, more) == []


def test_sized(runs):
    assert runs.sized("some", "full") == "some" and runs.sized("some", "small") == "some_small"


def test_a_cpu_needs_no_graph(runs):
    network = torch.nn.Embedding(4, 2)
    assert runs.graphed(network, torch.zeros(1, 3, dtype=torch.int64)) is network
