"""The harness of the exercises: what it draws, what it tells, and answers that are hostile."""

import contextlib
import copy
import inspect
import math
import signal
import threading
import time

import numpy as np
import pytest
import sympy as sp
import torch
from torch import nn

from hostile import HOSTILE, Same
from linear_time import exercises
from linear_time.exercises import (
    Calls,
    Cases,
    Wrong,
    check,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    expect_parts,
    instrument,
    plain,
)
from linear_time.exercises.cases import INSTRUMENTS
from linear_time.exercises.labs import neutral
from linear_time.exercises.verdicts import masked, shown, telling


@pytest.fixture
def register():
    """Checks for one test."""
    before = dict(exercises.CHECKS)
    yield exercise
    exercises.CHECKS.clear()
    exercises.CHECKS.update(before)


def message(function, *arguments, **settings):
    with pytest.raises(Wrong) as wrong:
        function(*arguments, **settings)
    return str(wrong.value)


# ---- cases


def test_cases_are_those_of_their_seed():
    def all_kinds(seed):
        c = Cases(seed)
        return [c.randn(2, 3).tolist(), c.uniform(1, 2), c.integer(1, 10**9), c.choice(range(999)),
                c.shuffled(range(50))]  # fmt: skip

    assert all_kinds(None) == all_kinds(None) == all_kinds(Cases().seed)
    for one, other in zip(all_kinds(1), all_kinds(2), strict=True):
        assert one != other
    assert all_kinds(2**80) == all_kinds(2**80)


def test_cases_keep_to_what_was_asked():
    c = Cases(5)
    assert c.randn(2, 3).dtype == torch.float64 and c.randn(4, dtype=torch.float32).shape == (4,)
    assert {c.integer(1, 3) for _ in range(99)} == {1, 2, 3}
    assert all(1 <= c.uniform(1, 2) <= 2 for _ in range(99))
    things = ["a", "b", "c"]
    assert {c.choice(things) for _ in range(99)} == set(things)
    assert sorted(c.shuffled(things)) == things == ["a", "b", "c"]


def test_a_check_gets_its_cases(register):
    seeds = []
    register("99-new")(lambda answer, cases: seeds.append(cases.seed))
    check("99-new", 1)
    check("99-new", 1, seed=77)
    assert seeds == [Cases().seed, 77]


# ---- messages


def test_quiet_prints_nothing(register, capsys):
    register("99-x")(lambda answer, cases: expect_equal(answer, 3, "x"))
    assert "got 4" in check("99-x", 4, quiet=True).message
    assert capsys.readouterr().out == ""


def test_a_value_that_was_expected_is_not_told(register):
    register("99-close")(lambda answer, cases: expect_close(answer(), 4.75, "the exponent"))
    register("99-equal")(lambda answer, cases: expect_equal(answer["b"], 475, 'the count "b"'))
    register("99-list")(lambda answer, cases: expect_equal(answer, [475, 476, 477, 478], "four"))
    register("99-shape")(lambda answer, cases: expect_close(answer, torch.full((2,), 4.75), "two"))
    told = {
        "99-close": [(lambda: 5, "got 5, which is too large."),
                     (lambda: 1, "got 1, which is too small."),
                     (lambda: -4.75, "got -4.75: the sign is turned."),
                     (lambda: math.nan, "got nan, which is not right."),
                     (lambda: [1, 2], "got the wrong shape (2,)."),
                     (lambda: "much", "got 'much'.")],
        "99-equal": [({"b": 1}, "got 1, which is too small."),
                     ({"b": -475}, "got -475, which is right but for its sign."),
                     ({"b": "much"}, "got 'much', which is not right.")],
        "99-list": [([475, 0, 477, 478], "differs is [1], got 0, which is too small.")],
        "99-shape": [([4.75, 9.5], "got 9.5, which is too large at entry [1], the only one.")],
    }  # fmt: skip
    for name, answers in told.items():
        for answer, end in answers:
            text = check(name, answer).message
            assert text.endswith(end)
            assert "expected" not in text and "4.75" not in text.replace("-4.75:", "")


def test_a_function_is_told_what_was_expected(register):
    register("99-f")(lambda answer, cases: expect_close(answer(2), 4.75, "n = 2"))
    assert check("99-f", lambda n: 3).message.endswith("For n = 2: expected 4.75, got 3.")


