"""Killed at any moment, nothing that was finished is lost or done again, and it is said.

Of the book's build ``test_build.py`` kills one whose second chapter waits; here moments are drawn.
"""

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import nbformat
import pytest
import torch
import yaml
from torch import nn

from book import ROOT, load
from linear_time.training import Config, seed_everything, train

Preloaded = load(ROOT / "book" / "forked.py").Preloaded

SCRIPT = '''
"""A small experiment: each job trains a linear map, and leaves a line when it is done."""
import itertools, os, time
import runs, torch
from torch import nn
from linear_time.training import Config, seed_everything, train

def run(job):
    seed_everything(job["seed"])
    model, x = nn.Linear(3, 1), torch.eye(3)
    config = Config(steps=5, lr=job["lr"], seed=job["seed"], progress=False)
    history = train(model, lambda g: itertools.repeat(x), lambda m, b: m(b).square()[:, 0], config)
    time.sleep(0.05)
    with open(os.environ["RAN"], "a", encoding="utf8") as ran:
        print(job["lr"], job["seed"], file=ran)
    return {"loss": history.loss.tolist()}

if __name__ == "__main__":
    options = runs.parser("", range(6), workers=1).parse_args()
    jobs = [{"lr": lr, "seed": seed} for seed in options.seeds for lr in (0.1, 0.2, 0.3)]
    if os.environ["HOW"] == "together":
        one = lambda jobs: [run(job) for job in jobs]
        runs.Runner("small", one, {"rows": 3}, options).together(jobs, lambda job: job["seed"])
    else:
        runs.Runner("small", run, {"rows": 3}, options)(jobs)
'''
JOBS = [(lr, seed) for seed in range(6) for lr in (0.1, 0.2, 0.3)]


def recorded(path: Path) -> set[tuple[float, int]]:
    """The jobs in the record, which is whole whenever it is looked at."""
    if not path.exists():
        return set()
    return {(r["lr"], r["seed"]) for r in json.loads(path.read_text(encoding="utf8"))["runs"]}


def ran(path: Path) -> list[tuple[float, int]]:
    if not path.exists():
        return []
    lines = [line.split() for line in path.read_text(encoding="utf8").splitlines()]
    return [(float(lr), int(seed)) for lr, seed in lines]


