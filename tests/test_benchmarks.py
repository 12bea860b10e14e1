"""What the benchmarks share: every script starts, and its record is read as it was written."""

import argparse
import json
import math
import re
import sys

import pytest
import torch

from book import ROOT, load
from linear_time import checks, records
from linear_time.attention import CausalSelfAttention
from linear_time.cache import KVCache
from linear_time.measure import Measured

FOLDER = ROOT / "benchmarks"
SHARED = {"all", "bench", "on_gpu"}  # the one command, and what the scripts have in common
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.stem not in SHARED)


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


def test_the_run_on_two_gpus_is_whole(bench):
    """Each job has one row, and none is of another script; the other hosts' times stand beside."""
    script = load(FOLDER / "distributed_gpu.py")
    record = records.read("distributed_gpu")
    jobs = [{**job, "ranks": ranks} for ranks, todo in script.jobs().items() for job in todo]
    for job in jobs:
        assert sum(job.items() <= row.items() for row in record) == 1, job
    assert len(record) == len(jobs) == 50
    assert json.dumps(record.settings["earlier"]) == json.dumps(script.EARLIER)


def test_the_links_inside_a_host_are_the_slower_ones_of_chapter_23s_plan():
    """Seven eighths of what a sharded step sends go through them, however many hosts there are."""
    (gather,) = records.read("distributed_gpu").where(part="piece", of="gather")
    inside = 7 / 8 / (gather["GBps"] * 1e9)  # seconds a byte
    for gpus in (8, 64, 512, 4096):
        entering = 1 / 8 * (gpus - 8) / gpus  # by a GPU's own link
        held = 1 / gpus
        assert math.isclose(entering + held + 7 / 8, 1)
        between = 8 * entering / 400e9
        assert between < inside
        assert (between > 7 / 8 / 450e9) == (gpus > 8)  # the maker's speed
    tokens = 8 * inside * 0.34 * 989e12 / 6
    assert 2100 < tokens < 2250 and 0.9 < 2**20 / 512 / tokens < 0.97
    assert 2**20 / 4096 / tokens < 0.15


def test_a_run_on_two_gpus_takes_the_place_of_the_one_before(bench, tmp_path):
    script = load(FOLDER / "distributed_gpu.py")
    options = argparse.Namespace(out=tmp_path, cpu=True, repeats=1)
    for ms in (1, 2):
        script.write(options, [{"part": "scan", "ms": [ms] * 3}])
    found = records.read("distributed_gpu", tmp_path)
    assert [list(ms) for ms in found.values("ms")] == [[2] * 3]
    assert found.settings.keys() == records.read("distributed_gpu").settings.keys()


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


# --- the one command -----------------------------------------------------------------------------


def test_the_one_command_runs_every_script():
    command = load(FOLDER / "all.py")
    assert {*command.ON_CPU, *command.ON_GPU} == {path.stem for path in SCRIPTS}


def test_the_table_of_the_readme_is_the_records():
    command = load(FOLDER / "all.py")
    text = (ROOT / "README.md").read_text(encoding="utf8")
    _, rest = text.split(command.BEGIN)
    shown, _ = rest.split(command.END)
    assert shown.strip() == command.table().strip()


def test_a_row_of_the_table_is_its_two_times():
    """Ours over the fastest peer's, of all peers; why, where ours is slower."""
    command = load(FOLDER / "all.py")
    record = records.read("peers")
    for (topic, kind, sizes), rows in record.by("topic", "kind", "sizes").items():
        times = dict(zip(rows.values("method"), rows.values("median_ms"), strict=True))
        ours = times.pop("linear_time")
        ratio = min(times.values()) / ours
        (line,) = command.peer_lines(rows)
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:2] == [f"{topic}, {kind}", sizes]
        assert float(cells[2]) == pytest.approx(ours, rel=6e-3)
        assert any(name in cells[3] for name in times)
        assert float(cells[4].split(" ")[0]) == pytest.approx(ratio, rel=6e-3)
        assert (rows[0]["times_as_fast"] < 1) == ("why" in rows[0])
        assert rows[0]["times_as_fast"] == pytest.approx(ratio, abs=6e-3)


def test_a_head_of_the_table_says_how_its_blocks_were_timed():
    """Graphs beside attention; call by call where a loop over tokens is the peer."""
    command = load(FOLDER / "all.py")
    blocks = records.read("block_gpu").where(scope="block", batch=1)
    seen = 0
    for section in command.table().split("\n\n**")[1:]:
        head, *lines = section.splitlines()
        for text in lines:
            cells = [cell.strip() for cell in text.strip("|").split("|")]
            if not cells[0].startswith("two Mamba blocks, "):
                continue
            seen += 1
            kind = cells[0].removeprefix("two Mamba blocks, ")
            length, width = map(int, re.findall(r"\d+", cells[1]))
            rows = blocks.where(kind=kind, length=length, d_model=width)
            name = re.search(r"\((.*)\)", cells[3])[1]
            alone = name == "transformers, without its kernels"
            assert ("call by call" in head) == alone == ("as CUDA graphs" not in head)
            time = "ms" if alone else "graph_ms"
            (peer,) = rows.where(model="transformers" if alone else name)
            (ours,) = rows.where(model="Mamba")
            for row, cell in ((ours, cells[2]), (peer, cells[3].split(" ")[0])):
                assert float(cell) == pytest.approx(row[time][1], rel=6e-3)
    assert seen >= 14


def test_every_topic_has_a_peer_and_says_why_it_is_slower(bench):
    peers = load(FOLDER / "peers.py")
    rows = records.read("peers")
    for _, case in rows.by("topic", "kind").items():
        assert case[0]["method"] == "linear_time" and len(case) > 1
    assert {row["why"] for row in rows if "why" in row} <= set(peers.WHY.values())


def test_peers_that_give_something_else_are_refused(bench):
    peers = load(FOLDER / "peers.py")
    one, other = torch.ones(3), torch.ones(3) + 1e-3
    with pytest.raises(AssertionError, match="other"):
        peers.same({"linear_time": lambda: one, "other": lambda: other})
    with pytest.raises(AssertionError, match="other"):
        peers.same({"linear_time": lambda: one.long(), "other": lambda: other.long() + 1})
    calls = {"linear_time": lambda: one, "other": lambda: one + 1e-6}
    assert peers.same(calls) is calls


def test_a_crossing_is_between_two_lengths(bench):
    """Where attention stops being faster, of the faster of its two kernels."""
    command = load(FOLDER / "all.py")

    def record(times):
        rows = [{"length": 2**i, "graph_ms": [0, t, 0]} for i, t in enumerate(times)]
        return records.Record("some", "", (), {}, tuple(rows))

    mamba, slow, fast = record([4, 4, 4]), record([2, 8, 32]), record([1, 2, 8])
    assert command.crossing(mamba, [slow, fast]).endswith("from 0 on Mamba is faster")
    assert command.crossing(mamba, [fast, fast]) == command.crossing(mamba, [slow, fast])
    assert command.crossing(record([9, 9, 9]), [fast]) == "at all lengths up to 4"
