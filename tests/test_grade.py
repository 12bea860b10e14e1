"""`make grade`: a class of five gets what is fair, whatever a submission does."""

import csv
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import sympy as sp
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import classroom
from book import ROOT, AtOnce, load
from classroom import CLASS, EXERCISES, answers, course, grade, handout, wire
from linear_time import exercises
from linear_time.cache import KVCache
from linear_time.decoder import SwiGLU
from linear_time.exercises import Wrong
from linear_time.exercises.labs import neutral

SECRET = b"s" * 32
ASKED = grade.asked  # which tests replace
Preloaded = load(ROOT / "book" / "forked.py").Preloaded


# --- the class ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def handed_in(tmp_path_factory):
    """The handout of chapter 12, as the five hand it in, and a file that is no notebook."""
    folder = tmp_path_factory.mktemp("submissions")
    given = classroom.light(handout.student("12"))
    for student in CLASS:
        (folder / student).mkdir()
        made = classroom.filled(given, student)
        nbformat.write(made, folder / student / "12-discretization.ipynb")
    (folder / "torn.ipynb").write_text('{"cells": [', encoding="utf8")
    return folder


@pytest.fixture(scope="module")
def graded(handed_in):
    """Its processes are forks of one Python, whose imports take longer than what the class wrote.

    They are in the network of the tests; all others of this file are started as a submission is.
    """

    def start(command, *, pass_fds, cwd, env, **_):
        at = command.index(sys.executable)
        assert command[at + 1] == "-P"
        return python.start(*command[at + 2 :], pipes=pass_fds, cwd=Path(cwd), env=env)

    found = os.pathsep.join([str(ROOT / "src"), str(ROOT / "book")])
    environment = {**os.environ, "PYTHONPATH": found, "OMP_NUM_THREADS": "1"}
    with Preloaded("wire", env=environment) as python, pytest.MonkeyPatch.context() as patch:
        patch.setattr(grade, "subprocess", SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL))
        patch.setattr(grade, "without_network", lambda: ())
        known = grade.asked("12")._replace(imports=[classroom.LIGHT])
        patch.setattr(grade, "asked", lambda number: known)
        return grade.best(grade.grade(handed_in, seconds=2))


@pytest.mark.parametrize("student", CLASS)
def test_the_class_gets_what_is_fair(graded, student):
    got = {name: graded[student, name].points for name in EXERCISES}
    assert got == classroom.fair(student)


def test_what_became_of_each_exercise_is_told(graded):
    says = {name: graded["endless", name].says for name in EXERCISES}
    assert says == {"12-theta": "too long", "12-gate": "wrong", "12-bug": "right"}
    assert {graded["empty", name].says for name in EXERCISES} == {"not attempted"}
    for student in ("wrong", "cheating"):
        assert {graded[student, name].says for name in EXERCISES} == {"wrong"}