def test_grading_tells_the_case_and_the_kind_and_no_value(register):
    def hidden(name, answer):
        text = check(name, answer, seed=3, reveal=False).message.removeprefix(f"{name}: ")
        assert not any(c.isdigit() for c in text.replace("x_1", "x")), text
        return text

    register("99-f")(lambda a, cases: expect_close(a(2.5), [4.75, 5], "delta = 2.5, x_1 = -3e-5"))
    register("99-g")(lambda a, cases: expect_equal(a(2.5), "left", "delta = 2.5"))
    register("99-h")(lambda a, cases: expect(a(2.5) == 1, f"Expected one of 4.75, got {a(2.5)!r}."))
    given = "not yet right. For delta = …, x_1 = …: "
    assert hidden("99-f", lambda x: [1, 2]) == f"{given}the numbers differ."
    assert hidden("99-f", lambda x: [-4.75, -5]).endswith("the sign is turned.")
    assert hidden("99-f", lambda x: [4.75]).endswith("the shape is wrong.")
    assert hidden("99-f", lambda x: "4.75").endswith("no such number.")
    assert hidden("99-g", lambda x: repr(x)).endswith("another value was expected.")
    assert hidden("99-h", lambda x: f"it was {x}") == "not yet right. Expected one of …, got …."

    class Case2(ValueError):
        pass

    def tells(x):
        raise Case2(f"the case is {x}")

    assert hidden("99-f", tells) == "not yet right. Your answer raised ValueError"


def test_masked():
    text = "For a = -1, b = 2.5e-07, x_1, h2 and 3j at [0, 12]: got 'zoh' of \"middle\", nan."
    assert masked(text) == ('For a = …, b = …, x_1, h2 and … at […, …]: got … of "middle", ….')


@pytest.mark.parametrize(
    ("got", "want", "slip"),
    [([-1.0, 2], [1.0, -2], "the sign is turned"),
     ([[1.0, 3], [2, 4]], [[1.0, 2], [3, 4]], "rows and columns are exchanged"),
     ([3.0, 2, 1], [1.0, 2, 3], "the order is reversed"),
     ([1 - 2j, 3], [1 + 2j, 3], "the sign of the imaginary part is turned"),
     ([2.0, 4], [1.0, 2], "twice that"), (0.5, 1.0, "half of that"),
     ([0.3, 0.6, 0.9], [1.0, 2, 3], "every entry is off by the factor 0.3")],
)  # fmt: skip
def test_usual_slips_are_named(got, want, slip):
    assert message(expect_close, got, want, "x").endswith(f": {slip}.")


def test_the_slips_of_a_check_are_named():
    slips = {"this is bilinear": 7.0, "this is Euler's": lambda: 8.0, "it fails": lambda: 1 / 0}
    assert message(expect_close, 7.0, 5.0, "x", slips=slips) == (
        "For x: expected 5, got 7: this is bilinear."
    )
    assert message(expect_close, 8.0, 5.0, "x", slips=slips).endswith("got 8: this is Euler's.")
    assert message(expect_close, 9.0, 5.0, "x", slips=slips).endswith("got 9.")
    assert message(expect_close, -5.0, 5.0, "x", slips={"mine": -5.0}).endswith(": mine.")
    assert message(expect_equal, 7, 5, "x", slips=slips).endswith("got 7: this is bilinear.")
    with telling(False, None):
        assert message(expect_close, 7.0, 5.0, "x", slips=slips) == "For x: this is bilinear."


# ---- hostile answers


@pytest.mark.parametrize("value", HOSTILE, ids=lambda v: type(v).__name__)
def test_hostile_values_pass_nothing(register, value):
    register("99-close")(lambda a, cases: expect_close(a(2.0), 4.0, "x = 2"))
    register("99-equal")(lambda a, cases: expect_equal(a(2.0), 4, "x = 2"))
    register("99-many")(lambda a, cases: expect_close(a(2.0), [4.0, 5], "x = 2"))
    register("99-word")(lambda a, cases: expect_equal(a(2.0), "left", "x = 2"))
    for name in ("99-close", "99-equal", "99-many", "99-word"):
        for reveal in (True, False):
            result = check(name, lambda x: value, reveal=reveal)
            assert not result and result.attempted and len(result.message) < 600, name


def test_expect_takes_no_objects_word():
    with pytest.raises(Wrong):
        expect(Same(), "it is not")
    for true in (True, 1, torch.tensor(True), np.True_, [1], sp.true):
        expect(true, "it is")


