"""The harness, and for every exercise: its solution passes, its stub and wrong answers do not."""

import ast
import math
import re
from functools import cache

import nbformat
import pytest
import torch

from book import CHAPTERS, ROOT, code_cells, load
from linear_time import exercises
from linear_time.exercises import (
    Wrong,
    check,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    predict,
)


def exercise_labels(path):
    text = "\n".join(
        c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"
    )
    return re.findall(r"(?:```|:::)\{exercise\}[^\n]*\n:label:\s*(\S+)", text)


NAMES = [(path, label) for path in CHAPTERS for label in exercise_labels(path)]
each_exercise = pytest.mark.parametrize(("path", "name"), NAMES, ids=[name for _, name in NAMES])


@cache
def wrong_answers(path):
    topic = path.stem.split("-", 1)[1].replace("-", "_")
    return load(ROOT / "tests" / "exercises" / f"{topic}.py").WRONG


def checked(cell):
    """Exercise -> the name of the answer, for each ``check("...", answer)`` in a cell."""
    calls = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)]
    return {
        node.args[0].value: ast.unparse(node.args[1])
        for node in calls
        if isinstance(node.func, ast.Name) and node.func.id == "check"
    }


def answer(path, name, tag):
    """Execute the imports and the ``tag`` cell that checks ``name``; the answer that it binds."""
    cells = [c for c in code_cells(path, tag) if name in checked(c)]
    assert len(cells) == 1, f"{name}: expected one {tag} cell that checks it, found {len(cells)}"
    namespace: dict = {"__name__": "student"}
    for cell in [*code_cells(path, "imports"), cells[0]]:
        exec(compile(cell.source, str(path.name), "exec"), namespace)
    return namespace[checked(cells[0])[name]]


@pytest.fixture(autouse=True)
def default_dtype():
    """A chapter may set the default to float64; the next test starts from float32."""
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_every_chapter_has_four_exercises_or_more(path):
    assert len(exercise_labels(path)) >= 4


def test_every_registered_check_belongs_to_a_notebook():
    for topic in exercises.CHAPTERS.values():
        __import__(f"linear_time.exercises.{topic}")
    in_notebooks = {name for _, name in NAMES}
    assert {name for name in exercises.CHECKS if not name.startswith("99-")} == in_notebooks


@pytest.mark.parametrize(("path", "name"), NAMES, ids=[name for _, name in NAMES])
def test_exercise_states_objective_difficulty_and_time(path, name):
    cells = [
        c.source for c in nbformat.read(path, as_version=4).cells if f":label: {name}\n" in c.source
    ]
    assert len(cells) == 1
    for word in ("**Objective:**", "**Difficulty:** ●", "**Time:**"):
        assert word in cells[0], f"{name} does not state {word}"


@each_exercise
def test_solution_passes(path, name):
    assert check(name, answer(path, name, "solution"))


@each_exercise
def test_stub_is_not_attempted(path, name):
    result = check(name, answer(path, name, "stub"))
    assert not result and not result.attempted


@each_exercise
def test_wrong_answers_fail(path, name):
    answer(path, name, "solution")  # the chapter's default dtype
    wrong = wrong_answers(path).get(name, [])
    assert len(wrong) >= 3, f"{name}: expected three wrong answers or more, got {len(wrong)}"
    for candidate in wrong:
        result = check(name, candidate)
        label = getattr(candidate, "__name__", repr(candidate))
        assert not result, f"{name} accepts {label}"
        assert result.attempted, f"{name} takes {label} for not attempted"
        assert len(result.message) > 30


# ---- the harness itself


@pytest.fixture
def double():
    @exercise("99-double")
    def double_check(answer):
        expect_close(answer(2.0), 4.0, given="x = 2")

    yield
    del exercises.CHECKS["99-double"]


def test_check_right_wrong_and_untouched(double, capsys):
    def stub(x):
        raise NotImplementedError

    assert check("99-double", lambda x: 2 * x).right
    assert capsys.readouterr().out == "99-double: right.\n"
    wrong = check("99-double", lambda x: x)
    assert not wrong and wrong.attempted
    assert "For x = 2: expected 4.0, got 2.0" in capsys.readouterr().out
    untouched = check("99-double", stub)
    assert not untouched and not untouched.attempted
    assert capsys.readouterr().out == "99-double: not attempted yet.\n"


@pytest.mark.parametrize(
    "answer",
    [None, 3, "text", lambda: 1, lambda x: None, lambda x: "4", lambda x: [4, 4], lambda x: 1 / 0,
     lambda x: float("nan"), lambda x: torch.zeros(3, 3), lambda x: object()],
)  # fmt: skip
def test_check_never_raises_on_a_students_error(double, answer):
    result = check("99-double", answer)
    assert not result and result.attempted and "\n" not in result.message


def test_an_error_of_torch_is_no_stub(double):
    """Torch raises NotImplementedError too, with a message, where an operation lacks a dtype."""
    result = check("99-double", lambda x: torch.tensor([1j, 2j]).max())
    assert not result and result.attempted and "Your answer raised" in result.message


def test_check_refuses_an_unknown_name():
    with pytest.raises(ValueError, match="name: expected the name of an exercise"):
        check("12-no-such-exercise", 1)
    with pytest.raises(ValueError, match="name: expected"):
        check("", 1)


def test_expect_close_takes_what_students_return():
    import numpy as np
    import sympy

    for same in (0.5, np.float64(0.5), torch.tensor(0.5), sympy.Rational(1, 2), np.array(0.5)):
        expect_close(same, 0.5, given="x")
    expect_close([torch.tensor(1.0), torch.tensor(2.0)], [1.0, 2.0], given="x")
    expect_close(1j * sympy.sqrt(4), 2j, given="x")
    for other in (0.6, torch.tensor([0.5]), float("inf"), None, 0.5 + 1j):
        with pytest.raises(Wrong, match="For x"):
            expect_close(other, 0.5, given="x")


def test_expect_and_expect_equal():
    expect(True, "never")
    expect_equal("a", "a", given="x")
    with pytest.raises(Wrong, match="because"):
        expect(False, "because")
    with pytest.raises(Wrong, match="expected 'a', got 'b'"):
        expect_equal("b", "a", given="x")


def test_expect_finds_bug():
    def good(x):
        return x + 1

    def student(f):
        assert f(1) == 2

    expect_finds_bug(student, good, {"adds nothing": lambda x: x})
    with pytest.raises(Wrong, match="accepts"):
        expect_finds_bug(lambda f: None, good, {"adds nothing": lambda x: x})
    with pytest.raises(Wrong, match="rejects the right"):
        expect_finds_bug(student, lambda x: x, {})


def test_predict(capsys):
    predict("order", None, 2.0)
    predict("order", 2.05, 2.0, unit="per step")
    predict("order", 1.0, 2.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["order:", "  measured 2"]
    assert lines[2:5] == ["order:", "  measured 2 per step", "  you said 2.05: close."]
    assert lines[7] == "  you said 1: off. Find out why before reading on."


@pytest.mark.parametrize(
    ("measured", "text"),
    [(769, "769"), (24_576.4, "24,576"), (0.0312, "0.031"), (74.6, "75"), (-3.0, "-3"),
     (math.inf, "inf"), (1e-5, "1e-05")],
)  # fmt: skip
def test_a_measured_number_is_readable(capsys, measured, text):
    predict("x", None, measured)
    assert capsys.readouterr().out == f"x:\n  measured {text}\n"
