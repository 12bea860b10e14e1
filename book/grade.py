"""Grade what students hand in: python book/grade.py SUBMISSIONS

SUBMISSIONS holds a folder, or a notebook, for each student. Every notebook gets a process of its
own, without network, in an empty folder; of its cells only the imports and those below an exercise
are executed. The checks run *here*, with cases that are drawn from a secret seed: an answer is a
function in the other process that is called with arguments, and what it returns is data that is
compared in this one. What a submission prints, binds or replaces in its own process has no say.

What this does not withstand: an answer copied from someone, or from the package's own functions; a
forbidden method used by a submission that also takes the counters off in its own process (they run
beside the answer; the values do not); a submission that attacks the machine, by `ctypes` for
instance (run the grader in a container where that is to be feared); and two submissions that share
what they learn of the seeds (the messages of grading have no values, so there is little).

Every verdict is written to SUBMISSIONS/grades/verdicts.jsonl as it is reached. Killed at any
moment, the grader goes on where it was when it is started again.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import csv
import fcntl
import functools
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import nbformat
import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.flop_counter import FlopCounterMode

import course
from answers import checked
from linear_time import exercises
from linear_time.exercises.cases import INSTRUMENTS
from wire import Ended, Late, Wire, unseen

ROOT = Path(__file__).resolve().parent.parent
TRAINS = 6  # times as long for an exercise that trains: twice a seed, on one thread
STARTING = 120  # seconds that the imports may take
ROUNDS = 2  # hidden seeds an exercise


# --- what a chapter asks, and what a notebook answers -----------------------------------------


class Asked(NamedTuple):
    """A chapter's exercises as the grader knows them, from the book's own notebook."""

    imports: list[str]
    expressions: dict[str, str]  # exercise -> the name of its answer
    float64: bool


@functools.cache
def asked(number: str) -> Asked:
    path = ROOT / "chapters" / f"{course.stems()[number]}.ipynb"
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    imports, expressions = [], {}
    for cell in cells:
        tags = cell.metadata.get("tags", [])
        if "imports" in tags:
            imports.append(cell.source)
        if "stub" in tags:
            expressions.update(named_answers(cell.source))
    return Asked(imports, expressions, "set_default_dtype(torch.float64)" in "".join(imports))


def named_answers(source: str) -> dict[str, str]:
    """Exercise -> the expression that is checked, for each `check("…", answer)` of a cell."""
    found = {}
    for node in ast.parse(source).body:
        name = checked(node)
        if name:
            call = node.value if isinstance(node, ast.Expr) else node.test
            found[name] = ast.unparse(call.args[1])
    return found


def answered(notebook: Any) -> dict[str, list[str]]:
    """Exercise -> the code cells below its statement, up to the next statement or heading.

    A cell that the handout marked belongs to its exercise wherever it stands.
    """
    found: dict[str, list[str]] = {}
    here = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            label = re.search(r"^:label: (\d\d-\w+)$", cell.source, re.MULTILINE)
            if label:
                here = label[1]
                found.setdefault(here, [])
            elif re.match(r"#+ ", cell.source):
                here = ""
            continue
        marked = cell.metadata.get("linear_time", {})
        name = marked.get("exercise", here) if isinstance(marked, dict) else here
        if cell.cell_type == "code" and name and cell.source.strip():
            found.setdefault(str(name), []).append(cell.source)
    return found


# --- the submission's process -----------------------------------------------------------------


@functools.cache
def without_network() -> tuple[str, ...]:
    """The command that starts a program in a network of its own, where the machine has one."""
    command = ("unshare", "--net", "--map-root-user")
    with contextlib.suppress(OSError):
        if subprocess.run([*command, "true"], capture_output=True).returncode == 0:
            return command
    return ()


class Process(Wire):
    """The grader's end: starts a submission's process, and calls its answers."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="answers-")
        theirs, mine = os.pipe(), os.pipe()
        program = [sys.executable, "-P", str(ROOT / "book" / "answers.py")]
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'book'}",
            "HOME": self.folder,
            "TMPDIR": self.folder,
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "agg",
        }
        self.process = subprocess.Popen(
            [*without_network(), *program, str(theirs[0]), str(mine[1])],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs[0], mine[1]),
            start_new_session=True,
        )
        os.close(theirs[0])
        os.close(mine[1])
        super().__init__(mine[0], theirs[1], trusting=False)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.reader)
        os.close(self.writer)
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, number: int, args: Any, kwargs: Any) -> Any:
        """Call an answer under the instruments that are on here, which must not see this."""
        trace, profile = sys.gettrace(), sys.getprofile()
        sys.settrace(None)
        sys.setprofile(None)
        modes = [*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack()]
        modes = [getattr(mode, "counter", mode) for mode in modes]  # torch's of FLOPs is inside
        grad = None if torch.is_inference_mode_enabled() else torch.is_grad_enabled()
        try:
            made = ["flops" if isinstance(m, FlopCounterMode) else Instrument(m) for m in modes]
            made += [where for where, _ in INSTRUMENTS]
            value, states = self.ask("watched", number, list(args), kwargs, grad, made)
            with unseen():
                copy_findings([*modes, *(state for _, state in INSTRUMENTS)], states)
        finally:
            sys.settrace(trace)
            sys.setprofile(profile)
        return value

    def packed(self, value: Any) -> Any:
        if isinstance(value, Instrument):
            return ["pickle", base64.b64encode(cloudpickle.dumps(value.mode)).decode()]
        return super().packed(value)


