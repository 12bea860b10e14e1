"""The frame of a layer: numbers that keep their digits at both ends."""

import pytest
import torch

from linear_time.layer import Layer, inverse_softplus


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_inverse_of_softplus_at_both_ends(dtype):
    """A small Δ keeps its digits, a large one does not overflow."""
    y = torch.tensor([1e-12, 1e-6, 1e-3, 0.1, 1.0, 20.0, 1e3, 1e4], dtype=dtype)
    x = inverse_softplus(y)
    assert x.isfinite().all()
    back = torch.logaddexp(x, torch.zeros_like(x))
    eps = torch.finfo(dtype).eps
    # log(1 + eˣ) turns an error in a negative x, which is rounded, into as many parts of y
    assert ((back - y).abs() <= 40 * eps * y).all()


def test_parameters_of_one_tensor_are_two():
    """One is trained, and the other stays; the tensor is the caller's."""
    value = torch.ones(3)
    layer = Layer()
    layer.parameter("one", value)
    layer.parameter("other", value)
    with torch.no_grad():
        layer.one += 1
    assert (layer.other == 1).all() and (value == 1).all()
