"""What every public function asks of its arguments: each rule alone, at its border."""

import math

import numpy as np
import pytest
import torch

from linear_time import _validate, checks

pytestmark = pytest.mark.bad_input
NAN, INF = float("nan"), float("inf")


def refused(error, match, call, *arguments, **named):
    with pytest.raises(error, match=match):
        call(*arguments, **named)


@pytest.mark.parametrize(
    "right", [1, 0.5, np.float32(2), np.int64(3), torch.tensor(2.0), torch.tensor(3), 2**63 - 1]
)
def test_a_number(right):
    _validate.number("x", right)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        *((v, TypeError) for v in (True, "1", None, [1.0], 1j, np.complex64(1), np.bool_(True))),
        *((torch.tensor(v), TypeError) for v in ([2.0], [[2.0]], True, 1j, [1.0, 2.0])),
        *((v, ValueError) for v in (0, -1, NAN, INF, -INF, 2**63, -(2**63), 10**400, 0.0)),
        *((torch.tensor(v), ValueError) for v in (0.0, NAN, -2)),
    ],
)
def test_no_number(wrong, error):
    refused(error, r"^x: expected a finite number > 0, got ", _validate.number, "x", wrong)


def test_a_number_s_border():
    _validate.number("x", 0, or_equal=True)
    _validate.number("x", 2, above=2, or_equal=True)
    refused(ValueError, r"> 2, got 2$", _validate.number, "x", 2, above=2)
    refused(ValueError, r">= 2, got 1.9$", _validate.number, "x", 1.9, above=2, or_equal=True)


def test_a_count():
    for right in (1, 7, np.int32(4), 2**63 - 1):
        found = _validate.count("n", right)
        assert type(found) is int and found == right
    for wrong in (0, -1, 2**63, np.int64(0)):
        refused(ValueError, r"^n: expected a whole number >= 1", _validate.count, "n", wrong)
    refused(ValueError, "of 64 bits, got", _validate.count, "n", 2**63)
    for wrong in (True, 1.0, "1", None, torch.tensor(1), np.float64(1)):
        refused(TypeError, r"^n: expected a whole number >= 1", _validate.count, "n", wrong)


def test_a_seed():
    for right in (0, 5, np.int64(3), 2**63 - 1):
        assert type(_validate.seed("seed", right)) is int and _validate.seed("seed", right) == right
    for wrong in (-1, 2**63):
        refused(ValueError, r"^seed: expected a whole number >= 0", _validate.seed, "seed", wrong)
    for wrong in (False, 1.0, "x", None, torch.tensor(1)):
        refused(TypeError, r"^seed: expected a whole number", _validate.seed, "seed", wrong)


def test_kinds_of_tensors():
    real, z, whole = torch.ones(2), torch.ones(2, dtype=torch.complex64), torch.ones(2).int()
    for value, right in (
        (real, {"real", "inexact"}),
        (z, {"complex", "inexact"}),
        (whole, {"whole"}),
        (whole.long(), {"whole"}),
        (whole.short(), set()),
        (real > 0, {"bool"}),
        ([1.0, 1.0], set()),
    ):
        for kind in _validate.KINDS:
            if kind in right:
                assert _validate.layout("x", value, "n", kind=kind) == (2,)
            else:
                refused(TypeError, r"^x: expected a", _validate.layout, "x", value, "n", kind=kind)
    _validate.inexact("x", z)
    refused(TypeError, "a floating-point tensor", _validate.inexact, "x", z, real=True)
    refused(TypeError, "or complex tensor", _validate.inexact, "x", whole)


def test_layouts():
    x = torch.ones(2, 3, 4)
    assert _validate.layout("x", x, "batch", 3, "d") == (2, 3, 4)
    assert _validate.layout("x", x, "…", 4) == _validate.layout("x", x, "…", 2, 3, 4) == (2, 3, 4)
    assert _validate.layout("x", torch.ones(4), "…", 4) == (4,)
    for sizes in (("batch", 3), ("b", 3, 4, "d"), ("b", 2, 4), (3, 3, 4), ("…", "n", 3, 4, 1)):
        refused(ValueError, r"^x: expected shape \(", _validate.layout, "x", x, *sizes)
    empty = torch.ones(2, 0)
    refused(ValueError, "without empty dimensions", _validate.layout, "x", empty, "b", "n")
    assert _validate.layout("x", empty, "b", "n", filled=False) == (2, 0)
    refused(ValueError, "finite values, got 1 that", _validate.layout, "x", torch.tensor([NAN]), 1)
    with checks(values=False):
        assert _validate.layout("x", torch.tensor([INF]), 1) == (1,)


def test_square_shaped_sequence():
    assert _validate.square("A", torch.eye(3)) == 3
    for wrong in (torch.ones(3), torch.ones(2, 3), torch.ones(0, 0), torch.ones(2, 2, 2)):
        refused(ValueError, r"^A: expected a square matrix", _validate.square, "A", wrong)
    refused(TypeError, "floating-point tensor", _validate.square, "A", torch.eye(2).cfloat(), True)
    _validate.shaped("B", torch.ones(2, 3), (2, 3))
    refused(ValueError, r"expected shape \(3,\), got", _validate.shaped, "B", torch.ones(2), (3,))
    refused(ValueError, r"expected shape \(2,\)", _validate.shaped, "B", torch.ones(2, 1), (2,))
    assert _validate.sequence("x", torch.ones(2, 5)) == 5
    for wrong in (torch.tensor(1.0), torch.ones(2, 0)):
        refused(ValueError, "length >= 1", _validate.sequence, "x", wrong)


