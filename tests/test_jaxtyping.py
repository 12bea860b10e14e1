"""The runtime shape check is on in the test run, and off where a test is marked bad_input."""

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import beartype
import jaxtyping
import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from jaxtyping import _import_hook as hook
from torch import Tensor, nn

import conftest
import linear_time
import remembered
from linear_time import attention, convolution, datasets, discretization, state_space
from linear_time.exercises import perceiver_ar as exercises

WRONG = (torch.zeros(2, 3), torch.zeros(2), 0.1)  # A is not square


def test_check_is_on():
    with pytest.raises(jaxtyping.TypeCheckError):
        discretization.forward_euler(*WRONG)


@pytest.mark.bad_input
def test_check_is_off_for_bad_input():
    with pytest.raises(ValueError, match=r"^A: expected a square matrix"):
        discretization.forward_euler(*WRONG)


def test_check_is_on_again_after_a_bad_input_test():
    with pytest.raises(jaxtyping.TypeCheckError):
        discretization.forward_euler(*WRONG)


@pytest.mark.parametrize(
    "call",
    [
        lambda: state_space.StateSpace(torch.eye(2), torch.ones(3), torch.ones(2)),
        lambda: state_space.low_pass("40"),
        lambda: convolution.kernel(torch.eye(2), torch.ones(3), torch.ones(2), 4),
        lambda: datasets.chirp(8.5),
    ],
    ids=["state_space", "state_space-number", "convolution", "datasets"],
)
def test_check_reaches_every_module(call):
    with pytest.raises(jaxtyping.TypeCheckError):
        call()


def test_what_has_types_is_checked_and_nothing_else():
    """A function without types would only be slow."""
    seen = set()
    for module in (attention, convolution, datasets, discretization, exercises, state_space):
        for function in vars(module).values():
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                wrappers, inner = [], function
                while hasattr(inner, "__wrapped__"):
                    wrappers.append(Path(inner.__code__.co_filename).name)
                    inner = inner.__wrapped__
                assert ("remembered.py" in wrappers) == bool(inner.__annotations__), function
                seen.add(bool(inner.__annotations__))
    assert seen == {True, False}


KINDS = ("", "x", "x: int", "x: int, /", "*, x: int", "*x: int", "**x: int")


def test_every_function_with_types_is_wrapped():
    """Of every module, inside of functions and of classes, too; and each class; no kernel."""
    words, kernels = set(), 0
    sources = {"kinds": "\n".join(f"def f({arguments}): ..." for arguments in KINDS)}
    for path in sorted(Path(linear_time.__file__).parent.rglob("*.py")):
        sources[path.name] = path.read_text(encoding="utf8")
    for name, source in sources.items():
        tree = ast.parse(source)
        checker = hook.Typechecker("beartype.beartype")
        hook.JaxtypingTransformer(typechecker=checker).visit(tree)
        for node in ast.walk(tree):
            assert not isinstance(node, ast.AsyncFunctionDef), "jaxtyping passes it by"
            if isinstance(node, ast.ClassDef):
                assert "jaxtyping.jaxtyped" in ast.unparse(node.decorator_list[0]), node.name
            if isinstance(node, ast.FunctionDef):
                types = [getattr(part, "annotation", None) for part in ast.walk(node.args)]
                typed = any([*types, node.returns])
                decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
                kernel = any(decorator.startswith("triton.jit") for decorator in decorators)
                wrapped = "jaxtyping.jaxtyped" in "".join(decorators)
                assert wrapped == (typed and not kernel), f"{name}: {ast.unparse(node)}"
                words.add(typed)
                kernels += typed and kernel
    assert words == {True, False} and kernels > 3


def test_what_is_compiled_is_kept_apart():
    """Another release of jaxtyping, or another text of conftest.py, does not read it."""
    own, plain = hook._optimized_cache_from_source("0", "a.py"), conftest.theirs("0", "a.py")
    assert own.removesuffix(".pyc").startswith(plain.removesuffix(".pyc"))
    assert own != plain and conftest.AS_HERE in own


# --- what has passed is remembered


class Pair(NamedTuple):
    one: Float[Tensor, " n"]
    two: Float[Tensor, " n"]


def typed(function: Callable) -> Callable:
    return remembered.remembering(typechecker=beartype.beartype)(function)


@typed
def product(
    x: Float[Tensor, "n m"],
    y: Float[Tensor, " m"] | Float[np.ndarray, " m"] | int = 1,
    *more: Float[Tensor, " n"],
    how: Literal["right", "long", "whole", "text"] = "right",
    pair: tuple[Float[Tensor, " n"], int] | Pair | nn.Linear | None = None,
) -> Float[Tensor, " n"]:
    wrong = {"long": torch.ones(len(x) + 1), "whole": torch.ones(len(x)).long(), "text": "no"}
    return wrong.get(how, torch.ones(len(x)))