def group(pid: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, rest = stat.read_text(encoding="utf8").rpartition(")")
        except OSError:
            continue
        state, _, _, session = rest.split()[:4]
        if int(session) == pid and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


SEEN = os.pathsep.join([str(ROOT / "experiments"), str(ROOT / "src")])
ENVIRONMENT = {**os.environ, "PYTHONPATH": SEEN, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def python():
    """What is killed begins behind its imports, which take longer than all that it does.

    The last is an optimizer's, when it is made.
    """
    with Preloaded("runs", "linear_time.training", "torch._dynamo", env=ENVIRONMENT) as python:
        yield python


@pytest.mark.parametrize(("how", "kills"), [("together", 2), ("pool", 1)])
def test_a_killed_experiment_goes_on(tmp_path, python, how, kills):
    """Killed while it trains: the record is whole, what is in it is not run again, and the end is
    what one run gives."""
    script, log, out = tmp_path / "small.py", tmp_path / "ran", tmp_path / "out"
    script.write_text(SCRIPT, encoding="utf8")
    environment = {**ENVIRONMENT, "RAN": str(log), "HOW": how}
    command = [script, "--out", out]
    record, draw = out / "small.json", random.Random(how)
    before: set[tuple[float, int]] = set()
    counts: Counter[tuple[float, int]] = Counter()
    for kill in range(kills):
        process = python.start(*command, env=environment)
        wanted, deadline = len(before) + draw.randint(1, 4), time.monotonic() + 600
        while len(recorded(record)) < wanted and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.random() * 0.1)
        assert process.poll() is None, f"it ended before kill {kill}"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        while group(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not group(process.pid), "workers of a killed run go on"
        now = recorded(record)
        assert now >= before and len(now) >= wanted
        for job in before:
            assert ran(log).count(job) == counts[job], "a recorded job is run again"
        # A job that was done and not yet recorded is done again: its line is in the log twice.
        before, counts = now, Counter(ran(log))
    done = python.run(*command, env=environment)
    assert f"{len(JOBS) - len(before)} runs, {len(before)} done before" in done.stdout
    assert sorted(recorded(record)) == sorted(JOBS)
    assert len(json.loads(record.read_text(encoding="utf8"))["runs"]) == len(JOBS)
    for job in before:
        assert ran(log).count(job) == counts[job], "a recorded job is run again"
    again = python.run(*command, env=environment)
    assert done.returncode == again.returncode == 0
    assert f"0 runs, {len(JOBS)} done before" in again.stdout
    for row in json.loads(record.read_text(encoding="utf8"))["runs"]:
        seed_everything(row["seed"])
        model, x = nn.Linear(3, 1), torch.eye(3)
        config = Config(steps=5, lr=row["lr"], seed=row["seed"], progress=False)
        history = train(
            model, lambda g, x=x: itertools.repeat(x), lambda m, b: m(b).square()[:, 0], config
        )
        assert row["loss"] == history.loss.tolist()
    assert not list(out.glob("*.new"))


TRAINING = '''
"""One run that keeps a checkpoint; it says each step that it does."""
import sys, time, torch
from torch import nn
from linear_time.training import Config, seed_everything, train

class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 300), nn.Dropout(0.5), nn.Linear(300, 1))
    def forward(self, x):
        return self.layers(x)

def batches(generator):
    while True:
        yield torch.randn(8, 3, generator=generator)

steps = []

def loss(model, x):
    steps.append(time.sleep(float(sys.argv[3])))
    if float(sys.argv[3]) and len(steps) > 15:
        time.sleep(600)  # to be killed, however late who kills looks
    print("step", flush=True)
    return (model(x)[:, 0] - x[:, 0]).square()

def run(path):
    seed_everything(3)
    model = Noisy()
    config = Config(steps=60, lr=0.01, warmup=10, seed=3, progress=False)
    history = train(model, batches, loss, config, checkpoint=path, every=1)
    return {"loss": history.loss.tolist(), "weights": [p.tolist() for p in model.parameters()]}

if __name__ == "__main__":
    import json, pathlib
    found = run(None if sys.argv[1] == "-" else sys.argv[1])
    pathlib.Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf8")
'''


def test_a_training_run_killed_at_any_moment_goes_on(tmp_path, python):
    """Three kills, while it trains or writes: no step that was written is done again, what is on
    the disk is always whole, and the end is that of a run which nobody killed."""
    script, path = tmp_path / "training.py", tmp_path / "kept" / "run"
    script.write_text(TRAINING, encoding="utf8")
    draw = random.Random(1)

    def command(kept, out, pause=0.0):
        return [script, kept, tmp_path / out, pause]

    done = 0
    for kill in range(3):
        log = tmp_path / f"log{kill}"
        log.touch()
        process = python.start(*command(path, "out", 0.02), stdout=log)
        wanted, deadline = draw.randint(3, 12), time.monotonic() + 600
        while len(log.read_text(encoding="utf8").split()) < wanted and time.monotonic() < deadline:
            assert process.poll() is None, f"it ended before kill {kill}"
            time.sleep(0.002)
        time.sleep(0.03 * draw.random())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kept = torch.load(path, weights_only=True)
        now, steps = len(kept["history"][0]), len(log.read_text(encoding="utf8").split())
        assert steps - 2 <= now - done <= steps, "a step that was written is done again, or lost"
        done = now
    last = python.run(*command(path, "out"))
    assert last.returncode == 0, last.stderr
    assert len(last.stdout.split()) == 60 - done
    assert python.run(*command("-", "whole")).returncode == 0
    assert (tmp_path / "out").read_text(encoding="utf8") == (tmp_path / "whole").read_text(
        encoding="utf8"
    )


def test_a_record_half_written_is_not_read(tmp_path):
    """What a kill leaves beside the record is not taken for it."""
    from linear_time.records import Record, read

    record = Record("some", "python some.py", ({"device": "CPU"},), {}, ({"seed": 0},))
    record.write(tmp_path)
    (tmp_path / "some.json.new").write_text('{"command": "pyth', encoding="utf8")
    assert read("some", tmp_path).rows == record.rows
    record.write(tmp_path)
    assert not (tmp_path / "some.json.new").exists()


@pytest.mark.build
def test_a_build_killed_at_any_moment_goes_on(tmp_path):
    """Three chapters, three kills at drawn moments: what was said to be done stays done."""
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "book").mkdir()
    shutil.copy(ROOT / "book" / "build.py", tmp_path / "book")
    (tmp_path / "requirements.txt").write_text("", encoding="utf8")
    package = tmp_path / "src" / "linear_time"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("", encoding="utf8")
    (tmp_path / "chapters").mkdir()
    names = ["01-a", "02-b", "03-c"]
    for name in names:
        source = f"with open('../ran', 'a') as ran:\n    print('{name}', file=ran)"
        # No machine is through with all three before the first kill.
        last = nbformat.v4.new_code_cell("import time; time.sleep(0.7)")
        cells = [nbformat.v4.new_code_cell(source), last]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, tmp_path / "chapters" / f"{name}.ipynb")
    toc = {"root": "book/a", "chapters": [{"file": f"chapters/{name}"} for name in names]}
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf8")
    command = [sys.executable, str(tmp_path / "book" / "build.py"), "--execute-only"]
    finished: set[str] = set()
    log, draw = tmp_path / "log", random.Random(0)
    times: dict[str, int] = {}

    def starts() -> list[str]:
        path = tmp_path / "ran"
        return path.read_text(encoding="utf8").split() if path.exists() else []

    for kill in range(3):
        with log.open("w", encoding="utf8") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        deadline = time.monotonic() + 600
        begun = sum(times.values())

        def waits(kill=kill, begun=begun, process=process) -> bool:
            """For nothing; for a chapter to begin; for one to end."""
            assert process.poll() is None, f"it ended before kill {kill}"
            ended = " s\n" in log.read_text(encoding="utf8")
            return (kill == 1 and len(starts()) == begun) or (kill == 2 and not ended)

        while waits() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(draw.random())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        told = re.findall(r"\] (\S+): \d+ s", log.read_text(encoding="utf8"))
        while group(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not group(process.pid), "a kernel of a killed build goes on"
        for name in finished:
            assert starts().count(name) == times[name], f"{name} was done, and ran again"
        finished |= set(told)
        times = {name: starts().count(name) for name in names}
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Executing" in done.stdout or "are in the cache" in done.stdout
    for name in finished:
        assert starts().count(name) == times[name]
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Executed outputs of all 3 chapters are in the cache" in again.stdout
