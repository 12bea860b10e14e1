"""What every check puts to an answer, how close it looks, and whether it looks at every call.

    python tests/test_verdicts.py [--new]    (or the names of exercises)

writes ``verdicts.json`` anew, or what is new alone; it is looked through and committed. By a seed a
check always gives the same cases: a grader who asks again, or another version, must not give other
marks. So the file keeps for every exercise how often the right answer is called by the seed of
practice, a number of all that it is given (of a lab: of what the implementations return), whether
another seed gives others, and a number of all that the check compares with: what is right, which
slips are told apart, in which words, how close. Of answers that are right but for a factor it keeps
the largest error that is accepted, in powers of ten, and the calls at which a large one is. What
weights that were trained bear, the arithmetic of a machine decides: of them it keeps none.
"""

import contextlib
import functools
import inspect
import json
import math
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
import sympy as sp
import torch
from torch import Tensor, nn
from torch.utils._mode_utils import no_dispatch

from book import ROOT
from linear_time.exercises import CHAPTERS, check
from linear_time.exercises.labs import inside
from test_exercises import CHECKED, KIND, LONG, answer, default_dtype

__all__ = ["default_dtype"]
FILE = ROOT / "tests" / "verdicts.json"
LARGE = 0.3
POWERS = range(-13, 0)
SHORT = [(path, name) for path, name in CHECKED if name not in LONG]


def number(value: Any) -> float:
    """One number of a value, of all its entries and their order; never negative."""
    if isinstance(value, Tensor):
        x = value.detach()
        x = torch.cat([x.real.flatten(), x.imag.flatten()]) if x.is_complex() else x.flatten()
        x = x.double().nan_to_num(7.0, 1e9, -1e9)
        own = torch.log1p(x.abs() + 0.5 * x) * torch.linspace(0.5, 1.5, max(1, len(x)))[: len(x)]
        return (own.mean().item() if len(x) else 0.0) + number(list(value.shape))
    if isinstance(value, (tuple, list)):
        return sum((1 + 0.1 * (i % 9)) * number(v) for i, v in enumerate(value)) + 0.1
    if isinstance(value, dict):
        return number([*map(str, value), *value.values()])
    if isinstance(value, str):
        return zlib.crc32(value.encode()) % 997 / 997
    if isinstance(value, (int, float, complex, sp.Number)):
        value = complex(value)
        parts = [v if math.isfinite(v) else 1e9 for v in (value.real, value.imag)]
        return sum(math.log1p(abs(v) + 0.5 * v) for v in parts)
    return 0.25


