"""What a Mamba block does beside its scan on a GPU, against the plain layer in float64."""

import copy
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from linear_time import mamba_triton
from linear_time.mamba import Mamba
from linear_time.scan_triton import available
from test_scan_triton import triton_interprets

gpu = pytest.mark.skipif(not available(), reason="needs Triton and a CUDA GPU")
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
# Relative: of float32 arithmetic; of one rounding to eight or eleven bits, or two.
BOUNDS = {F32: 2e-6, BF16: 5e-3, F16: 6e-4}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def error(found, wanted):
    return ((found.double() - wanted).norm() / wanted.norm()).item()


def plain(x, past, weight, bias):
    whole = torch.cat([past, x], dim=2)
    return functional.silu(functional.conv1d(whole, weight, bias, groups=len(weight)))


@gpu
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("length", [1, 5, 77, 1003])
@pytest.mark.parametrize("taps, with_bias, layout", [(4, True, "channels"), (4, False, "time"),
    (1, True, "channels"), (2, True, "half")])  # fmt: skip
def test_convolution(dtype, length, taps, with_bias, layout):
    """All lengths and layouts, with a past; and the gradients of all but the past."""
    batch, d_inner = 2, 150
    sizes = {"channels": (batch, length, d_inner), "half": (batch, length, 2 * d_inner)}
    if layout == "time":
        x = torch.randn(batch, d_inner, length, device="cuda")
    else:
        x = torch.randn(sizes[layout], device="cuda")[..., :d_inner].mT
    past = torch.randn(batch, d_inner, taps - 1, device="cuda")
    weight = torch.randn(d_inner, 1, taps, device="cuda")
    bias = torch.randn(d_inner, device="cuda") if with_bias else None
    inputs = [x if y is x else y for y in (x.to(dtype), weight.to(dtype), bias)]
    leaves = [y.detach().requires_grad_() for y in inputs if y is not None]
    wide = [y.detach().double().requires_grad_() for y in leaves]
    conv = SimpleNamespace(weight=leaves[1], bias=leaves[2] if with_bias else None)
    assert mamba_triton.convolves(leaves[0], past, conv)
    y = mamba_triton.convolve(leaves[0], past, *leaves[1:])
    wanted = plain(wide[0], past.double(), wide[1], wide[2] if with_bias else None)
    dy = torch.randn_like(y)
    grads = torch.autograd.grad(y, leaves, dy)
    right = torch.autograd.grad(wanted, wide, dy.double())
    assert y.dtype == dtype and y.mT.is_contiguous()
    assert error(y, wanted) < BOUNDS[dtype]
    for leaf, one, other in zip(leaves, grads, right, strict=True):
        assert one.dtype == leaf.dtype and error(one, other) < BOUNDS[leaf.dtype]


@gpu
def test_a_past_that_learns_and_a_second_derivative():
    x, weight = (torch.randn(s, device="cuda", requires_grad=True) for s in ((1, 8, 9), (8, 1, 4)))
    past = torch.zeros(1, 8, 3, device="cuda", requires_grad=True)
    conv = SimpleNamespace(weight=weight, bias=None)
    assert not mamba_triton.convolves(x, past, conv)
    assert mamba_triton.convolves(x, past.detach(), conv)
    y = mamba_triton.convolve(x, past.detach(), weight)
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(y.sum(), x, create_graph=True)
    layer = Mamba(8).cuda()
    u, state = torch.zeros(1, 16, device="cuda"), layer.initial_state(1)
    assert not mamba_triton.steps(layer, u, state)
    with torch.no_grad():
        assert mamba_triton.steps(layer, u, state)
        assert not mamba_triton.steps(layer.double(), u.double(), layer.initial_state(1))


def test_a_cpu_takes_neither():
    layer, x = Mamba(8), torch.zeros(1, 16, 5)
    state = layer.initial_state(1)
    assert not mamba_triton.convolves(x, state.window, layer.conv1d)
    with torch.no_grad():
        assert not mamba_triton.steps(layer, x[..., 0], state)


@gpu
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("N, d_model, options", [(16, 64, {}), (5, 33, {"taps": 1}),
    (64, 48, {"conv_bias": False, "taps": 3})])  # fmt: skip
def test_layer(dtype, N, d_model, options):
    """Prefill in two pieces and steps after it are the layer's on a CPU in float64."""
    layer = Mamba(d_model, N=N, **options).to(dtype)
    wide = copy.deepcopy(layer).double()
    x = torch.randn(3, 40, d_model, dtype=dtype)
    wanted = wide(x.double())
    layer, x = layer.cuda(), x.cuda()
    first, state = layer.prefill(x[:, :2])
    second, state = layer.prefill(x[:, 2:23], state)
    outputs = [first, second]
    before = [part.clone() for part in state]
    with torch.no_grad():
        state = type(state)(*(part.detach() for part in state))
        given = state
        for x_t in x[:, 23:].unbind(1):
            y_t, state = layer.step(x_t, state)
            outputs.append(y_t[:, None])
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))  # left as it was
    assert error(torch.cat(outputs, 1).cpu(), wanted) < 4 * BOUNDS[dtype]
    assert state.h.dtype == F32


@gpu
def test_gradients_of_the_layer():
    layer, x = Mamba(40), torch.randn(2, 300, 40)
    wide = copy.deepcopy(layer).double()
    wanted = torch.autograd.grad(wide(x.double()).square().sum(), list(wide.parameters()))
    layer, x = layer.cuda(), x.cuda()
    found = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    for (name, _), one, other in zip(layer.named_parameters(), found, wanted, strict=True):
        assert error(one.cpu(), other) < 2e-5, name


INTERPRETED = """
import contextlib, os
os.environ["TRITON_INTERPRET"] = "1"
import torch, triton
import triton.language as tl
from torch.nn import functional
from linear_time import mamba_triton
from linear_time.mamba import Mamba

@triton.jit
def softplus(x):
    return tl.log(1.0 + tl.exp(x))

torch.cuda.device = lambda *_: contextlib.nullcontext()
mamba_triton.softplus, mamba_triton.TILES = softplus, 2
torch.manual_seed(0)
x, past, weight, bias = (torch.randn(s) for s in ((2, 70, 37), (2, 70, 3), (70, 1, 4), (70,)))
leaves = [x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
y = mamba_triton.convolve(x, past, weight, bias)
wanted = functional.silu(functional.conv1d(torch.cat([past, x], 2), weight, bias, groups=70))
dy = torch.randn_like(y)
found = y, *torch.autograd.grad(y, leaves, dy)
for one, other in zip(found, (wanted, *torch.autograd.grad(wanted, leaves, dy))):
    assert (one - other).norm() < 1e-5 * other.norm()
layer, x_t = Mamba(24, N=5), torch.randn(3, 24)
with torch.no_grad():
    _, state = layer.prefill(torch.randn(3, 7, 24))
    wanted = layer.step(x_t, state)
    mamba_triton.steps = lambda *_: True
    found = layer.step(x_t, state)
for one, other in zip((found[0], *found[1]), (wanted[0], *wanted[1])):
    assert (one - other).norm() < 1e-5 * other.norm()
print("equal")
"""


@pytest.mark.skipif(not triton_interprets(), reason="needs Triton, and NumPy before 2.4")
def test_interpreted():
    """The kernels on a CPU, by Triton's interpreter."""
    done = subprocess.run([sys.executable, "-c", INTERPRETED], capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr[-2000:]
