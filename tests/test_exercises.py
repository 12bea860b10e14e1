"""The harness, and for every exercise: its solution passes, its stub and wrong answers do not."""

import ast
import copy
import inspect
import itertools
import math
import pickle
import re
import sys
from functools import cache

import numpy as np
import pytest
import torch

from book import CHAPTERS, ROOT, code_cells, load, parsed
from hostile import Same
from linear_time import exercises
from linear_time.exercises import (
    Calls,
    Operations,
    Wrong,
    check,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    no_derivatives,
    predict,
    selective,
    shown,
)


def exercise_labels(path):
    text = "\n".join(c.source for c in parsed(path).cells if c.cell_type == "markdown")
    return re.findall(r"(?:```|:::)\{exercise\}[^\n]*\n:label:\s*(\S+)", text)


#: What an exercise asks for; all but the written ones have a check.
KINDS = ["proof", "figure", "estimate", "train", "audit", "code", "bug", "written", "project"]


def statement(path, name):
    """The index of an exercise's cell among the notebook's, which stay as they are, and these."""
    cells = parsed(path).cells
    (index,) = (i for i, c in enumerate(cells) if f":label: {name}\n" in c.source)
    return index, cells


def kind(path, name):
    index, cells = statement(path, name)
    found = re.search(r"\*\*Kind:\*\* (\w+)", cells[index].source)
    return found[1] if found else None


NAMES = [(path, label) for path in CHAPTERS for label in exercise_labels(path)]
KIND = {name: kind(path, name) for path, name in NAMES}
CHECKED = [(path, name) for path, name in NAMES if KIND[name] != "written"]
#: These train for many seconds at every check.
LONG = ("01-train", "19-train")
EXPLAINED = [(path, name) for path, name in NAMES if KIND[name] in ("written", "train", "project")]
each_exercise = pytest.mark.parametrize(
    ("path", "name"), CHECKED, ids=[name for _, name in CHECKED]
)


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
    """Execute the imports and the ``tag`` cell that checks ``name``; the answer that it binds.

    What a solution's own check says there, nbval compares.
    """
    cells = [c for c in code_cells(path, tag) if name in checked(c)]
    assert len(cells) == 1, f"{name}: expected one {tag} cell that checks it, found {len(cells)}"
    namespace: dict = {"__name__": "student"}
    for cell in [*code_cells(path, "imports"), cells[0]]:
        exec(compile(cell.source, str(path.name), "exec"), namespace)
        if tag == "solution":
            namespace["check"] = lambda *_, **__: True
    return namespace[checked(cells[0])[name]]


def nowhere():
    """Modules that cannot be imported, because somebody has said so."""
    return {name for name, module in sys.modules.items() if module is None}


@pytest.fixture(autouse=True)
def default_dtype():
    """A chapter may set the default to float64, or hide a package: the next test has both back."""
    before, hidden = torch.get_default_dtype(), nowhere()
    yield
    torch.set_default_dtype(before)
    for name in nowhere() - hidden:
        del sys.modules[name]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_every_chapter_has_four_exercises_or_more(path):
    assert len(exercise_labels(path)) >= 4


def test_every_registered_check_belongs_to_a_notebook():
    for topic in exercises.CHAPTERS.values():
        __import__(f"linear_time.exercises.{topic}")
    in_notebooks = {name for _, name in CHECKED}
    assert {name for name in exercises.CHECKS if not name.startswith("99-")} == in_notebooks


@each_exercise
def test_a_check_draws_its_cases(path, name):
    """A grader gives other seeds than that of practice."""
    __import__(f"linear_time.exercises.{exercises.CHAPTERS[name[:2]]}")
    assert list(inspect.signature(exercises.CHECKS[name]).parameters) == ["answer", "cases"]


@pytest.mark.parametrize(("path", "name"), NAMES, ids=[name for _, name in NAMES])
def test_exercise_states_objective_kind_difficulty_and_time(path, name):
    index, cells = statement(path, name)
    for word in ("**Objective:**", "**Difficulty:** ●", "**Time:**"):
        assert word in cells[index].source, f"{name} does not state {word}"
    assert KIND[name] in KINDS, f"{name} states no kind"


@pytest.mark.parametrize(("path", "name"), EXPLAINED, ids=[name for _, name in EXPLAINED])
def test_what_is_graded_as_prose_has_a_rubric(path, name):
    """Folded, in a cell of its own, so that a handout can leave it out; its points add up."""
    index, cells = statement(path, name)
    own = itertools.takewhile(lambda c: "{exercise}" not in c.source, cells[index + 1 :])
    rubrics = [c for c in own if "rubric" in c.metadata.get("tags", [])]
    assert len(rubrics) == 1, f"{name}: expected one cell tagged rubric, got {len(rubrics)}"
    source = rubrics[0].source
    assert rubrics[0].cell_type == "markdown"
    assert source.startswith("<details><summary>Rubric</summary>\n\n")
    assert source.endswith("\n\n</details>")
    points = [int(n) for n in re.findall(r"^- \*\*(\d+)\*\* ", source, re.MULTILINE)]
    total = re.findall(r"^- \*\*of (\d+)\*\*", source, re.MULTILINE)
    assert len(points) >= 2 and [str(sum(points))] == total, f"{name}: {points} are not {total}"


