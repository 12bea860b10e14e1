"""Every check with hostile answers: a verdict, never "right", no crash, no hang, no values told.

Hypothesis draws which; the values are those of ``hostile.py``, as they are and as what a function,
a module or a generator gives.
"""

import re
import sys
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hostile import HOSTILE, Same
from linear_time import exercises
from linear_time.exercises import check

for topic in exercises.CHAPTERS.values():
    import_module(f"linear_time.exercises.{topic}")
NAMES = sorted(name for name in exercises.CHECKS if not name.startswith("99-"))


class Gives(nn.Module):
    """A module, whatever it is asked."""

    def __init__(self, value=None):
        super().__init__()
        self.value, self.weight = value, nn.Parameter(torch.zeros(1))

    def forward(self, *_, **__):
        return self.value


def gives(value):
    def answer(*_, **__):
        return value

    return answer


def grows(*given, **_):
    """Writes into what it is given, and gives that back."""
    for one in given:
        if isinstance(one, torch.Tensor):
            one.mul_(0)
        elif isinstance(one, list):
            one.clear()
    return given[0] if given else None


def leaves(*_, **__):
    raise SystemExit(0)


def asks_again(*_, **__):
    # Not itself: Python 3.13.0 counts no calls of what takes *arguments, and fills the memory.
    def again():
        return again()

    return again()


def refuses(*_, **__):
    raise NotImplementedError("later")


def prints(*_, **__):
    print("12-theta: right.")
    return "right"


def replaces(*_, **__):
    """Puts another check in the place of this one."""
    exercises.check = lambda *given, **named: exercises.Result(True, True, "right")
    return None


def yields(*_, **__):
    while True:
        yield 1.0


class Raises(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def raises(*_, **__):
    raise Raises


ANSWERS = [
    *HOSTILE,
    *map(gives, HOSTILE),
    *(Gives, Gives(), Gives(Same()), Gives(torch.zeros(0))),
    *(grows, leaves, asks_again, refuses, prints, replaces, yields, raises),
    *(lambda x: x, lambda *_: (Same(), Same()), [grows, grows], {"a": Same()}, Same, gives(Same)),
]


@pytest.fixture(autouse=True)
def mended():
    """What an answer may have replaced, and the chapter's default dtype."""
    yield
    exercises.check = check
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8)
@given(data=st.data())
def test_a_hostile_answer_gets_its_verdict(name, data):
    """By the seed of practice or a hidden one, with values told or not."""
    answer = data.draw(st.sampled_from(ANSWERS))
    seed = data.draw(st.sampled_from([None, 1, 2**31]))
    reveal = data.draw(st.booleans())
    limit = sys.getrecursionlimit()
    result = check(name, answer, seed=seed, reveal=reveal, quiet=True, seconds=4)
    exercises.check = check
    assert type(result) is exercises.Result and result.right is False and not result
    assert result.attempted and result.message.startswith(f"{name}: not yet right.")
    assert answer is yields or "did not come to an end" not in result.message
    assert sys.getrecursionlimit() == limit
    if not reveal:
        told = result.message.partition("not yet right.")[2]
        assert not re.search(r"\d\.\d", told), told


@pytest.mark.parametrize("name", NAMES[:: len(NAMES) // 6])
def test_an_answer_without_end_is_ended(name):
    def loops(*_, **__):
        while True:
            pass

    result = check(name, loops, quiet=True, seconds=0.5)
    assert not result and len(result.message) > 30
