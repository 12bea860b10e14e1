"""The runtime shape check is on in the test run, and off where a test is marked bad_input."""

import ast
import inspect
from pathlib import Path

import jaxtyping
import pytest
import torch
from jaxtyping import _import_hook as hook

import conftest
import linear_time
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
                    wrappers.append(Path(inner.__code__.co_filename).parent.name)
                    inner = inner.__wrapped__
                assert ("jaxtyping" in wrappers) == bool(inner.__annotations__), function
                seen.add(bool(inner.__annotations__))
    assert seen == {True, False}


KINDS = ("", "x", "x: int", "x: int, /", "*, x: int", "*x: int", "**x: int")


def test_every_function_with_types_is_wrapped():
    """Of every module, inside of functions and of classes, too; and each class."""
    words = set()
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
                wrapped = "jaxtyping.jaxtyped" in "".join(map(ast.unparse, node.decorator_list))
                assert wrapped == typed, f"{name}: {ast.unparse(node)}"
                words.add(typed)
    assert words == {True, False}


def test_what_is_compiled_is_kept_apart():
    """Another release of jaxtyping, or another text of conftest.py, does not read it."""
    own, plain = hook._optimized_cache_from_source("0", "a.py"), conftest.theirs("0", "a.py")
    assert own.removesuffix(".pyc").startswith(plain.removesuffix(".pyc"))
    assert own != plain and conftest.AS_HERE in own