@pytest.mark.parametrize("name", LONG)
def test_solution_passes(name):
    """On cases that a grader draws; what a notebook prints of practice, nbval compares.

    Of all other exercises ``test_verdicts.py`` asks it, where it counts what they are asked.
    """
    (path,) = (path for path, other in CHECKED if other == name)
    solution = answer(path, name, "solution")
    assert check(name, solution, seed=1, reveal=False, quiet=True)


@each_exercise
def test_stub_is_not_attempted(path, name):
    result = check(name, answer(path, name, "stub"))
    assert not result and not result.attempted


@each_exercise
def test_wrong_answers_fail(path, name):
    answer(path, name, "stub")  # the chapter's default dtype
    wrong = wrong_answers(path).get(name, [])
    assert len(wrong) >= 3, f"{name}: expected three wrong answers or more, got {len(wrong)}"
    for candidate in wrong:
        result = check(name, candidate)
        label = getattr(candidate, "__name__", repr(candidate))
        assert not result, f"{name} accepts {label}"
        assert result.attempted, f"{name} takes {label} for not attempted"
        assert len(result.message) > 30
        hidden = check(name, candidate, seed=2, reveal=False, quiet=True)
        assert not hidden, f"{name} accepts {label} by chance"


@pytest.mark.parametrize(("share", "right"), [(0.89, False), (0.9, True)])
def test_a_trained_copier_is_judged_by_its_share(monkeypatch, share, right):
    """Given, not trained: what a training reaches is one machine's to the last digits."""
    monkeypatch.setattr(selective, "accuracy", lambda *_: (share, 0.0))
    weights = selective.copier().float().state_dict()
    assert bool(check("16-train", lambda: weights, quiet=True)) == right


@each_exercise
def test_what_equals_everything_fails(path, name):
    """Itself, as what a function returns, and in a pair of such."""
    for candidate in (Same(), lambda *_: Same(), lambda *_: (Same(), Same()), [Same(), Same()]):
        result = check(name, candidate, quiet=True)
        assert not result and result.attempted


# ---- the harness itself


@pytest.fixture
def double():
    @exercise("99-double")
    def double_check(answer, cases):
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
    assert "For x = 2: expected 4, got 2: half of that." in capsys.readouterr().out
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
    expect_close(0.5 + 0j, 0.5, given="x")
    for other in (0.6, torch.tensor([0.5]), float("inf"), None, 0.5 + 1j):
        with pytest.raises(Wrong, match="For x"):
            expect_close(other, 0.5, given="x")


def message(function, *arguments, **settings):
    with pytest.raises(Wrong) as wrong:
        function(*arguments, **settings)
    return str(wrong.value)


def test_a_message_names_the_first_entry_that_differs():
    want = torch.arange(46.0).reshape(2, 23)
    have = want.clone()
    have[0, 3] = 0.25
    have[1, 22] = -724.6
    assert message(expect_close, have, want, "46 numbers") == (
        "For 46 numbers: expected 3, got 0.25 at entry [0, 3], the first of 2 that differ "
        "(the largest difference is 770)."
    )
    have[1, 22] = 45
    assert "at entry [0, 3], the only one (the largest difference is 2.8)" in message(
        expect_close, have, want, "46 numbers"
    )
    have[0, 3] = math.nan
    assert "expected 3, got nan at entry [0, 3]" in message(expect_close, have, want, "x")
    short = message(expect_close, [1.0, 2.5], torch.tensor([1.0, 2.0]), "x")
    assert short == (
        "For x: expected 2, got 2.5 at entry [1], the only one (the largest difference is 0.5)."
    )


