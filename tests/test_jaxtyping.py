"""The runtime shape check is on in the test run, and off where a test is marked bad_input."""

import inspect
from pathlib import Path

import jaxtyping
import pytest
import torch

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