X, Y = torch.ones(2, 3), torch.ones(3)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ((X,), (Y,)),
        ((X,), (X.long(),)),
        ((X,), ([[1.0]],)),
        ((X,), (X, 1.0)),
        ((X, 1), (X, "1")),
        ((X, Y), (X, torch.ones(2))),
        ((X, Y), (X, Y.numpy().astype(int))),
        ((X, Y.numpy()), (X, np.ones(2, "float32"))),
        ((nn.Parameter(X), Y), (nn.Parameter(Y), Y)),
        ((X, Y, torch.ones(2)), (X, Y, torch.ones(2), torch.ones(3))),
        ((X, Y, torch.ones(2)), (X, Y, Y)),
        (dict(x=X, y=Y), dict(y=Y)),
        (dict(x=X, y=Y), dict(y=X, x=Y)),
        (dict(x=X, how="right"), dict(x=X, how="left")),
        (dict(x=X, how="right"), dict(x=X, how=1)),
        (dict(x=X, pair=(torch.ones(2), 1)), dict(x=X, pair=(Y, 1))),
        (dict(x=X, pair=(torch.ones(2), 1)), dict(x=X, pair=(torch.ones(2), 1.0))),
        (dict(x=X, pair=(torch.ones(2), 1)), dict(x=X, pair=(torch.ones(2), 1, 1))),
        (dict(x=X, pair=Pair(X[0], X[1])), dict(x=X, pair=(X[0], X[1]))),
        (dict(x=X, pair=nn.Linear(1, 1)), dict(x=X, pair=nn.Identity())),
        (dict(x=X, pair=None), dict(x=X, pair=product)),
    ],
)
def test_what_differs_from_what_passed_is_looked_at(right: Any, wrong: Any):
    """Also at the second time; and what passed still passes."""

    def call(given: tuple | dict) -> None:
        product(**given) if isinstance(given, dict) else product(*given)

    for _ in range(2):
        call(right)
        with pytest.raises((jaxtyping.TypeCheckError, TypeError)):
            call(wrong)


@pytest.mark.parametrize("how", ["long", "whole", "text"])
def test_each_result_is_looked_at(how: str):
    """Of arguments that have passed, too: a result depends on more than they say."""
    results = [torch.ones(2)]

    @typed
    def given(x: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
        return results[0]

    for wrong in (torch.ones(3), torch.ones(2).long(), None):
        assert given(X) is results[0]
        good, results[0] = results[0], wrong
        with pytest.raises(jaxtyping.TypeCheckError, match="the return value of"):
            given(X)
        results[0] = good
    with pytest.raises(jaxtyping.TypeCheckError, match="the return value of"):
        product(X, how=how)


def test_what_passed_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch):
    """And what it calls is called once, its errors are its own, and nothing waits any more."""
    looked, called = [], []

    class Noted(remembered.Signature):
        @property
        def check(self) -> Callable:
            looked.append(1)
            return super().check

    monkeypatch.setattr(remembered, "Signature", Noted)

    @typed
    def half(x: Float[Tensor, " n"], least: int = 0) -> "Float[Tensor, ' n'] | None":
        called.append(1)
        if len(x) < 2:
            return None
        return half(x[:1], least) if len(x) == 2 else 1 / least

    for at in (1, 2):
        assert half(torch.ones(2)) is None
        assert len(called) == 2 * at and len(looked) == 2
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            half(torch.ones(3))
    with pytest.raises(jaxtyping.TypeCheckError, match="half"):
        half(torch.ones(3), 1)
    with pytest.raises(jaxtyping.TypeCheckError, match="half"):
        half(torch.ones(3, 1))
    assert half(torch.ones(1)) is None and not remembered.Signature.calls.waiting


def test_a_function_made_anew_is_remembered_with_its_own_body():
    def made(by: int, hint: Any) -> Callable:
        @typed
        def add(x: hint) -> hint:
            return x + by

        return add

    assert made(1, Int[Tensor, " n"])(torch.tensor([1])) == 2
    assert made(2, Int[Tensor, " n"])(torch.tensor([1])) == 3
    with pytest.raises(jaxtyping.TypeCheckError):
        made(2, Float[Tensor, " n"])(torch.tensor([1]))


def test_where_a_tuple_ends_is_remembered():
    @typed
    def total(pair: tuple[int, int], more: int = 0) -> int:
        return sum(pair) + more

    assert total((1, 2)) == 3
    with pytest.raises(jaxtyping.TypeCheckError):
        total((1,), 2)


def test_a_size_that_is_an_argument_s_value_is_not_remembered():
    """Of a module its class alone is remembered, of which the second is, too."""

    size = Float[Tensor, "{self.n}"]

    class Ones(nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.n = n

        @typed
        def forward(self, x: size) -> size:
            return torch.ones(2)

    for _ in range(2):
        Ones(2)(torch.ones(2))
        for n, length in ((3, 2), (3, 3), (2, 3)):
            with pytest.raises(jaxtyping.TypeCheckError):
                Ones(n)(torch.ones(length))
