"""What the benchmarks share: every script starts, and its record is read as it was written."""

import sys

import pytest
import torch

from book import ROOT, load
from linear_time import checks, records
from linear_time.attention import CausalSelfAttention
from linear_time.cache import KVCache
from linear_time.measure import Measured

SCRIPTS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "bench")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield load(ROOT / "benchmarks" / "bench.py")
    checks(values=True)  # which a benchmark switches off


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_starts(bench, path, monkeypatch, capsys):
    """It is imported and tells of its options; each has a record of its name."""
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as end:
        load(path).main()
    assert end.value.code == 0 and "--out" in capsys.readouterr().out
    assert records.read(path.stem).command.startswith(f"python benchmarks/{path.name}")


def test_a_record_is_read_as_it_was_written(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/some.py", "--threads", "3"])
    monkeypatch.setattr(bench.torch, "set_num_threads", lambda n: None)
    options = bench.start(bench.parser("", repeats=4))
    assert (options.repeats, options.threads) == (4, 3)
    assert options.out == ROOT / "src" / "linear_time" / "recorded"
    options.out = tmp_path
    row = {"model": "GRU", **bench.milliseconds(Measured(2e-3, 1e-3, 4.5678e-3, None), 2)}
    bench.write("some", options, {"repeats": 4}, [row], ["numpy"])
    found = records.read("some", tmp_path)
    assert found.command == "python benchmarks/some.py --threads 3" and found.settings == {
        "repeats": 4
    }
    assert found[0] == {"model": "GRU", "median_ms": 2.0, "fastest_ms": 1.0, "slowest_ms": 4.57}
    (machine,) = found.machines
    assert machine["device"].endswith(", 3 threads") and "numpy" in machine


def test_a_generated_token_goes_on_from_the_one_before(bench):
    """From one state again and again the cache would be copied, which is not what a token costs."""
    cost = load(ROOT / "benchmarks" / "cost.py")
    mixer = CausalSelfAttention(64, n_heads=1)
    x_t = torch.randn(1, 64)
    first = KVCache(*torch.randn(2, 1, 1, 300, 64))
    states = []

    class Seen:
        def step(self, x_t, state):
            states.append(state)
            return mixer.step(x_t, state)

    with torch.no_grad():
        call = cost.generating(Seen(), x_t, first)
        for _ in range(4):
            call()
    assert states[0] is first and [s.k.shape[2] for s in states] == [300, 301, 302, 303]
    assert len({s.k.untyped_storage().data_ptr() for s in states[1:]}) == 1  # one buffer, no copy
