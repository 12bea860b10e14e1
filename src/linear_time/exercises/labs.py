"""Bug labs: a student's test is run on right and on broken implementations, and must tell them apart.

An implementation comes to the test under one name, in one closure or one class, whatever it is; in an order that the
seed draws; and twice. So a test passes by what it asserts, and not by what it reads off the object, by how often it ran
or by chance. A test that searches the interpreter's memory for the object inside can still find it: a grader that must
withstand that runs the test in another process (``book/grade.py``).
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from linear_time.exercises.cases import Cases
from linear_time.exercises.verdicts import Wrong, described

_inside: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def neutral(thing: Any) -> Any:
    """The same function, class or module, of which nothing but its values tells what it is.

    A class is given as a function that makes its instances, and a module as an object that has the module's attributes.
    """
    if isinstance(thing, nn.Module):
        return Implementation(thing)
    if not callable(thing):
        return thing

    def implementation(*args: Any, **kwargs: Any) -> Any:
        made = thing(*args, **kwargs)
        return neutral(made) if isinstance(made, nn.Module) else made

    return implementation


def inside(implementation: Any) -> Any:
    """The module inside, for a grader."""
    return _inside[implementation]


class Implementation(nn.Module):
    """A module as any other: attributes and methods are those of the module inside."""

    def __init__(self, thing: nn.Module) -> None:
        _inside[self] = thing

    def __hash__(self) -> int:
        return id(self)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            return object.__getattribute__(self, name)
        thing = _inside[self]
        value = getattr(thing, name)
        if not inspect.ismethod(value) or value.__self__ is not thing:
            return value

        def method(*args: Any, **kwargs: Any) -> Any:
            made = value(*args, **kwargs)
            return self if made is thing else made  # as .double() gives

        return method

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_inside[self], name, value)

    def __deepcopy__(self, memo: Any) -> "Implementation":
        return Implementation(copy.deepcopy(_inside[self], memo))

    def __repr__(self) -> str:
        return "Implementation()"


def expect_finds_bug(
    test: Callable[[Any], Any],
    right: Any,
    bugs: Mapping[str, Any],
    what: str = "implementation",
    cases: Cases | None = None,
) -> None:
    """Fail unless the student's ``test`` passes on what is right and raises ``AssertionError`` on every bug.

    Any other exception is a crash of the test, and finds nothing.

    Args:
        test: takes an implementation and asserts something about it.
        right: the right implementation, or a list of several (written in different ways, so that a test of one way is
            found out).
        bugs: name -> wrong implementation.
        what: what is tested, for the message.
        cases: where the order is drawn from.
    """
    cases = cases or Cases()
    several = list(right) if isinstance(right, Sequence) else [right]
    rows: list[tuple[str, Any]] = [("", thing) for thing in several]
    rows += bugs.items()
    found: dict[int, list[bool]] = {n: [] for n in range(len(rows))}
    crashes: dict[int, str] = {}
    with torch.random.fork_rng(devices=[]):
        for n in cases.shuffled([*found, *found]):
            torch.manual_seed(0)
            try:
                test(neutral(rows[n][1]))
                found[n].append(False)
            except AssertionError:
                found[n].append(True)
            except (Wrong, KeyboardInterrupt):
                raise
            except (Exception, SystemExit) as error:
                if type(error) is NotImplementedError and not error.args:
                    raise  # the stub
                crashes[n] = described(error).removeprefix("an object of type ")
                found[n].append(False)
    for n, (name, _) in enumerate(rows):
        kind = f"the bug: {name}" if name else f"a right {what}"
        if n in crashes:
            raise Wrong(
                f"Your test crashed with {crashes[n]} on {kind}. Only an AssertionError says that a test found something."
            )
        if any(found[n]) and not name:
            which = "the" if len(several) == 1 else "a"
            told = f"Your test rejects {which} right {what}"
            chance = (
                "" if all(found[n]) else " one time and accepts it the other"
            )
            raise Wrong(f"{told}{chance}.")
    for n, (name, _) in enumerate(rows):
        if name and not all(found[n]):
            once = ", one time of two" if any(found[n]) else ""
            raise Wrong(
                f"Your test accepts a wrong {what}{once}, with this bug: {name}."
            )