def test_plain_gives_exact_types_and_the_same_values():
    class Two(float):
        pass

    class Pair(tuple):
        pass

    x = nn.Parameter(torch.ones(2))
    for came, made in (
        (Two(2.5), 2.5), (np.float64(2.5), 2.5), (np.int8(3), 3), (True, True), (None, None),
        (Pair((1, 2)), (1, 2)), ({"a": Two(1)}, {"a": 1.0}), ({1, 2}, {1, 2}), (1j, 1j),
        (sp.Rational(1, 2), sp.Rational(1, 2)), (torch.Size([1, 2]), (1, 2)),
    ):  # fmt: skip
        assert plain(came) == made and type(plain(came)) is type(made)
    assert type(plain(x)) is torch.Tensor and not plain(x).requires_grad
    assert plain(np.array([1.0, 1e-17 + 1])).dtype == torch.float64
    assert plain(np.array(["a", "b"])) == ["a", "b"]
    f, t = sp.Function("f"), sp.symbols("t")
    assert plain(sp.diff(f(t), t)) == sp.diff(f(t), t)


def test_a_list_in_itself_ends():
    inside: list = []
    inside.append(inside)
    assert "stand in one another" in message(plain, inside)


def test_errors_of_every_kind_are_told(register):
    register("99-x")(lambda answer, cases: expect_close(answer(2.0), 4.0, "x = 2"))

    class Silent(Exception):
        def __str__(self):
            raise RuntimeError

    def raising(error):
        def answer(x):
            raise error

        return answer

    for error in (SystemExit(0), SystemExit("right"), Silent(), RecursionError(),
                  Wrong("99-x: right."), NotImplementedError("later"),
                  StopIteration(), AssertionError()):  # fmt: skip
        result = check("99-x", raising(error))
        assert not result and result.attempted and "not yet right" in result.message
    for stub in (NotImplementedError(), NotImplementedError):
        assert not check("99-x", raising(stub)).attempted
    with pytest.raises(KeyboardInterrupt):  # the reader's own
        check("99-x", raising(KeyboardInterrupt()))


# ---- bug labs


def first(x):
    return x + 1


def second(x):
    return 1 + x


class Right(nn.Linear):
    pass