def test_tokens_and_padding():
    _validate.tokens("t", torch.tensor([[0, 4]]), ("batch", "length"), 5)
    for wrong in ([[0, 5]], [[-1, 0]], [0, 1], [[0.0]], [[]]):
        call = (_validate.tokens, "t", torch.tensor(wrong), ("batch", "length"), 5)
        refused(ValueError, r"in 0 … 4", *call)
    with checks(values=False):
        _validate.tokens("t", torch.tensor([[7]]), ("batch", "length"), 5)
    yes, no = True, False
    _validate.left_padding("m", torch.tensor([[no, yes], [yes, yes]]), (2, 2))
    for wrong in ([[yes, no]], [[no, no]], [[no, yes, no]]):
        rows = torch.tensor(wrong)
        refused(ValueError, "padding at the left", _validate.left_padding, "m", rows, rows.shape)


def test_masks_states_widths():
    _validate.mask("m", torch.ones(1, 3, dtype=torch.bool), 2, 3)
    _validate.mask("m", torch.ones(3, dtype=torch.bool), 2, 3)
    for shape in ((2, 2), (1, 2, 3), (2, 3, 1)):
        wrong = torch.ones(shape, dtype=torch.bool)
        refused(ValueError, "broadcasts to it", _validate.mask, "m", wrong, 2, 3)
    refused(TypeError, "a bool tensor", _validate.mask, "m", torch.ones(2, 3), 2, 3)
    _validate.state("h", torch.tensor([[NAN]]), 1, 1)  # steps are not searched
    for wrong in (torch.ones(1), torch.ones(1, 1).long(), torch.ones(1, 1).cfloat(), None):
        refused(ValueError, r"^h: expected a floating", _validate.state, "h", wrong, 1, 1)
    _validate.state("h", torch.ones(1, 1).cfloat(), 1, 1, kind="complex")
    _validate.width("x", torch.ones(2, 3), 3)
    for wrong in (torch.ones(3, 2), torch.tensor(3.0), None, [1, 2, 3]):
        refused(ValueError, r"^x: expected shape \(…, 3\)", _validate.width, "x", wrong, 3)


def test_precisions():
    half, single, double = (torch.ones(1, dtype=d) for d in (torch.half, torch.float, torch.double))
    assert _validate.same_precision(a=double, b=double.cdouble()) == torch.complex128
    assert _validate.same_precision(a=single, b=single) == torch.float32
    refused(
        TypeError, r"^b: expected the precision of a", _validate.same_precision, a=single, b=half
    )
    assert _validate.full_precision(a=half, b=single) == torch.float32
    assert _validate.full_precision(a=half) == torch.float32
    assert _validate.full_precision(a=half, b=single.cfloat()) == torch.complex64
    refused(TypeError, r"^b: expected the pr", _validate.full_precision, a=half, b=double)
    for dtype, wanted in (
        (torch.complex32, torch.float16),
        (torch.complex64, torch.float32),
        (torch.complex128, torch.float64),
        (torch.bfloat16, torch.bfloat16),
    ):
        assert _validate.precision(dtype) == wanted


def test_first_states():
    x = torch.ones(2, 5)
    zero = _validate.initial_state(None, x, 3, torch.float64)
    assert zero.shape == (2, 3) and zero.dtype == torch.float64 and not zero.any()
    for shape in ((3,), (2, 3)):
        found = _validate.initial_state(torch.ones(shape), x, 3, torch.float32)
        assert found.shape == (2, 3) and (found == 1).all()
    assert _validate.initial_state(torch.ones(3).cfloat(), x, 3, torch.float32).is_complex()
    for shape in ((2,), (5, 3), (2, 5, 3), ()):
        wrong = torch.ones(shape)
        refused(ValueError, "initial_state", _validate.initial_state, wrong, x, 3, torch.float32)
    call = (_validate.initial_state, torch.ones(3).cfloat(), x, 3, torch.float32)
    refused(TypeError, "initial_state", *call, real=True)


def test_words():
    _validate.one_of("rule", "a", ("a", "b"))
    refused(
        ValueError, r"^rule: expected one of a, b, got 'c'$", _validate.one_of, "rule", "c", "ab"
    )
    assert _validate.shape_text((3,)) == "(3,)" and _validate.shape_text(("b", 2)) == "(b, 2)"
    assert _validate.describe(torch.ones(2)) == "a float32 tensor of shape (2,)"
    assert _validate.describe(torch.ones(2).long()) == "an int64 tensor of shape (2,)"
    assert _validate.describe(np.float64(2.5)) == "2.5" and _validate.describe("x") == "'x'"
    assert _validate.describe([1]) == "a list" and _validate.describe(object()) == "an object"
    assert _validate.describe(torch.tensor(3)) == "3"


def test_searches():
    """Where values are searched, and for how long the switch holds."""
    _validate.positive("x", torch.tensor([1e-300], dtype=torch.float64))
    refused(ValueError, "smallest entry of 0", _validate.positive, "x", torch.tensor([0.0, 1.0]))
    assert _validate.searched()
    with _validate.inner():
        assert not _validate.searched()
        with _validate.inner():
            pass
        assert not _validate.searched()
        _validate.finite("x", torch.tensor([NAN]))
        _validate.positive("x", torch.tensor([-1.0]))
    assert _validate.searched()
    with checks(values=False):
        assert not _validate.searched()
        with checks(values=True):
            assert _validate.searched()
        assert not _validate.searched()
    assert _validate.searched()
    refused(TypeError, "values: expected True or False", checks, values=1)
    assert _validate.searched()
    wrong = torch.tensor([NAN, 1.0, math.inf])
    refused(ValueError, "got 2 that are NaN or infinite among 3", _validate.finite, "x", wrong)