def test_the_table_has_a_row_for_each_student(graded, handed_in):
    with (handed_in / "grades" / "grades.csv").open(encoding="utf8", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert set(rows) == {*CLASS, "torn"}
    made = course.chapter("12").exercises
    checked = grade.asked("12").expressions
    assert {row["of"] for row in rows.values()} == {
        str(sum(course.points(made[n]) for n in checked))
    }
    assert rows["right"]["points"] == str(sum(classroom.points().values()))
    assert rows["torn"]["points"] == rows["empty"]["points"] == "0"
    assert rows["endless"]["12-bug"] == str(classroom.points()["12-bug"])


def test_the_reports_are_readable_and_have_no_values(graded, handed_in):
    for student in (*CLASS, "torn"):
        text = (handed_in / "grades" / f"{student}.md").read_text(encoding="utf8")
        assert text.startswith(f"# {student}: ") and "| 12-theta · " in text
    text = (handed_in / "grades" / "wrong.md").read_text(encoding="utf8")
    (row,) = (line for line in text.splitlines() if line.startswith("| 12-gate"))
    assert "Not yet right." in row and "0.6" not in row and "got" not in row


def test_graded_again_nothing_is_done_again(graded, handed_in, capsys, monkeypatch):
    monkeypatch.setattr(grade.Notebook, "grade", lambda *_: pytest.fail("graded again"))
    again = grade.best(grade.grade(handed_in, seconds=2))
    assert again == graded
    said = capsys.readouterr().out
    assert "Going on: " in said
    for student in {student for student, _ in graded}:
        own = [v for (who, _), v in graded.items() if who == student]
        assert f"\n{student}: {sum(v.points for v in own)} of {sum(v.of for v in own)}\n" in said


@pytest.mark.wheel
@pytest.mark.parametrize("number", course.stems())
def test_every_solution_is_right_for_the_grader(number, tmp_path):
    """By the command, in which no runtime check of shapes is on."""
    notebook = handout.student(number)
    right = {e.made.name: handout.solved(e) for e in handout.assigned(number) if e.stub}
    for cell in notebook.cells:
        if "stub" in cell.metadata.get("tags", []):
            cell.source = right[cell.metadata.linear_time.exercise]
    nbformat.write(notebook, tmp_path / "ada.ipynb")
    command = [sys.executable, str(ROOT / "book" / "grade.py"), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    text = (tmp_path / "grades" / "verdicts.jsonl").read_text(encoding="utf8")
    verdicts = [json.loads(line) for line in text.splitlines()]
    assert {v["exercise"] for v in verdicts} == set(right)
    assert [(v["exercise"], v["message"]) for v in verdicts if v["says"] != "right"] == []


# --- killed ------------------------------------------------------------------------------------


def test_killed_it_loses_nothing_and_says_so(tmp_path, monkeypatch, capsys):
    given = handout.student("12")
    for student in ("ann", "ben"):
        nbformat.write(given, tmp_path / f"{student}.ipynb")
    done = []

    def until(most):
        def graded(self, name, secret, seconds):
            if len(done) == most:
                raise KeyboardInterrupt
            done.append(name)
            return "wrong", f"number {len(done)}"

        monkeypatch.setattr(grade.Notebook, "grade", graded)

    until(5)
    with pytest.raises(KeyboardInterrupt):
        grade.grade(tmp_path, 1)
    verdicts = tmp_path / "grades" / "verdicts.jsonl"
    with verdicts.open("ab") as file:
        file.write(b'{"student": "ann", "exer')  # the line that a kill tore
    secret = (tmp_path / "grades" / ".secret").read_bytes()
    until(-1)
    whole = grade.grade(tmp_path, 1)
    assert "Going on: 5 verdicts are there already" in capsys.readouterr().out
    assert [v.message for v in whole] == [f"number {n}" for n in range(1, len(whole) + 1)]
    assert len(whole) == 2 * len(grade.asked("12").expressions) == len(done)
    assert (tmp_path / "grades" / ".secret").read_bytes() == secret

    nbformat.write(handout.student("16"), tmp_path / "ben.ipynb")  # handed in anew
    assert {v.exercise[:2] for v in grade.grade(tmp_path, 1) if v.student == "ben"} == {"16"}


def test_a_killed_grader_leaves_no_process_of_a_submission(tmp_path):
    """The end of its pipe ends it, an endless answer too: it is told to die with its parent."""
    source = f"""
import sys, time
sys.path[:0] = [{str(ROOT / "book")!r}]
import grade
grade.asked = lambda number: grade.Asked([], {{"12-theta": "f"}}, False)
made = grade.Notebook("12", {{"12-theta": ["while True: pass"]}}, [])
print(made.started(60).process.pid, flush=True)
made.grade("12-theta", b"", 60)
"""
    run = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, cwd=tmp_path)
    child = int(run.stdout.readline())
    time.sleep(1)
    run.kill()
    run.wait()
    run.stdout.close()
    for _ in range(600):
        try:
            os.kill(child, 0)
            stat = Path(f"/proc/{child}/stat").read_text(encoding="utf8")
            state = stat.split(")")[1].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return
        if state == "Z":
            return
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    pytest.fail("it runs on")


# --- what a submission may try -----------------------------------------------------------------


class Broken(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.fixture(scope="module")
def chapter():
    """A chapter that is light to import, with checks of its own: 99-…"""
    from linear_time import exercises

    @exercises.exercise("99-double")
    def double(answer, cases):
        x = cases.uniform(1, 2)
        exercises.expect_close(answer(x), 2 * x, f"x = {x}")
        exercises.expect_close(answer(cases.randn(3)).shape, (3,), "three")

    @exercises.exercise("99-lab")
    def lab(answer, cases):
        def counted(x):
            """An implementation that measures is measured here, not there."""
            with exercises.Calls() as calls:
                torch.ones(2) + 1
            return x + len(calls.names) - calls.names.count("ones")

        right, bugs = [counted, lambda x: 1 + x], {"adds two": lambda x: x + 2}
        exercises.expect_finds_bug(answer, right, bugs, cases=cases)

    @exercises.exercise("99-sum")
    def total(answer, cases):
        x = cases.randn(cases.integer(2, 5))
        with exercises.Calls() as calls, exercises.Largest() as largest:
            got = answer(x)
        exercises.expect_close(got, x.sum(), "x")
        exercises.expect("sum" not in calls.names, "Expected no sum.")
        exercises.expect("cumsum" in calls.names, "Expected a cumulative sum.")
        exercises.expect_equal(largest.numbers, len(x), "the largest tensor")

    @exercises.exercise("99-layer")
    def layers(answer, cases):
        bugs = {"adds one": Broken}
        exercises.expect_finds_bug(answer, nn.Linear, bugs, cases=cases)

    @exercises.exercise("99-model")
    def models(answer, cases):
        """What of a layer the answer calls is counted here; what it gives back is data."""
        layer, counted = nn.Linear(2, 3), []
        forward = layer.forward
        layer.forward = lambda x: counted.append(1) or forward(x)
        x = cases.randn(4, 2, dtype=torch.float32)
        exercises.expect_close(answer(exercises.neutral(layer), x), forward(forward(x)[:, :2]), "x")
        exercises.expect_equal(len(counted), 2, "the calls")
        exercises.expect_equal(answer(SwiGLU(2, 4), x)[0], 0.0, "a layer of the library")

    names = ("99-double", "99-lab", "99-sum", "99-layer", "99-model")
    made = grade.Asked(["import torch"], dict.fromkeys(names, "f"), False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grade, "asked", lambda number: made)
        yield names
    for name in names:
        del exercises.CHECKS[name]


def verdict(name, *cells, seconds=10):
    notebook = grade.Notebook("99", {name: list(cells)}, [])
    try:
        return notebook.grade(name, SECRET, seconds)
    finally:
        notebook.stop()


def test_right_answers_are_right(chapter):
    lab = "def f(g):\n    assert g(1) == 2"
    cells = {
        "99-double": ["def f(x):\n    return helper(x)", "def helper(x):\n    return 2 * x"],
        "99-lab": [lab],
        "99-sum": ["def f(x):\n    return x.cumsum(0)[-1]"],
        "99-layer": [LAYER_TEST],
        "99-model": [
            "def f(layer, x):\n    if 'SwiGLU' in str(layer):\n        return [0.0 * x.shape[0]]\n"
            "    return layer(layer(x)[:, :2])"
        ],
    }
    notebook = grade.Notebook("99", cells, [])
    for name in chapter:
        assert notebook.grade(name, SECRET, 10) == ("right", "Right.")
    notebook.stop()


LAYER_TEST = """
import copy

def f(make):
    layer = make(2, 3)
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.zero_()
    assert torch.equal(layer(torch.ones(4, 2)), torch.full((4, 3), 4.0))
    other = copy.deepcopy(layer).double()
    other.load_state_dict({"weight": torch.ones(3, 2), "bias": torch.ones(3)})
    assert torch.equal(other(torch.ones(1, 2).double()), torch.full((1, 3), 3.0).double())
    assert layer.weight.min() == 2 and layer.in_features == 2
    assert isinstance(layer, torch.nn.Module)
"""

CHEATS = {
    "prints": (
        "99-double", "print('99-double: right.')\ndef f(x):\n    print('99-double: right.')"),
    "equals everything": ("99-double", f"{classroom.SAME}\ndef f(x):\n    return Same()"),
    "replaces the check": (
        "99-double", f"{classroom.REPLACED.replace('12-theta', '99-double')}\ndef f(x): return 0"),
    "is a float of its own": (
        "99-double", "class F(float):\n    __eq__ = __le__ = lambda *_: True\n"
        "def f(x):\n    return F(0)"),
    "looks at the frames": (
        "99-double", "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        for v in frame.f_locals.values():\n            if type(v) is float and v != x:\n"
        "                return v\n        frame = frame.f_back\n    return 0"),
    "looks at the lab's object": ("99-lab", classroom.LOOKS.replace("NAME", "f")),
    "looks into the lab's object": (
        "99-lab", "def f(g):\n    code = getattr(g, '__code__', None)\n"
        "    inside = [c.cell_contents for c in getattr(g, '__closure__', None) or ()]\n"
        "    assert code and inside[0].__code__.co_consts[1] == 1"),
    "asks the grader for its insides": (
        "99-lab", "def f(g):\n    assert g._wire.ask('get', g._number, '__globals__')"),
    "sends a pickle": (
        "99-double", "def f(x):\n    import gc, answers\n"
        "    wire = next(o for o in gc.get_objects() if isinstance(o, answers.Submission))\n"
        "    wire.pack = lambda v: ['pickle', 'gASVAAAAAAAAAA==']\n    return 2 * x"),
    "counts how often": (
        "99-lab", "seen = []\ndef f(g):\n    seen.append(1)\n    assert len(seen) < 3"),
    "sums": ("99-sum", "def f(x):\n    return x.sum() + 0 * x.cumsum(0)[-1]"),
    "makes a large tensor": (
        "99-sum", "def f(x):\n    return torch.cat([x, x]).cumsum(0)[len(x) - 1]"),
    "uses the net": (
        "99-double", "import socket\ndef f(x):\n    socket.create_connection(('127.0.0.1', 9))\n"
        "    return 2 * x"),
    "starts a program": (
        "99-double", "import subprocess\ndef f(x):\n    subprocess.run(['true'])\n"
        "    return 2 * x"),
    "reads the solutions": (
        "99-double", f"def f(x):\n    open({str(classroom.NOTEBOOK)!r})\n    return 2 * x"),
    "raises": ("99-double", "1 / 0\ndef f(x):\n    return 2 * x"),
    "leaves": ("99-double", "def f(x):\n    raise SystemExit(0)"),
    "leaves at once": ("99-double", "raise SystemExit"),
    "is no Python": ("99-double", "def f(x:\n"),
    "gives a generator": ("99-double", "import itertools\ndef f(x):\n    return itertools.count()"),
    "gives a huge number": ("99-double", "def f(x):\n    return 10 ** 100_000"),
    "patches torch": (
        "99-double", "torch.Tensor.__le__ = lambda *_: torch.tensor(True)\n"
        "def f(x):\n    return 0"),
}  # fmt: skip


@pytest.fixture(scope="module")
def caught(chapter):
    """All in one process, each with its own exercise's name bound anew, as in a long notebook."""
    found = {}
    notebook = grade.Notebook("99", {}, [])
    for cheat, (name, source) in CHEATS.items():
        notebook.cells[name] = [source]
        if notebook.process:
            notebook.process.ask(
                "begin", notebook.imports, notebook.cells, dict.fromkeys(chapter, "f")
            )
        found[cheat] = notebook.grade(name, SECRET, 20)
    notebook.stop()
    return found


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_gets_nothing(caught, cheat):
    says, message = caught[cheat]
    assert says in ("wrong", "ended", "not attempted"), (says, message)
    assert not any(character.isdigit() for character in message)


def test_forbidden_methods_are_refused_with_the_reason(caught):
    assert caught["sums"][1].endswith("Expected no sum.")
    assert "the largest tensor" in caught["makes a large tensor"][1]


def test_an_endless_cell_and_a_killed_process_cost_no_other_exercise(chapter):
    cells = {
        "99-double": ["while True:\n    pass"],
        "99-lab": ["import os, signal\ndef f(g):\n    os.kill(os.getpid(), signal.SIGKILL)"],
        "99-sum": ["def f(x):\n    return x.cumsum(0)[-1]"],
    }
    notebook = grade.Notebook("99", cells, [])
    assert notebook.grade("99-double", SECRET, 1)[0] == "too long"
    assert notebook.grade("99-lab", SECRET, 10)[0] == "ended"
    assert notebook.grade("99-sum", SECRET, 10)[0] == "right"
    notebook.stop()


def test_seeds_are_hidden_fresh_and_the_same_for_all():
    assert grade.seeds(b"a", "12-theta") == grade.seeds(b"a", "12-theta")
    several = {
        *grade.seeds(b"a", "12-theta"),
        *grade.seeds(b"b", "12-theta"),
        *grade.seeds(b"a", "12-bug"),
    }
    assert len(several) == 3 * grade.ROUNDS


def test_the_secret_is_long_kept_and_not_the_same_twice(tmp_path):
    first = grade.Records(tmp_path / "a")
    first.lock.close()
    again = grade.Records(tmp_path / "a")
    other = grade.Records(tmp_path / "b")
    assert len(first.secret) == 32 and first.secret == again.secret != other.secret


def reached(student, exercise, points):
    return grade.Verdict(student, exercise, "right", points, 4, "Right.", "digest")


def test_the_best_of_several_notebooks_counts():
    rows = [reached("a", "x", 1), reached("a", "x", 3), reached("a", "x", 2), reached("b", "x", 0)]
    assert grade.best(rows) == {("a", "x"): rows[1], ("b", "x"): rows[3]}


def test_verdicts_are_kept_as_they_are_reached(tmp_path):
    """A torn line is left out, and what follows begins a line of its own."""
    records = grade.Records(tmp_path)
    records.add(reached("a", "x", 1))
    records.lock.close()
    with records.path.open("ab") as file:
        file.write(b'{"student": "b", "exer')
    again = grade.Records(tmp_path)
    again.add(reached("c", "x", 2))
    again.lock.close()
    last = grade.Records(tmp_path)
    assert list(last.done.values()) == [reached("a", "x", 1), reached("c", "x", 2)]
    assert again.done == last.done


def test_who_handed_in_what(tmp_path):
    for name in (
        "b/1.ipynb", "b/deep/2.ipynb", "b/.ipynb_checkpoints/1.ipynb", "a.ipynb", "notes.txt",
        "grades/x.ipynb", ".hidden/y.ipynb", "b/words.md",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [(who, p.relative_to(tmp_path).as_posix()) for who, p in grade.submissions(tmp_path)]
    assert found == [("a", "a.ipynb"), ("b", "b/1.ipynb"), ("b", "b/deep/2.ipynb")]


def test_a_report_tells_what_became_of_each_exercise(tmp_path):
    made = list(course.chapter("12").exercises.values())[:2]
    wrong = reached("a", made[0].name, 0)._replace(message="Not | <b>\nthis")
    grade.report(tmp_path, "a", made, [wrong, None], 0, 9)
    lines = (tmp_path / "a.md").read_text(encoding="utf8").splitlines()
    assert lines[0] == "# a: 0 of 9 points"
    assert lines[4] == (
        f"| {made[0].name} · {made[0].title} | 0 | {course.points(made[0])} | Not \\| &lt;b> this |"
    )
    assert lines[5].endswith("| Not handed in. |") and len(lines) == 8


def test_findings_of_the_other_process_are_this_one_s():
    """Operations are added; of what watches the values that it has are taken, and no others."""

    class Watch:
        found, left, kind = 1, None, len

    watch, flops = Watch(), FlopCounterMode(display=False)
    states = [{"flops": "7"}, {"found": 5, "left": 5, "kind": 5, "new": 5}, {"found": 9}]
    grade.copy_findings([flops, watch, None], states)
    grade.copy_findings([flops], states)
    assert flops.get_total_flops() == 14
    assert (watch.found, watch.left, watch.kind) == (5, None, len) and not hasattr(watch, "new")
    grade.copy_findings([watch], "no list")
    assert watch.found == 5


# --- one notebook, without its process ---------------------------------------------------------


class Told:
    """A submission's process that gives what it is told to, or raises it."""

    def __init__(self, *gives):
        self.gives, self.deadline, self.said, self.ended = list(gives), None, [], 0

    def ask(self, what, *parts):
        self.said.append((what, *parts, self.deadline))
        if what == "begin":
            return None
        made = self.gives.pop(0)
        if isinstance(made, BaseException):
            raise made
        return made

    def end(self):
        self.ended += 1


@pytest.fixture
def clock(monkeypatch):
    """A chapter of one exercise, and a clock that stands still until it is set."""
    now = [100.0]
    made = grade.Asked(["import a"], {"98-x": "f"}, True)
    monkeypatch.setattr(grade, "asked", lambda number: made)
    monkeypatch.setattr(grade.time, "monotonic", lambda: now[0])
    yield now
    torch.set_default_dtype(torch.float32)


def test_a_process_is_begun_once_and_has_its_time_for_each_exercise(clock, monkeypatch):
    made = []
    monkeypatch.setattr(grade, "Process", lambda: made.append(Told()) or made[-1])
    notebook = grade.Notebook("98", {"98-x": ["c"]}, ["import b", "import a"])
    assert notebook.imports == ["import a", "import b"]
    process = notebook.started(7)
    begun = ("begin", ["import a", "import b"], {"98-x": ["c"]}, {"98-x": "f"})
    assert process.said == [(*begun, 220)] and process.deadline == 107
    clock[0] = 300.0
    assert notebook.started(9) is process and process.deadline == 309 and len(process.said) == 1
    notebook.stop()
    notebook.stop()
    assert process.ended == 1 and notebook.process is None
    assert notebook.started(1) is not process and len(made) == 2


@pytest.mark.parametrize(
    ("gives", "results", "passed", "says", "ended"),
    [
        (3, [(True, True, "98-x: right.")] * 2, 0, ("right", "Right."), 0),
        (3, [(False, True, "98-x: not yet: right.")], 0, ("wrong", "Not yet: right."), 0),
        (3, [(True, True, ""), (False, True, "98-x: no.")], 0, ("wrong", "No."), 0),
        (3, [(False, True, "98-x: ")], 0, ("wrong", ""), 0),
        (3, [(False, False, "98-x: not attempted")], 0, ("not attempted", "Not attempted."), 0),
        (3, [(False, True, "x: no.")], 15, ("wrong", "No."), 0),
        (3, [(False, True, "x: no.")], 15.1, ("too long", "Not finished after 10 seconds."), 1),
        (3, [(True, True, "")] * 2, 99, ("right", "Right."), 0),
        (wire.Late(), [], 0, ("too long", "Not finished after 10 seconds."), 1),
        (wire.Ended(), [], 0, ("ended", "The answer ended its process."), 1),
        (NotImplementedError(), [], 0, ("not attempted", "Not attempted."), 0),
        (NotImplementedError("no"), [], 0,
         ("wrong", "The cells below the exercise raised NotImplementedError."), 0),
        (KeyError("f"), [], 0, ("wrong", "The cells below the exercise raised KeyError."), 0),
    ],
)  # fmt: skip
def test_what_becomes_of_an_exercise(clock, monkeypatch, gives, results, passed, says, ended):
    """Two hidden seeds; twice its time for the check here, and half more than it is too long."""
    process, checks = Told(gives), []
    monkeypatch.setattr(grade, "Process", lambda: process)

    def check(*given):
        checks.append(given)
        clock[0] += passed
        return exercises.Result(*results[len(checks) - 1])

    monkeypatch.setattr(grade.exercises, "check", check)
    notebook = grade.Notebook("98", {"98-x": ["c"]}, [])
    assert notebook.grade("98-x", SECRET, 10.0) == says
    seeds = grade.seeds(SECRET, "98-x")
    assert checks == [("98-x", 3, seed, False, True, 20.0) for seed in seeds[: len(results)]]
    assert process.ended == ended and (notebook.process is None) == bool(ended)
    assert process.said[1] == ("find", "98-x", 110.0)
    assert torch.get_default_dtype() == torch.float64, "as the chapter's imports say"


def test_an_exercise_that_is_not_there_starts_nothing(clock, monkeypatch):
    monkeypatch.setattr(grade, "Process", lambda: pytest.fail("started"))
    notebook = grade.Notebook("98", {}, [])
    assert notebook.grade("98-x", SECRET, 1) == (
        "not there", "The exercise is not in the notebook."
    )  # fmt: skip


def test_hidden_seeds_are_seven_bytes():
    found = [seed for name in "abcdefgh" for seed in grade.seeds(SECRET, name)]
    assert len(set(found)) == len(found) == 16 and 2**48 < max(found) < 2**56
    assert grade.seeds(SECRET, "a")[0] == int.from_bytes(
        grade.hmac.digest(SECRET, b"a 0", "sha256")[:7], "big"
    )


# --- its process, without a submission ---------------------------------------------------------


def test_a_process_is_alone_and_is_ended_whole(monkeypatch, tmp_path):
    """Of the grader's environment, files and pipes it has its own end and nothing else."""
    asked, killed = [], []

    class Started:
        pid = 4321

        def __init__(self, command, **options):
            asked.append((command, options))

        def wait(self):
            killed.append("waited")

    def killpg(pid, how):
        killed.append((pid, how))
        if len(killed) > 2:
            raise ProcessLookupError

    monkeypatch.setattr(grade.subprocess, "Popen", Started)
    monkeypatch.setattr(grade.os, "killpg", killpg)
    monkeypatch.setattr(grade, "without_network", lambda: ("alone",))
    monkeypatch.setenv("PATH", "programs")
    monkeypatch.setenv("SECRET", "of the grader's")
    for _ in range(2):
        process = grade.Process()
        command, options = asked.pop()
        reader, writer = options["pass_fds"]
        program = [sys.executable, "-P", str(ROOT / "book" / "answers.py")]
        assert command == ["alone", *program, str(reader), str(writer)]
        assert options["env"] == {
            "PATH": "programs", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'book'}",
            "HOME": process.folder, "TMPDIR": process.folder, "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "agg",
        }  # fmt: skip
        assert options["cwd"] == process.folder and options["start_new_session"] is True
        assert {options[name] for name in ("stdin", "stdout", "stderr")} == {subprocess.DEVNULL}
        for descriptor in (reader, writer):
            with pytest.raises(OSError, match="Bad file"):
                os.fstat(descriptor)
        assert not process.trusting and Path(process.folder).is_dir()
        mine = process.reader, process.writer
        assert len({os.fstat(descriptor).st_ino for descriptor in mine}) == 2
        (Path(process.folder) / "left").touch()
        process.end()
        assert killed[-2:] == [(4321, signal.SIGKILL), "waited"]
        assert not Path(process.folder).exists()
        for descriptor in mine:
            with pytest.raises(OSError, match="Bad file"):
                os.fstat(descriptor)


@pytest.mark.parametrize(
    ("code", "command"),
    [(0, ("unshare", "--net", "--map-root-user")), (1, ()), (FileNotFoundError(), ())],
)
def test_a_network_of_its_own_where_there_is_one(monkeypatch, code, command):
    asked = []

    def run(given, capture_output):
        asked.append((given, capture_output))
        if isinstance(code, OSError):
            raise code
        return subprocess.CompletedProcess(given, code)

    monkeypatch.setattr(grade.subprocess, "run", run)
    assert grade.without_network.__wrapped__() == command
    assert asked == [(["unshare", "--net", "--map-root-user", "true"], True)]


def test_an_answer_is_called_under_the_instruments_that_are_on():
    """By their names, or whole; what they have found comes back; the tracer sees none of it."""
    process = object.__new__(grade.Process)
    process.objects, process.trusting = [], False
    said, traced, watch = [], [], SimpleNamespace(found=0)

    def ask(*parts):
        said.append(parts)
        states = [{"names": ["cumsum"]}, {"flops": 4}, {"found": 5}]
        traced.append((sys.gettrace(), sys.getprofile()))
        return [7, states[: len(parts[-1])]]

    process.ask = ask
    profile = lambda *_: None  # noqa: E731
    before = sys.gettrace(), sys.getprofile()
    sys.setprofile(profile)
    try:
        with FlopCounterMode(display=False) as flops, exercises.Calls() as calls:
            grade.INSTRUMENTS.append((("module", "maker", (), {}), watch))
            assert process.call(3, (1,), {"a": 2}) == 7
            grade.INSTRUMENTS.pop()
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(before[1])
    assert traced == [(None, None)] and sys.gettrace() is before[0]
    ((what, number, given, named, grad, made),) = said
    assert (what, number, given, named, grad) == ("watched", 3, [1], {"a": 2}, True)
    assert made[0] == grade.Instrument(calls) and made[1:] == ["flops", ("module", "maker", (), {})]
    assert flops.get_total_flops() == 4 and calls.names == ["cumsum"] and watch.found == 5
    sent = process.packed(made[0])
    assert sent[0] == "pickle" and type(wire.Wire(0, 1, True).unpack(sent)) is type(calls)
    with torch.no_grad():
        process.call(0, (), {})
    with torch.inference_mode():
        process.call(0, (), {})
    assert [parts[4] for parts in said[1:]] == [False, None]

    def fails(*_):
        raise wire.Late

    process.ask = fails
    sys.setprofile(profile)
    try:
        with pytest.raises(wire.Late):
            process.call(0, (), {})
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(before[1])


# --- a course ----------------------------------------------------------------------------------


@pytest.fixture
def school(monkeypatch, tmp_path):
    """A chapter 98 of four exercises, of which the second is written and the last one trains."""
    made = {
        name: course.Exercise(name, name.title(), "say it.", dots, minutes, kind)
        for name, dots, minutes, kind in (
            ("98-a", 1, 10, "code"), ("98-b", 2, 10, "written"), ("98-c", 2, 20, "code"),
            ("98-d", 3, 10, "train"))
    }  # fmt: skip
    known = grade.Asked([], {name: "f" for name in made if name != "98-b"}, False)
    known_course = SimpleNamespace(
        stems=lambda: {"98": "98-small"},
        chapter=lambda number: SimpleNamespace(exercises=made),
        points=course.points,
    )
    monkeypatch.setattr(grade, "course", known_course)
    monkeypatch.setattr(grade, "asked", lambda number: known)
    done = []
    monkeypatch.setattr(grade.Notebook, "stop", lambda self: done.append("stop"))

    def graded(self, name, secret, seconds):
        assert self.number == "98" and len(secret) == 32
        done.append((name, seconds))
        return ("right", "Right.") if "yes" in self.cells[name] else ("wrong", "No.")

    monkeypatch.setattr(grade.Notebook, "grade", graded)

    def hands_in(place, **answers):
        cells = []
        for name, source in answers.items():
            cells.append(nbformat.v4.new_markdown_cell(f"X\n:label: 98-{name}"))
            cells.append(nbformat.v4.new_code_cell(source))
        (tmp_path / place).parent.mkdir(exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / place)

    return SimpleNamespace(folder=tmp_path, done=done, hands_in=hands_in)


def test_a_course_is_graded_told_and_written_down(school, capsys, monkeypatch):
    every = {"a": "yes", "b": "words", "c": "no", "d": "yes"}
    school.hands_in("ann/1.ipynb", **every)
    school.hands_in("ann/2.ipynb", **every | {"c": "yes", "d": "no"})
    school.hands_in("ben.ipynb", **dict.fromkeys("abcd", "no"))
    (school.folder / "cid.ipynb").write_text("{", encoding="utf8")
    verdicts = grade.grade(school.folder, 2.0)
    one = [("98-a", 2.0), ("98-c", 2.0), ("98-d", 12.0), "stop"]
    assert school.done == one * 3
    assert [(v.student, v.exercise, v.says, v.points, v.of) for v in verdicts[:3]] == [
        ("ann", "98-a", "right", 1, 1), ("ann", "98-c", "wrong", 0, 4),
        ("ann", "98-d", "right", 3, 3),
    ]  # fmt: skip
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "ann: 4 of 8", "ann: 9 of 16", "ben: 0 of 8",
        "cid: cid.ipynb holds no exercise that can be read", "cid: 0 of 0",
    ]  # fmt: skip
    with (school.folder / "grades" / "grades.csv").open(encoding="utf8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["student", "points", "of", "98-a", "98-c", "98-d"],
        ["ann", "8", "8", "1", "4", "3"], ["ben", "0", "8", "0", "0", "0"],
        ["cid", "0", "8", "0", "0", "0"],
    ]  # fmt: skip
    assert sorted(p.name for p in (school.folder / "grades").iterdir()) == [
        ".lock", ".secret", "ann.md", "ben.md", "cid.md", "grades.csv", "verdicts.jsonl",
    ]  # fmt: skip
    text = (school.folder / "grades" / "cid.md").read_text(encoding="utf8")
    assert text.startswith("# cid: 0 of 8 points\n\n| exercise |")
    assert "| 98-c · 98-C | 0 | 4 | Not handed in. |\n" in text and text.count("98-b") == 0
    school.done.clear()
    assert grade.grade(school.folder, 2.0) == verdicts and school.done == ["stop"] * 3
    out, seen = AtOnce(), []
    monkeypatch.setattr(
        grade, "print", lambda *a, **k: print(*a, file=out, **k) or seen.append(out.all_seen()),
        raising=False,
    )  # fmt: skip
    grade.grade(school.folder, 2.0)
    assert seen == [True] * 6
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "Going on: 9 verdicts are there already" and said[1] == "ann: 4 of 8"


def test_a_notebook_is_read_with_its_own_imports(tmp_path):
    new = nbformat.v4.new_code_cell
    cells = [new("import a", metadata={"tags": ["imports", "x"]}), new("import b"),
             nbformat.v4.new_markdown_cell("import c", metadata={"tags": ["imports"]})]  # fmt: skip
    cells += [nbformat.v4.new_markdown_cell(":label: 12-x"), new("y = 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    answers_, imports, digest = grade.read(tmp_path / "a.ipynb")
    assert (answers_, imports) == ({"12-x": ["y = 1"]}, ["import a"]) and len(digest) == 16
    (tmp_path / "b.ipynb").write_bytes(b"\xff{")
    empty, none, other = grade.read(tmp_path / "b.ipynb")
    assert (empty, none) == ({}, []) and len(other) == 16 and other != digest


@pytest.mark.parametrize("wide", [True, False])
def test_what_a_chapter_asks(tmp_path, monkeypatch, wide):
    new = nbformat.v4.new_code_cell
    first = "import torch\n" + "torch.set_default_dtype(torch.float64)" * wide
    cells = [
        nbformat.v4.new_markdown_cell("x", metadata={"tags": ["imports", "stub"]}),
        new(first, metadata={"tags": ["imports"]}),
        new("def f(): ...\ncheck('12-a', f)\nassert check('12-b', f(2))\ncheck(x)",
            metadata={"tags": ["stub"]}),
        new("check('12-c', f)"),
        new("import math", metadata={"tags": ["imports"]}),
    ]  # fmt: skip
    (tmp_path / "chapters").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "chapters" / "97-x.ipynb")
    monkeypatch.setattr(grade, "ROOT", tmp_path)
    monkeypatch.setattr(grade.course, "stems", lambda: {"97": "97-x"})
    found = ASKED.__wrapped__("97")
    assert found == ([first, "import math"], {"12-a": "f", "12-b": "f(2)"}, wide)


@pytest.mark.parametrize("network", [("unshare",), ()])
def test_the_command_of_the_grader(monkeypatch, tmp_path, capsys, network):
    graded = []
    monkeypatch.setattr(grade, "grade", lambda *given: graded.append(given))
    monkeypatch.setattr(grade, "without_network", lambda: network)
    monkeypatch.setattr(sys, "argv", ["grade.py", str(tmp_path)])
    assert grade.main() == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 + (not network) and said[-1].startswith(f"Grades: {tmp_path}")
    assert network or said[0].startswith("No network of its own")
    monkeypatch.setattr(sys, "argv", ["grade.py", str(tmp_path), "--seconds", "1.5"])
    grade.main()
    assert graded == [(tmp_path, 60), (tmp_path, 1.5)]
    monkeypatch.setattr(sys, "argv", ["grade.py", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as ended:
        grade.main()
    assert ended.value.code == 2 and "expected a folder of submissions" in capsys.readouterr().err


# --- notebooks ---------------------------------------------------------------------------------


def test_answers_are_found_below_their_statements():
    new, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    statement = ":::{exercise} A\n:label: 12-theta\n\nDo it.\n:::"
    cells = [
        code("far = 1"), new(statement), code("helper = 1"), new("I think so."),
        code("def f(): ..."),
        code('check("12-theta", f)'), new(statement.replace("theta", "gate")), code(""),
        new("## Further reading"), code("other = 1"),
    ]  # fmt: skip
    moved = code("def g(): ...")
    moved.metadata["linear_time"] = {"exercise": "12-gate"}
    found = grade.answered(nbformat.v4.new_notebook(cells=[*cells, moved]))
    assert found == {
        "12-theta": ["helper = 1", "def f(): ...", 'check("12-theta", f)'],
        "12-gate": ["def g(): ..."],
    }


def test_magics_and_checks_are_left_out():
    source = "%time\n!ls\nassert check('12-x', f)\ncheck('12-x', f)\nx = 1\ncheck = 3"
    assert [type(node).__name__ for node in answers.python(source).body] == ["Assign", "Assign"]


def test_points_by_difficulty_and_minutes():
    made = course.chapter("12").exercises["12-theta"]
    assert course.points(made._replace(difficulty=2, minutes=15)) == 4
    assert course.points(made._replace(difficulty=3, minutes=30)) == 9
    assert course.points(made._replace(difficulty=1, minutes=5)) == 1


# --- the wire ----------------------------------------------------------------------------------


@pytest.fixture
def ends():
    return wire.Wire(0, 1, trusting=False), wire.Wire(0, 1, trusting=True)


def test_values_travel_as_what_they_are(ends):
    grader, submission = ends
    a, t = sp.symbols("a", nonzero=True), sp.symbols("t", real=True)
    f = sp.Function("f")
    for value in (
        None, True, 3, 10**400, -2.5, float("inf"), 1 - 2j, "text\n", [1, (2.0, "x")], (),
        {"a": {1, 2}}, {(1, 2): None}, torch.float32, a**2 / 3 + sp.exp(-t) * sp.pi,
        sp.diff(f(t), t), sp.Float("0.1", 30), sp.Float(-2.5e300),
        sp.Rational(1, 3), sp.oo, sp.I, sp.Matrix([[1, 2]]).as_immutable(),
    ):  # fmt: skip
        sent = json.loads(json.dumps(submission.pack(value)))
        came = grader.unpack(sent)
        assert came == value and type(came) is type(value)
    assert grader.unpack(submission.pack(sp.true)) is True
    assert grader.unpack(submission.pack(sp.Matrix([[a, 1]]))) == sp.Matrix([[a, 1]])
    for value in (torch.randn(2, 3), torch.tensor(1j), torch.zeros(0, 3), torch.tensor([True]),
                  torch.arange(3),
                  torch.ones(2, dtype=torch.bfloat16), torch.randn(3, 2).T):  # fmt: skip
        came = grader.unpack(json.loads(json.dumps(submission.pack(value))))
        assert torch.equal(came, value) and came.dtype == value.dtype
    grown = torch.ones(2, requires_grad=True)
    assert submission.unpack(grader.pack(grown)).requires_grad
    cache = KVCache(torch.ones(1), torch.zeros(1), 1)
    assert isinstance(grader.unpack(json.loads(json.dumps(submission.pack(cache)))), KVCache)


def test_functions_stay_and_layers_are_copied_to_the_submission_alone(ends):
    grader, submission = ends
    assert grader.pack(len)[0] == submission.pack(len)[0] == "mine"
    assert grader.pack(neutral(nn.Linear(1, 1)))[0] == "layer"
    assert grader.pack(nn.Linear(1, 1))[0] == "pickle"
    assert submission.pack(nn.Linear(1, 1))[0] == "mine"
    assert isinstance(submission.unpack(grader.pack(nn.Linear(1, 1))), nn.Linear)


@pytest.mark.parametrize(
    "sent",
    [["pickle", "gASVAAAAAAAAAA=="], ["sympy", "sympify", ["1+1"]], ["sympy", "Sum", ["x", "1"]],
     ["tuple", [["int", "0x1"]], "os", "stat_result"], ["tuple", [], "linear_time.cost", "Path"],
     ["dtype", "load"], ["tensor", "float32", [-5], "", False], ["tensor", "load", [1], "A", False],
     ["tensor", "float32", [10**12], "AAAAAA==", False], ["yours", ["int", "0x0"]], ["int", "x"],
     ["what"], [], 3, {"a": 1}, ["list", 3], ["dict", [[["list", []], None]]]],
)  # fmt: skip
def test_what_is_no_value_is_refused(ends, sent):
    with pytest.raises(Wrong):
        ends[0].unpack(sent)


def test_the_grader_gives_out_no_private_names(ends):
    grader, _ = ends
    grader.pack(len)
    grader.pack(neutral(nn.Linear(2, 3)))
    for number, name in ((0, "__self__"), (0, "real"), (1, "__class__"), (1, "weight")):
        with pytest.raises(AttributeError):
            grader.answer("get", number, name)
    assert grader.answer("attribute", 1, "", "in_features") == [False, 2]
    assert grader.answer("attribute", 1, "", "forward") == [True, None]
    with pytest.raises(AttributeError):
        grader.answer("attribute", 1, "", "__dict__")
    with pytest.raises(TypeError, match="no layer"):
        grader.answer("attribute", 0, "", "forward")
    with pytest.raises(ValueError, match="begin"):
        grader.answer("begin", [], {}, {})


def test_an_error_of_the_other_end_is_one_of_pythons_own(ends):
    assert type(ends[0].error("ValueError", "x")) is ValueError
    assert type(ends[0].error("NotImplementedError", "")) is NotImplementedError
    assert not ends[0].error("NotImplementedError", "").args
    for kind in ("SystemExit", "KeyboardInterrupt", "print", "Foreign", 3):
        assert type(ends[0].error(kind, "x")) is RuntimeError
    assert wire.told(pickle.PicklingError("x")) == ["error", "Exception", "x"]