def test_a_message_tells_two_close_numbers_apart():
    assert (
        message(expect_close, 1 + 3e-8, 1.0, "x", rtol=0.0) == "For x: expected 1, got 1.00000003."
    )
    assert message(expect_equal, 0.1 + 0.2, 0.3, "x") == (
        "For x: expected 0.29999999999999999, got 0.30000000000000004."
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(770.0, "770"), (1e6, "1000000"), (-3.0, "-3"), (1234567.25, "1234567"), (0.5, "0.5"),
     (2 / 3, "0.666667"), (1e-9, "1e-09"), (1e20, "1e+20"), (math.inf, "inf"), (7, "7"),
     (True, "True"), ((2.0, 1), "(2, 1)"), ((5,), "(5,)"), ([1.0, None], "[1, None]"),
     (1 - 2.5j, "1 - 2.5j"), (torch.tensor([1.0, 2.5]), "[1, 2.5]"), (torch.tensor(4.0), "4"),
     (torch.zeros(3, 5), "a tensor of shape (3, 5)"), ("word", "'word'")],
)  # fmt: skip
def test_values_are_shown_short_and_whole_numbers_whole(value, text):
    assert shown(value) == text


def test_expect_and_expect_equal():
    import numpy as np

    expect(True, "never")
    for right in ([1, 2], np.array([1, 2]), torch.tensor([1, 2])):
        expect_equal(right, [1, 2], given="x")
    expect_equal(torch.tensor(7), 7, given="x")
    with pytest.raises(Wrong, match="because"):
        expect(False, "because")
    assert message(expect_equal, "b", "a", given="x") == "For x: expected 'a', got 'b'."
    assert message(expect_equal, 769.0, 770, given="x") == "For x: expected 770, got 769."
    assert message(expect_equal, [4, 5, 6, 6], [4, 5, 7, 7], given="x") == (
        "For x: expected [4, 5, 7, 7], got [4, 5, 6, 6]; "
        "the first entry that differs is [2], expected 7, got 6."
    )


def test_expect_finds_bug():
    def good(x):
        return x + 1

    def student(f):
        assert f(1) == 2

    bugs = {"adds nothing": lambda x: x}
    expect_finds_bug(student, good, bugs)
    for what in ("implementation", "layer"):  # no article, which would depend on the word
        assert message(expect_finds_bug, lambda f: None, good, bugs, what) == (
            f"Your test accepts a wrong {what}, with this bug: adds nothing."
        )
    with pytest.raises(Wrong, match=r"rejects the right implementation\.$"):
        expect_finds_bug(student, lambda x: x, {})


def test_calls_to_torch_are_counted_by_name():
    x = torch.ones(3)
    with Calls() as calls:
        (x + 1).cumsum(0)
    x.exp()
    assert calls.names == ["add", "cumsum"]
    with pytest.raises(Wrong, match="at most 3 calls"), Calls(most=3):
        while True:
            x = x + 1


def test_operations_are_counted_where_a_call_hides_them():
    """A product of many matrices is one call."""
    many = [torch.eye(2) for _ in range(20)]
    with Calls() as calls, Operations() as made:
        torch.linalg.multi_dot(many)
    assert len(calls.names) == 1 and made.number >= 19
    with pytest.raises(Wrong, match="at most 5 operations"), Operations(most=5):
        torch.linalg.multi_dot(many)


@pytest.mark.parametrize(
    "leaves",
    [
        lambda x: x.tolist(),
        lambda x: x[0].item(),
        lambda x: x.numpy(),
        lambda x: float(x[0]),
        lambda x: int(x[0]),
        lambda x: np.asarray(x),
        lambda x: np.from_dlpack(x),
        lambda x: bytes(x.untyped_storage()),
        lambda x: pickle.dumps(x),
        lambda x: copy.deepcopy(x.data).numpy(),
    ],
)
def test_numbers_do_not_leave_a_tensor_unseen(leaves):
    x = torch.arange(3.0)
    leaves(x)
    with Calls():
        leaves(x)
    with pytest.raises(Wrong, match="Expected numbers that stay in tensors"), Calls(closed=True):
        leaves(x)
    with Calls(closed=True):
        assert len(x) == 3 and x.shape == (3,) and x.dtype == torch.float32
        torch.where(x > 1, x, -x).sum()


def test_neither_autograd_nor_torch_func_gives_a_derivative_where_it_is_forbidden():
    x = torch.ones(3, requires_grad=True)
    with no_derivatives():
        assert not (2 * x).requires_grad
        with pytest.raises(Wrong, match="no derivative"):
            torch.func.grad(lambda t: t.exp().sum())(torch.ones(3))
    assert (2 * x).requires_grad


def test_a_test_that_only_counts_how_often_it_ran_finds_no_bug():
    runs = []

    def counts(f):
        runs.append(f)
        assert len(runs) == 1

    with pytest.raises(Wrong, match="rejects the right implementation"):
        expect_finds_bug(counts, abs, {"changes the sign": lambda x: -abs(x)})


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
     (math.inf, "inf"), (1e-5, "1e-05"), (769.6, "770"), (1e20, "1e+20")],
)  # fmt: skip
def test_a_measured_number_is_readable(capsys, measured, text):
    predict("x", None, measured)
    assert capsys.readouterr().out == f"x:\n  measured {text}\n"
