"""The runtime shape check is on in the test run, and off where a test is marked bad_input."""

import jaxtyping
import pytest
import torch

from linear_time import convolution, datasets, discretization, state_space

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