class Instrument(NamedTuple):
    """A mode of torch that is on, and is sent by value though it can be called."""

    mode: Any


def copy_findings(instruments: list, states: Any) -> None:
    """What the other process's instruments found, into the fields of this one's."""
    for here, there in zip(instruments, states if isinstance(states, list) else [], strict=False):
        if isinstance(here, FlopCounterMode):
            here.flop_counts["Global"]["answer"] += int(there["flops"])
        elif here is not None:
            for field, value in there.items():
                mine = getattr(here, field, None)
                if mine is not None and not callable(mine):
                    setattr(here, field, value)


# --- one notebook -----------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What became of one exercise of one submission."""

    student: str
    exercise: str
    says: str  # right, wrong, not attempted, not there, too long, ended
    points: int
    of: int
    message: str
    notebook: str  # a digest of what was graded


def seeds(secret: bytes, name: str) -> list[int]:
    """The hidden seeds of an exercise: the same for all students, unknown without the secret."""
    return [
        int.from_bytes(hmac.digest(secret, f"{name} {n}".encode(), "sha256")[:7])
        for n in range(ROUNDS)
    ]


class Notebook:
    """One submitted notebook of one chapter, graded exercise by exercise."""

    def __init__(self, number: str, cells: dict[str, list[str]], imports: list[str]) -> None:
        self.number, self.cells = number, cells
        known = asked(number).imports
        self.imports = [*known, *(own for own in imports if own not in known)]
        self.process: Process | None = None

    def started(self, seconds: float) -> Process:
        if self.process is None:
            self.process = Process()
            self.process.deadline = time.monotonic() + STARTING
            self.process.ask("begin", self.imports, self.cells, asked(self.number).expressions)
        self.process.deadline = time.monotonic() + seconds
        return self.process

    def stop(self) -> None:
        if self.process is not None:
            self.process.end()
        self.process = None

    def grade(self, name: str, secret: bytes, seconds: float) -> tuple[str, str]:
        """One exercise: what became of it, and the message to the student."""
        if name not in self.cells:
            return "not there", "The exercise is not in the notebook."
        torch.set_default_dtype(torch.float64 if asked(self.number).float64 else torch.float32)
        try:
            process = self.started(seconds)
            try:
                answer = process.ask("find", name)
            except NotImplementedError as error:
                if error.args:
                    raise
                return "not attempted", "Not attempted."
            for seed in seeds(secret, name):
                # The limit of the other process is the first to end; this one's is for what is
                # done here with what came, a sum of a million terms to be simplified for instance.
                result = exercises.check(name, answer, seed, False, True, 2 * seconds)
                if not result and time.monotonic() > process.deadline + seconds / 2:
                    raise Late
                if not result.attempted:
                    return "not attempted", "Not attempted."
                if not result:
                    text = result.message.partition(": ")[2]
                    return "wrong", text[:1].upper() + text[1:]
            return "right", "Right."
        except Late:
            self.stop()
            return "too long", f"Not finished after {seconds:g} seconds."
        except Ended:
            self.stop()
            return "ended", "The answer ended its process."
        except Exception as error:  # of a cell
            return "wrong", f"The cells below the exercise raised {type(error).__name__}."


# --- a course ---------------------------------------------------------------------------------


def submissions(folder: Path) -> Iterator[tuple[str, Path]]:
    """(student, notebook), in order."""
    for entry in sorted(folder.iterdir()):
        if entry.name == "grades" or entry.name.startswith("."):
            continue
        if entry.suffix == ".ipynb":
            yield entry.stem, entry
        elif entry.is_dir():
            for path in sorted(entry.rglob("*.ipynb")):
                if ".ipynb_checkpoints" not in path.parts:
                    yield entry.name, path


def read(path: Path) -> tuple[dict[str, list[str]], list[str], str]:
    """A notebook's answers, its own imports, and a digest; none where it cannot be read."""
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()[:16]
    try:
        notebook = nbformat.reads(data.decode(), 4)
        cells = answered(notebook)
        imports = [
            c.source
            for c in notebook.cells
            if c.cell_type == "code" and "imports" in c.metadata.get("tags", [])
        ]
    except Exception:
        return {}, [], digest
    return cells, imports, digest