class Broken(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1


def test_a_lab_is_passed_by_what_is_asserted():
    def student(f):
        assert f(1) == 2

    bugs = {"adds nothing": lambda x: x, "adds two": lambda x: x + 2}
    expect_finds_bug(student, [first, second], bugs, cases=Cases(1))
    expect_finds_bug(student, first, bugs)


def test_a_lab_gives_everything_twice_and_in_the_order_of_its_seed():
    def seen(seed):
        values = []
        rights = [lambda x, k=k: k for k in range(3)]
        bugs = {str(k): lambda x, k=k: k for k in range(3, 6)}
        with pytest.raises(Wrong):
            expect_finds_bug(lambda f: values.append(f(0)), rights, bugs, cases=Cases(seed))
        return values

    assert sorted(seen(1)) == sorted([*range(6)] * 2)
    assert seen(1) == seen(1) != seen(2)


@pytest.mark.parametrize(
    "look",
    [lambda f: f.__name__, lambda f: f.__qualname__, lambda f: f.__module__, lambda f: f.__doc__,
     lambda f: f.__code__, lambda f: inspect.getsource(f), lambda f: str(inspect.signature(f)),
     lambda f: repr(f).split(" at ")[0], lambda f: type(f), lambda f: sorted(f.__dict__)],
)  # fmt: skip
def test_a_look_at_the_object_tells_nothing(look):
    assert len({str(look(neutral(f))) for f in (first, second, lambda x: x, Broken, Right)}) == 1


@pytest.mark.parametrize(
    "look",
    [lambda m: type(m).__mro__, lambda m: m.__class__, lambda m: repr(m), lambda m: m.__module__,
     lambda m: inspect.getsource(type(m)), lambda m: m.forward.__name__, lambda m: vars(m),
     lambda m: m.forward.__qualname__, lambda m: getattr(m.forward, "__func__", None)],
)  # fmt: skip
def test_a_look_at_the_module_tells_nothing(look):
    layers = [neutral(kind)(2, 3) for kind in (Right, Broken)]
    assert str(look(layers[0])) == str(look(layers[1]))


def test_a_neutral_module_is_the_module():
    torch.manual_seed(0)
    inside = Broken(2, 3)
    layer, x = neutral(inside), torch.ones(4, 2)
    assert isinstance(layer, nn.Module) and torch.equal(layer(x), inside(x))
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert layer.double() is layer and inside.weight.dtype == torch.float64
    layer.bias = nn.Parameter(torch.zeros(3).double())
    assert torch.equal(inside.bias, torch.zeros(3))
    other = copy.deepcopy(layer)
    other.weight.data.zero_()
    assert inside.weight.abs().sum() > 0 and torch.equal(other(x.double()), torch.ones(4, 3))


def test_a_test_of_one_way_to_write_it_is_refused():
    calls = []

    def spies(f):
        with exercises.Calls() as made:
            y = f(torch.ones(3))
        calls.append(made.names)
        assert "add" in made.names and torch.equal(y, 2 * torch.ones(3))

    text = message(
        expect_finds_bug, spies, [first, lambda x: 2 * x - x + 1 - 0 if False else x - (-1)],
        {"adds two": lambda x: x + 2},
    )  # fmt: skip
    assert text == "Your test rejects a right implementation."


def test_a_crash_finds_no_bug_and_is_told():
    def crashes(f):
        if f(1) != 2:
            raise ValueError("found it")

    def leaves(f):
        if f(1) != 2:
            raise SystemExit

    for student, kind in ((crashes, "ValueError"), (leaves, "SystemExit")):
        text = message(expect_finds_bug, student, first, {"adds nothing": lambda x: x})
        assert text.startswith(f"Your test crashed with {kind} on the bug: adds nothing. Only an")
    text = message(expect_finds_bug, lambda f: 1 / 0, first, {})
    assert text.startswith("Your test crashed with ZeroDivisionError on a right implementation.")


def test_a_labs_stub_is_not_attempted(register):
    def stub(f):
        raise NotImplementedError

    register("99-lab")(lambda a, c: expect_finds_bug(a, first, {"none": lambda x: x}, cases=c))
    result = check("99-lab", stub)
    assert not result and not result.attempted


def test_chance_passes_no_lab():
    def tosses(f):
        assert torch.rand(()) < 0.5

    with pytest.raises(Wrong):
        expect_finds_bug(tosses, [first, second], {str(k): lambda x: x for k in range(6)})


def test_an_answer_that_does_not_end_is_ended(register):
    register("99-x")(lambda answer, cases: expect_close(answer(2.0), 4.0, "x = 2"))

    def endless(x):
        while True:
            with contextlib.suppress(Exception):
                x += 1

    for reveal in (True, False):
        result = check("99-x", endless, seconds=0.2, reveal=reveal)
        assert not result and result.attempted
        assert result.message.endswith("Your answer did not come to an end in its time.")
    assert check("99-x", lambda x: 2 * x, seconds=60)
    time.sleep(0.3)  # no alarm is left


def test_an_instrument_is_told_to_a_grader_while_it_is_on():
    @instrument
    def watching(most, start=0):
        yield Calls(most)

    with watching(3, start=1) as state:
        ((_, name, given, settings), known) = INSTRUMENTS[-1]
        assert known is state and state.most == 3
        assert name.endswith("watching") and (given, settings) == ((3,), {"start": 1})
    assert not INSTRUMENTS


def test_expect_parts():
    """A tuple or a list of so many parts, whatever its class says of its length."""

    class Liar(tuple):
        def __len__(self):
            return 2

    assert expect_parts((1, [2]), 2, "a pair") == (1, [2]) == expect_parts([1, [2]], 2, "a pair")
    for got in ((1,), [1, 2, 3], Liar((1, 2, 3)), "ab", {1, 2}, None, 2):
        with pytest.raises(Wrong, match=r"^Expected a pair\.$"):
            expect_parts(got, 2, "a pair")


def test_a_lab_shows_a_test_nothing_but_values():
    """A test that knows the right one by its name finds no bug, though it could."""

    def by_name(f):
        assert f.__name__ == "first"

    with pytest.raises(Wrong):
        expect_finds_bug(by_name, first, {"adds two": lambda x: x + 2})


@pytest.mark.parametrize("without", ["main thread", "alarms"])
def test_without_alarms_an_answer_is_checked_all_the_same(register, monkeypatch, without):
    register("99-x")(lambda answer, cases: expect_close(answer(2.0), 4.0, "x = 2"))
    found = []

    def ask():
        found.append(check("99-x", lambda x: 2 * x, seconds=5, quiet=True))

    if without == "alarms":
        monkeypatch.delattr(signal, "setitimer")
        ask()
    else:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert found and found[0].right


def test_an_exercise_that_is_not_there_is_told_by_those_that_are(register):
    register("99-x")(lambda answer, cases: None)
    with pytest.raises(ValueError, match=r"^name: expected .*12-theta.*99-x.*got '12-nothing'"):
        check("12-nothing", None)


@pytest.mark.parametrize("many", [1, 12, 13])
def test_a_small_tensor_is_shown_whole(many):
    says = shown(torch.arange(many))
    assert says == (str(list(range(many))) if many < 13 else "a tensor of shape (13,)")
