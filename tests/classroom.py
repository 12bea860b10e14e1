"""A class of five for the tests of grading: what each hands in for three exercises."""

from __future__ import annotations

import copy
import sys
from types import ModuleType

from nbformat import NotebookNode

from book import ROOT, load


def tool(name: str) -> ModuleType:
    """A module of book/, loaded once: they import one another by their names."""
    return sys.modules.get(name) or load(ROOT / "book" / f"{name}.py")


course, wire, answers, grade, handout = map(tool, ("course", "wire", "answers", "grade", "handout"))

NOTEBOOK = ROOT / "chapters" / "12-discretization.ipynb"
EXERCISES = ("12-theta", "12-gate", "12-bug")

#: What the three exercises need of the chapter's imports, which take longer.
LIGHT = "import math\nimport torch\nfrom linear_time.exercises import check"

SAME = """
class Same:
    def __eq__(self, other): return True
    __lt__ = __le__ = __gt__ = __ge__ = __eq__
    __hash__ = object.__hash__
    def __float__(self): return 1.0
    def __getattr__(self, name): return self
    def __call__(self, *_, **__): return self
"""
REPLACED = """
import linear_time.exercises as exercises
import linear_time.exercises.verdicts as verdicts

def check(name, *_, **__):
    print(f"{name}: right.")
    return True

exercises.check = check
for expectation in ("expect", "expect_close", "expect_equal"):
    setattr(verdicts, expectation, lambda *_, **__: None)
exercises.CHECKS.clear()
check("12-theta")
"""

LOOKS = """
import inspect

def NAME(thing):
    named = getattr(thing, "__name__", "") == "zero_order_hold"
    assert named or "zero_order_hold" in inspect.getsource(thing)
"""

#: student -> exercise -> what stands in the answer's cell, NAME for what is checked, in place of
#: the stub
CLASS: dict[str, dict[str, str]] = {
    "right": {},  # the solutions: see answers_of
    "empty": {},
    "wrong": {
        "12-theta": "def NAME(A, B, delta, theta):\n    return A, B",
        "12-gate": "def NAME(*_):\n    return 0.5, 0.9",
        "12-bug": "def NAME(rule):\n    pass",
    },
    "cheating": {
        "12-theta": f"{REPLACED}{SAME}\ndef NAME(*_):\n    return Same(), Same()",
        "12-gate": f"{SAME}\ndef NAME(*_):\n    return Same(), Same()",
        "12-bug": LOOKS,
    },
    "endless": {
        "12-theta": "def NAME(*_):\n    while True:\n        pass",
        "12-gate": "def NAME(*_):\n    raise SystemExit('right')",
        # and 12-bug right: it must not be lost with the others
    },
}


def solutions() -> dict[str, str]:
    return {e.made.name: handout.solved(e) for e in handout.assigned("12") if e.stub}


def points() -> dict[str, int]:
    made = course.chapter("12").exercises
    return {name: course.points(made[name]) for name in EXERCISES}


def answers_of(student: str) -> dict[str, str]:
    """What a student writes, for each exercise that is attempted."""
    if student == "empty":
        return {}
    right = solutions()
    named = grade.asked("12").expressions
    given = {name: text.replace("NAME", named[name]) for name, text in CLASS[student].items()}
    if student in ("right", "endless"):
        given = {name: right[name] for name in EXERCISES} | given
    return given


def fair(student: str) -> dict[str, int]:
    """The points that a fair grader gives."""
    right = {"right": set(EXERCISES), "endless": {"12-bug"}}.get(student, set())
    return {name: worth if name in right else 0 for name, worth in points().items()}


def filled(notebook: NotebookNode, student: str) -> NotebookNode:
    """A notebook that was handed out, with a student's answers below the statements."""
    notebook = copy.deepcopy(notebook)
    answers, here = answers_of(student), ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and ":label: " in cell.source:
            here = cell.source.split(":label: ")[1].split()[0]
        elif cell.cell_type == "code" and here in answers and "NotImplementedError" in cell.source:
            cell.source = answers[here]
    return notebook


def light(notebook: NotebookNode) -> NotebookNode:
    """A notebook with the imports that are needed."""
    for cell in notebook.cells:
        if "imports" in cell.metadata.get("tags", []):
            cell.source = LIGHT
    return notebook