class Records:
    """The verdicts, one a line, each on the disk before the next exercise is begun."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.path = folder, folder / "verdicts.jsonl"
        self.lock = (folder / ".lock").open("w", encoding="utf8")
        fcntl.flock(self.lock, fcntl.LOCK_EX)  # one grader at a time
        key = folder / ".secret"
        if not key.exists():
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as made:
                made.write(secrets.token_bytes(32))
            os.replace(made.name, key)
        self.secret = key.read_bytes()
        self.done: dict[tuple[str, str, str], Verdict] = {}
        lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):  # torn by a kill
                verdict = Verdict(**json.loads(line))
                self.done[verdict.student, verdict.exercise, verdict.notebook] = verdict
        self.file = self.path.open("ab")
        if lines and lines[-1]:
            self.file.write(b"\n")

    def add(self, verdict: Verdict) -> None:
        self.file.write(json.dumps(verdict._asdict()).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.done[verdict.student, verdict.exercise, verdict.notebook] = verdict


def grade(folder: Path, seconds: float) -> list[Verdict]:
    """Grade a folder of submissions, and write its table and reports."""
    records = Records(folder / "grades")
    if records.done:
        print(f"Going on: {len(records.done)} verdicts are there already", flush=True)
    verdicts: list[Verdict] = []
    handed_in = list(submissions(folder))
    chapters: set[str] = set()
    read_in = []
    for student, path in handed_in:
        cells, imports, digest = read(path)
        numbers = {name[:2] for name in cells} & course.stems().keys()
        chapters |= numbers
        read_in.append((student, path, cells, imports, digest, numbers))
    for student, path, cells, imports, digest, numbers in read_in:
        if not numbers:
            print(f"{student}: {path.name} holds no exercise that can be read", flush=True)
        for number in sorted(numbers):
            notebook = Notebook(number, cells, imports)
            for made in course.chapter(number).exercises.values():
                if made.name not in asked(number).expressions:
                    continue  # written: for a reader
                known = records.done.get((student, made.name, digest))
                if known is None:
                    allowed = seconds * (TRAINS if made.kind == "train" else 1)
                    says, message = notebook.grade(made.name, records.secret, allowed)
                    of = course.points(made)
                    got = of if says == "right" else 0
                    known = Verdict(student, made.name, says, got, of, message, digest)
                    records.add(known)
                verdicts.append(known)
            notebook.stop()
        mine = [v for v in verdicts if v.student == student]
        print(f"{student}: {sum(v.points for v in mine)} of {sum(v.of for v in mine)}", flush=True)
    write(folder / "grades", [student for student, *_ in handed_in], verdicts, sorted(chapters))
    return verdicts


def best(verdicts: list[Verdict]) -> dict[tuple[str, str], Verdict]:
    """Of several notebooks of a student's the best verdict on each exercise."""
    found: dict[tuple[str, str], Verdict] = {}
    for verdict in verdicts:
        key = verdict.student, verdict.exercise
        if key not in found or verdict.points > found[key].points:
            found[key] = verdict
    return found


def write(folder: Path, students: list[str], verdicts: list[Verdict], chapters: list[str]) -> None:
    """grades.csv, a row a student, and a report for each."""
    columns = [
        made
        for number in chapters
        for made in course.chapter(number).exercises.values()
        if made.name in asked(number).expressions
    ]
    whole = sum(map(course.points, columns))
    found = best(verdicts)
    table = folder / "grades.csv.part"
    with table.open("w", encoding="utf8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["student", "points", "of", *(made.name for made in columns)])
        for student in dict.fromkeys(students):
            got = [found.get((student, made.name)) for made in columns]
            mine = [verdict.points if verdict else 0 for verdict in got]
            rows.writerow([student, sum(mine), whole, *mine])
            report(folder, student, columns, got, sum(mine), whole)
    table.replace(folder / "grades.csv")


def report(folder: Path, student: str, columns: list, got: list, mine: int, whole: int) -> None:
    """What a student gets back."""
    lines = [f"# {student}: {mine} of {whole} points", ""]
    lines += ["| exercise | points | of | what became of it |", "|---|---|---|---|"]
    for made, verdict in zip(columns, got, strict=True):
        message = verdict.message if verdict else "Not handed in."
        safe = message.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
        earned = verdict.points if verdict else 0
        lines.append(f"| {made.name} · {made.title} | {earned} | {course.points(made)} | {safe} |")
    lines += ["", "The cases were not those of practice; the messages therefore have no numbers."]
    (folder / f"{student}.md").write_text("\n".join(lines) + "\n", encoding="utf8")


def main() -> int:
    """Grade a folder of submissions."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="a folder or a notebook for each student")
    parser.add_argument("--seconds", type=float, default=60, help="that an exercise may take")
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(f"{options.folder}: expected a folder of submissions")
    if not without_network():
        print("No network of its own for a submission here: sockets are refused inside Python")
    grade(options.folder, options.seconds)
    print(f"Grades: {options.folder / 'grades' / 'grades.csv'}, and a report for each student")
    return 0


if __name__ == "__main__":
    sys.exit(main())