def off(value: Any, by: float) -> Any:
    """The value, wrong by a factor 1 + by; what is counted or named only where that is large."""
    if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
        return value * (1 + by)
    if isinstance(value, bool):
        return value ^ (by >= LARGE)
    if isinstance(value, Tensor):
        if value.dtype == torch.bool:
            return value ^ (by >= LARGE)
        return value + int(by >= LARGE)
    if isinstance(value, int):
        return value + int(by >= LARGE)
    if isinstance(value, (float, complex)):
        return value * (1 + by)
    if isinstance(value, sp.Expr):
        return value * (1 + sp.Float(by, 30))
    if isinstance(value, (tuple, list)):
        parts = [off(part, by) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {key: off(part, by) for key, part in value.items()}
    if isinstance(value, str):
        return value + "x" * (by >= LARGE)
    return value


#: What a check says its verdict with; the answer's part is the first argument.
SAYS = (
    *("expect", "expect_close", "expect_equal", "expect_finds_bug", "expect_lines"),
    *("expect_parts", "expect_quantity", "expect_quote", "expect_reading"),
)
CLOSE = ("rtol", "atol", "factor")


def compared(name: str, value: Any) -> float:
    """One number of an argument of these: of a text its words, of a slip what it would give."""
    if isinstance(value, str):
        words = re.sub(r"0x[0-9a-f]+|[-+]?\d[\d.,e+-]*", "#", value)
        return zlib.crc32(words.encode()) % 997 / 997
    if name in CLOSE and isinstance(value, (int, float)) and value > 0:
        return abs(math.log10(value)) + 1
    if isinstance(value, dict):
        return sum(compared("", k) * (1 + compared("", v)) for k, v in value.items())
    if inspect.isfunction(value):
        try:
            return number(value())
        except Exception:  # it needs arguments, or is a bug to be found
            return 0.25
    return number(value)


@contextlib.contextmanager
def heard() -> Iterator[list[float]]:
    """What all checks say their verdicts with, as numbers."""
    numbers: list[float] = []

    def hears(function: Callable) -> Callable:
        names = list(inspect.signature(function).parameters)

        @functools.wraps(function)
        def says(*given: Any, **named: Any) -> Any:
            parts = {**dict(zip(names, given, strict=False)), **named}
            parts.pop(names[0])
            own = sum((1 + 0.1 * i) * compared(n, v) for i, (n, v) in enumerate(parts.items()))
            numbers.append(own)
            return function(*given, **named)

        return says

    with pytest.MonkeyPatch.context() as patch:
        for module in [m for n, m in sys.modules.items() if n.startswith("linear_time.exercises")]:
            for name in SAYS:
                if name in vars(module) and "verdicts" not in module.__name__:
                    patch.setattr(module, name, hears(vars(module)[name]))
        yield numbers


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """Inside, a check that counts operations is told of none."""
    with torch._C.DisableTorchFunction(), no_dispatch():
        yield


class Watched:
    """An answer that tells what it is given, and is wrong where it is asked to be."""

    def __init__(self, solution: Callable, lab: bool, by: float = 0, at: int | None = None):
        self.solution, self.lab, self.by, self.at = solution, lab, by, at
        self.calls, self.given = 0, 0.0
        self.heard: set[nn.Module] = set()

    def function(self) -> Callable:
        @functools.wraps(self.solution)
        def watched(*given: Any, **named: Any) -> Any:
            return self.test(*given) if self.lab else self.call(*given, **named)

        return watched

    def saw(self, value: Any) -> None:
        with unseen():
            self.given += (1 + 0.1 * (self.calls % 7)) * number(value)

    def due(self) -> bool:
        return self.at in (None, self.calls - 1)

    def call(self, *given: Any, **named: Any) -> Any:
        self.saw([*given, *sorted(named), *(named[key] for key in sorted(named))])
        self.calls += 1
        wrong = self.by if self.due() else 0  # before a call inside
        made = self.solution(*given, **named)
        with unseen():
            return off(made, wrong) if wrong else made

    def hear(self, module: nn.Module) -> None:
        """What a layer gives where it is called."""
        if (real := inside(module)) not in self.heard:
            self.heard.add(real)
            real.register_forward_hook(lambda module, given, made: self.saw(made))

    def test(self, implementation: Any) -> None:
        """Of a lab: its verdict is turned, where it is asked to be wrong."""
        self.calls += 1

        def told(*given: Any, **named: Any) -> Any:
            made = implementation(*given, **named)
            if isinstance(made, nn.Module):
                self.hear(made)
            self.saw(made)
            return made

        plain = callable(implementation) and not isinstance(implementation, nn.Module)
        if isinstance(implementation, nn.Module):
            self.hear(implementation)
        found = None
        try:
            self.solution(told if plain else implementation)
        except AssertionError as error:
            found = error
        if (found is None) == bool(self.by and self.due()):
            raise found or AssertionError
        return


def measured(name: str, solution: Any, all_of_it: bool) -> dict[str, Any]:
    """What the file keeps of an exercise. Its solution is right, by a grader's seed too."""
    lab = KIND[name] == "bug"
    found: dict[str, Any] = {}

    def right(by: float, at: int | None = None) -> bool:
        wrong = Watched(solution, lab, by, at).function() if callable(solution) else None
        return bool(check(name, wrong or off(solution, by), quiet=True))

    watched = Watched(solution, lab)
    import_module(f"linear_time.exercises.{CHAPTERS[name[:2]]}")
    with heard() as numbers:
        seen = check(name, watched.function() if callable(solution) else solution, quiet=True)
        if not seen:  # it looks at the answer itself: its name, its source, its code
            numbers.clear()
            assert check(name, solution, quiet=True)
    told = sum((1 + 0.01 * (i % 89)) * n for i, n in enumerate(numbers))
    found["told"] = float(f"{told:.9g}")
    other = Watched(solution, lab)
    hidden = other.function() if seen and callable(solution) else solution
    assert check(name, hidden, seed=1, reveal=False, quiet=True)
    if not seen:
        return found
    if callable(solution):
        found |= {"calls": watched.calls, "given": float(f"{watched.given:.9g}")}
        found["drawn"] = not math.isclose(watched.given, other.given, rel_tol=1e-7)
    if not all_of_it:
        return found
    if callable(solution):
        some = range(found["calls"])
        asked = sorted({*some[:4], *some[-2:]})
        found["unseen calls"] = [at for at in asked if right(LARGE, at)]
    if KIND[name] not in ("bug", "train"):
        low, high = POWERS.start - 1, POWERS.stop  # accepted at low, refused at high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if right(3 * 10.0**middle) else (low, middle)
        found["accepts"] = low
    return found


KEPT = json.loads(FILE.read_text(encoding="utf8")) if FILE.exists() else {}


@pytest.mark.parametrize(("path", "name"), SHORT, ids=[name for _, name in SHORT])
def test_a_check_asks_what_it_asked_and_looks_as_close(path, name):
    kept = dict(KEPT[name])
    now = measured(name, answer(path, name, "solution"), kept.pop("whole"))
    for key, says in (("given", "gives other cases"), ("told", "compares with something else")):
        there = now.pop(key, None)
        if key in kept:
            assert there == pytest.approx(kept.pop(key), rel=1e-5), (
                f"{name} {says}: if that is meant, write {FILE.name} anew"
            )
    assert now == kept, f"{name}: if that is meant, write {FILE.name} anew"


def test_the_file_is_of_all_exercises():
    assert sorted(KEPT) == sorted(name for _, name in SHORT)
    assert not [name for name, row in KEPT.items() if "told" not in row]


def main() -> int:
    named = set(sys.argv[1:]) - {"--new"}
    kept = "--new" in sys.argv or named
    rows = {n: KEPT[n] for _, n in SHORT if n in KEPT and kept and n not in named}
    for path, name in SHORT:
        if name in rows:
            continue
        torch.set_default_dtype(torch.float32)
        solution = answer(path, name, "solution")
        begin = time.perf_counter()
        check(name, solution, quiet=True)
        whole = time.perf_counter() - begin < 0.1
        rows[name] = {"whole": whole, **measured(name, solution, whole)}
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    FILE.write_text("{\n" + lines + "\n}\n", encoding="utf8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
