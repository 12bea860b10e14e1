"""The selective scan in Triton against the reference in float64; most tests need a CUDA GPU.

On a machine that has one, run ``pytest tests/test_scan_triton.py`` with the python that has Triton,
and without the shape check, which would wrap the kernels too.
"""

import itertools
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
from torch import nn

from linear_time import scan_triton
from linear_time.scan_triton import available, selective_scan, suits
from linear_time.selective import selective_scan_reference

gpu = pytest.mark.skipif(not available(), reason="needs Triton and a CUDA GPU")
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
# Relative errors: of float32 arithmetic, or of rounding to eight or eleven bits. Outputs that pass
# through two roundings (dz) have √2 times as much.
BOUNDS = {F32: 1e-5, F16: 4e-4, BF16: 3e-3}
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def draw(
    batch,
    d_inner,
    length,
    N,
    dtypes=(F32,) * 9,
    layout="channels",
    absent=(),
    softplus=True,
    device="cuda",
):
    """The tensors of a call on the GPU; delta is raw, so it needs the softplus."""

    def in_time(channels):
        if layout == "time":  # contiguous as the official function wants it
            return torch.randn(batch, channels, length, device=device)
        if layout == "strided":  # every second channel of every second step of a larger tensor
            x = torch.randn(batch, 2 * length + 1, 2 * channels + 1, device=device)
            return x[:, 1::2, 1::2].mT
        return torch.randn(batch, length, channels, device=device).mT

    tensors = {
        "u": in_time(d_inner),
        "delta": in_time(d_inner) - 2 if softplus else in_time(d_inner).abs() / 10 + 1e-3,
        "A": -2 * torch.rand(d_inner, N, device=device) - 0.05,
        "B": in_time(N),
        "C": in_time(N),
        "D": torch.randn(d_inner, device=device),
        "z": in_time(d_inner),
        "delta_bias": torch.rand(d_inner, device=device),
        "initial_state": torch.randn(batch, d_inner, N, device=device),
    }
    if layout == "strided":
        tensors["A"] = tensors["A"].mT.contiguous().mT
        tensors["D"] = tensors["D"].repeat_interleave(2)[::2]
    return {
        name: None if name in absent else x.to(dtype)
        for (name, x), dtype in zip(tensors.items(), dtypes, strict=True)
    }


def leaves(tensors, dtype=None):
    return {
        name: None if x is None else x.detach().to(dtype or x.dtype).requires_grad_()
        for name, x in tensors.items()
    }


def outputs_and_gradients(scan, tensors, upstream=None):
    """y, the last state and the gradients of all inputs, for a random upstream gradient."""
    outputs = scan(**tensors)
    if upstream is None:
        upstream = [torch.randn_like(x) for x in outputs]
    wanted = {name: x for name, x in tensors.items() if x is not None}
    upstream = [g.to(x.dtype) for g, x in zip(upstream, outputs, strict=True)]
    grads = torch.autograd.grad(outputs, list(wanted.values()), upstream)
    found = dict(zip(("y", "last"), outputs, strict=True))
    return found | {"d" + name: g for name, g in zip(wanted, grads, strict=True)}, upstream


def fast(softplus=True, **options):
    return lambda **tensors: selective_scan(delta_softplus=softplus, **options, **tensors)


def reference(softplus=True):
    return lambda **tensors: selective_scan_reference(
        delta_softplus=softplus, return_last_state=True, **tensors
    )


def error(value, wanted):
    return ((value.double() - wanted).norm() / wanted.norm()).item()


def check(tensors, softplus=True, **options):
    mine = leaves(tensors)
    found, upstream = outputs_and_gradients(fast(softplus, **options), mine)
    wanted, _ = outputs_and_gradients(
        reference(softplus), leaves(tensors, torch.float64), [g.double() for g in upstream]
    )
    for name, value in found.items():
        source = {"y": "u", "last": None}.get(name, name[1:])
        assert value.dtype == (mine[source].dtype if source else F32), name
        bound = BOUNDS[value.dtype]
        if name == "dz":
            bound = 2**0.5 * max(bound, BOUNDS[mine["u"].dtype])
        assert error(value, wanted[name]) < bound, (name, error(value, wanted[name]))


@gpu
@pytest.mark.parametrize("N", [1, 8, 16, 64, 200, 256])
@pytest.mark.parametrize(
    "batch, d_inner, length", [(2, 3, 1), (1, 1, 5), (2, 40, 77), (1, 33, 1003), (40, 513, 20)]
)
def test_values_and_gradients(batch, d_inner, length, N):
    check(draw(batch, d_inner, length, N))


MIXES = {
    "bfloat16": (BF16, BF16, F32, BF16, BF16, F32, BF16, F32, F32),
    "float16": (F16, F16, F32, F16, F16, F32, F16, F32, F32),
    "all bfloat16": (BF16,) * 9,
    "float32 delta": (BF16, F32, F32, F32, BF16, F32, BF16, F32, F32),
    "float32 u": (F32, BF16, F32, BF16, F32, BF16, BF16, F32, F16),
}


@gpu
@pytest.mark.parametrize("layout", ["channels", "time", "strided"])
@pytest.mark.parametrize("dtypes", MIXES.values(), ids=MIXES)
@pytest.mark.parametrize("shape", [(2, 70, 131, 16), (40, 512, 24, 16)])
def test_dtypes_and_layouts(shape, dtypes, layout):
    check(draw(*shape, dtypes, layout))


@gpu
def test_large_enough_that_b_and_c_are_prepared():
    check(draw(1, 2**15, 300, 3, MIXES["bfloat16"]))


@gpu
@pytest.mark.parametrize("absent", [(n,) for n in NAMES[5:]] + [NAMES[5:]], ids=str)
def test_optional_arguments(absent):
    check(draw(2, 40, 77, 16, absent=absent))


@gpu
def test_without_softplus():
    check(draw(2, 40, 177, 16, softplus=False), softplus=False)


@gpu
def test_softplus_of_large_and_small():
    """Each branch of the softplus, and steps that are 0 in float32."""
    tensors = draw(1, 40, 77, 16, absent=NAMES[7:])
    tensors["delta"] = torch.linspace(-120, 60, 77, device="cuda").expand(1, 40, 77)
    check(tensors)


@gpu
def test_expanded_inputs():
    """Strides of 0, as of a B that is the same for all steps."""
    tensors = draw(2, 40, 77, 16)
    tensors["B"] = tensors["B"][:1, :, :1].expand(2, 16, 77)
    tensors["z"] = tensors["z"][:, :1].expand(2, 40, 77)
    check(tensors)


@gpu
def test_calls_that_differ_in_one_thing():
    """What was compiled for one call is not used for another: back and forth between them."""
    shape = 2, 64, 77, 16
    whole = draw(*shape)
    others = [whole | {name: None} for name in NAMES[5:]]
    others += [whole | {name: x.to(BF16)} for name, x in whole.items()]
    for name in ("u", "B", "z"):  # the same strides, but four bytes further on
        x = whole[name]
        moved = torch.empty(x.numel() + 1, device="cuda")[1:].view(x.mT.shape).mT
        others.append(whole | {name: moved.copy_(x)})
        others.append(whole | {name: x.contiguous()})
    check(whole)
    for tensors in others:
        check(tensors)
        check(whole)
    check(draw(*shape, softplus=False), softplus=False)
    check(whole, deterministic=True)
    check(whole, keep_states=False)


@gpu
def test_only_one_output_used():
    tensors = leaves(draw(2, 40, 77, 16))
    for k in (0, 1):
        wide = leaves(tensors, torch.float64)
        (found,) = torch.autograd.grad(fast()(**tensors)[k].sum(), tensors["delta"])
        (wanted,) = torch.autograd.grad(reference()(**wide)[k].sum(), wide["delta"])
        assert error(found, wanted) < 1e-5


@gpu
def test_a_state_handed_on():
    tensors = draw(2, 40, 200, 16)
    y, last = selective_scan(delta_softplus=True, **tensors)
    state, parts = tensors["initial_state"], []
    for steps in (slice(0, 77), slice(77, 200)):
        part = {n: x[..., steps] if n in ("u", "delta", "B", "C", "z") else x
                for n, x in tensors.items()}  # fmt: skip
        y_part, state = selective_scan(delta_softplus=True, **part | {"initial_state": state})
        parts.append(y_part)
    torch.testing.assert_close(torch.cat(parts, 2), y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state, last, rtol=1e-4, atol=1e-4)


@gpu
@pytest.mark.parametrize("dtypes", [(F32,) * 9, MIXES["bfloat16"]])
def test_deterministic(dtypes):
    """By argument and by torch's switch, twice the same; and without kept states too."""
    tensors = leaves(draw(2, 300, 600, 16, dtypes))
    first, upstream = outputs_and_gradients(fast(deterministic=True), tensors)
    torch.use_deterministic_algorithms(True)
    try:
        second, _ = outputs_and_gradients(fast(), tensors, upstream)
    finally:
        torch.use_deterministic_algorithms(False)
    options = {"deterministic": True, "keep_states": False}
    third, _ = outputs_and_gradients(fast(**options), tensors, upstream)
    for name, value in first.items():
        assert torch.equal(value, second[name]) and torch.equal(value, third[name]), name


@gpu
def test_deterministic_is_right():
    check(draw(2, 70, 300, 16), deterministic=True)


@gpu
def test_memory_without_kept_states():
    """Of the tensors that a call leaves for backward, only those without kept states are few."""
    tensors = leaves(draw(2, 256, 1024, 16, absent=("initial_state",)))
    one = tensors["u"].nbytes
    extra = {}
    for keep in (True, False):
        before = torch.cuda.memory_allocated()
        outputs = fast(keep_states=keep)(**tensors)
        extra[keep] = (torch.cuda.memory_allocated() - before) / one
        del outputs
    assert 1 <= extra[False] < 1.1  # y
    assert 6 <= extra[True] < 6.1  # and y before its gate, and 16 states every 4 steps


@gpu
def test_no_grad_keeps_nothing():
    tensors = leaves(draw(2, 256, 1024, 16))
    with torch.no_grad():
        y, last = fast()(**tensors)
    assert not y.requires_grad and not last.requires_grad


@gpu
def test_second_derivatives_are_refused():
    """Also where the upstream gradient is a constant: torch would return a Hessian of 0."""
    tensors = leaves(draw(2, 40, 77, 16))
    y, _ = fast()(**tensors)
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(y.sum(), tensors["u"], create_graph=True)


@gpu
def test_compile():
    tensors = leaves(draw(2, 40, 77, 16, MIXES["bfloat16"]))
    found, upstream = outputs_and_gradients(fast(deterministic=True), tensors)
    compiled = torch.compile(fast(deterministic=True), fullgraph=True)
    other, _ = outputs_and_gradients(compiled, tensors, upstream)
    for name, value in found.items():
        assert torch.equal(value, other[name]), name
    with pytest.raises(RuntimeError):
        y, _ = compiled(**tensors)
        (grad,) = torch.autograd.grad(y.sum(), tensors["u"], create_graph=True)
        torch.autograd.grad(grad.sum(), tensors["z"])


@gpu
@pytest.mark.parametrize("absent", [(), NAMES[5:]])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.bad_input  # to the check of shapes a symbolic length is no int
def test_operator(absent, keep):
    tensors = leaves(draw(2, 40, 77, 16, absent=absent))
    torch.library.opcheck(scan_triton._op, (*tensors.values(), True, keep, True))


@gpu
def test_autocast():
    """In a region of autocast, what its layers make half precision stays so."""
    layer = nn.Linear(40, 40, device="cuda")
    tensors = draw(2, 40, 77, 16)
    x = tensors["u"].mT.contiguous()
    with torch.autocast("cuda", BF16):
        u = layer(x).mT
        y, _ = selective_scan(delta_softplus=True, **tensors | {"u": u})
        assert u.dtype == y.dtype == BF16
        y.float().sum().backward()
    assert layer.weight.grad.isfinite().all() and layer.weight.grad.dtype == F32
    again, _ = selective_scan(delta_softplus=True, **tensors | {"u": u})
    assert torch.equal(y, again)


@gpu
def test_cuda_graph():
    """A captured training step computes anew from what stands in its inputs."""
    tensors = leaves(draw(1, 200, 500, 16, MIXES["bfloat16"]))
    scan = fast(deterministic=True)
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(stream):  # as torch asks for: autograd remembers the stream
        _, upstream = outputs_and_gradients(scan, tensors)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        captured, _ = outputs_and_gradients(scan, tensors, upstream)
    with torch.no_grad():
        for x in tensors.values():
            x.mul_(0.9)
    graph.replay()
    wanted, _ = outputs_and_gradients(scan, tensors, upstream)
    for name, value in wanted.items():
        assert torch.equal(value, captured[name]), name


@gpu
def test_other_default_dtype():
    tensors = draw(2, 40, 77, 16)
    torch.set_default_dtype(torch.float64)
    try:
        check(tensors)
    finally:
        torch.set_default_dtype(F32)


@gpu
def test_long():
    """2¹⁹ steps: the kept states alone take more than 2³¹ numbers, so 32 bits would not do."""
    length, at_once = 2**19, 2**14
    tensors = draw(1, 1088, length, 16, MIXES["bfloat16"], absent=NAMES[5:])
    u = tensors["u"].requires_grad_()
    y, last = selective_scan(delta_softplus=True, **tensors)
    (du,) = torch.autograd.grad(y[..., -1].sum(), u)
    end = {n: x[..., -at_once:] if n in ("u", "delta", "B", "C") else x for n, x in tensors.items()}
    wanted, state = selective_scan_reference(
        delta_softplus=True,
        return_last_state=True,
        **{n: None if x is None else x.detach().double() for n, x in end.items()},
    )
    # The start is forgotten at the rate of the slowest state, within some hundred steps.
    assert error(y[..., -100:].detach(), wanted[..., -100:]) < 3e-3
    assert error(last.detach(), state) < 1e-5
    assert du[..., -1].abs().min() > 0 and not du[..., : -2 * at_once].any()


def test_a_plan_serves_only_calls_that_compile_alike(monkeypatch):
    """On a CPU, with the launches written down: of a plan, all are of one form.

    Triton compiles for types, strides (1, or multiples of 16) and alignments, and for what is
    absent. A plan that mixed two forms would run a kernel on arguments that it was not made for.
    """

    class GPU:
        multi_processor_count = 132

    def form(x):
        if isinstance(x, tuple):
            return tuple(map(form, x))
        return (x.dtype, x.data_ptr() % 16) if isinstance(x, torch.Tensor) else x

    forms, launches = {}, 0

    def launch(plan, kernel, *args, **constants):
        nonlocal launches
        launches += 1
        found = form(args), tuple(constants.items())
        assert forms.setdefault((plan, kernel), found) == found

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: GPU)
    monkeypatch.setattr(scan_triton.Plan, "launch", launch)
    monkeypatch.setattr(scan_triton.Plan, "plans", {})
    whole = list(draw(2, 64, 130, 16, device="cpu").values())
    changes = (
        lambda x: x.to(BF16),
        lambda x: x.mT.contiguous().mT if x.ndim > 1 else x.repeat_interleave(2)[::2],
        lambda x: x.contiguous(),
        lambda x: torch.empty(x.numel() + 1)[1:].view(x.shape),
        lambda x: x[:1].expand(x.shape),
        lambda x: None,
    )
    calls = [whole]
    for i in range(len(whole)):
        for change in changes[: 6 if i > 4 else 5]:
            calls.append([*whole[:i], change(whole[i]), *whole[i + 1 :]])
    for inputs in calls:
        for softplus, keep, deterministic, with_last in itertools.product((False, True), repeat=4):
            y, last, *kept = scan_triton._forward(tuple(inputs), softplus, keep)
            for dy in (torch.empty_like(y), torch.ones((), dtype=y.dtype).expand(y.shape)):
                dlast = last if with_last else None
                scan_triton._backward(tuple(inputs), dy, dlast, *kept, softplus, deterministic)
    assert launches > 3 * len(forms) > 3000


@pytest.mark.parametrize("N, dtype", [(16, F32), (257, F32), (16, torch.float64)])
def test_refused(N, dtype):
    """A CPU's tensors, too many states, float64: what was expected and what came."""
    device = "cuda" if available() and (N == 257 or dtype != F32) else "cpu"
    u, A, B = torch.ones(1, 2, 3), torch.ones(2, N), torch.ones(1, N, 3)
    u, A, B = (x.to(device, dtype) for x in (u, A, B))
    assert not suits(u, u, A, B, B)
    message = rf"scan_triton: expected .* got .*{str(dtype)[6:]} on {device}.* N = {N}"
    with pytest.raises(RuntimeError, match=message):
        selective_scan(u, u, A, B, B)


def test_import_without_triton():
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "from linear_time import scan_triton\n"
        "import inspect, torch\n"
        "assert not scan_triton.available()\n"
        "assert 'exp2' in inspect.getsource(scan_triton.scan_forward)\n"
        "x = torch.ones(1, 1, 1)\n"
        "scan_triton.selective_scan(x, x, x[0], x, x)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "RuntimeError: scan_triton: expected Triton" in done.stderr
    assert "got Triton missing" in done.stderr


def triton_interprets():
    """Triton's interpreter counts loops with arrays of one element, which NumPy 2.4 refuses."""
    try:
        version("triton")
    except PackageNotFoundError:
        return False
    return tuple(map(int, version("numpy").split(".")[:2])) < (2, 4)


INTERPRETED = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import torch
from linear_time import scan_triton, scan_triton_plan
from linear_time.scan_triton_plan import Plan
from linear_time.selective import selective_scan_reference

class GPU:
    multi_processor_count = 1

class Here(Plan):
    def launch(self, kernel, *args, **constants):
        grid = self.grids[kernel is not scan_triton.chunk_ends]
        kernel[grid](*args, sizes=self.sizes, N=self.N, BN=self.BN, **constants)

torch.cuda.get_device_properties = lambda device: GPU
scan_triton.Plan, scan_triton_plan.SHORTEST = Here, 1
torch.manual_seed(0)
batch, d_inner, length, N = 1, 5, 37, 3
x = [torch.randn(batch, n, length) for n in (d_inner, d_inner, N, N, d_inner)]
u, delta, B, C, z = x
tensors = [u, delta.abs() + 0.01, -torch.rand(d_inner, N), B, C, torch.randn(d_inner), z]
tensors += [torch.rand(d_inner), torch.randn(batch, d_inner, N)]
*wide, state = (x.double().requires_grad_() for x in tensors)
wanted = selective_scan_reference(*wide, False, True, initial_state=state)
dy, dlast = (torch.randn_like(x) for x in wanted)
grads = torch.autograd.grad(wanted, (*wide, state), (dy, dlast))
y, last, *kept = scan_triton._forward(tensors, False, True)
found = scan_triton._backward(tensors, dy.float(), dlast.float(), *kept, False, False)
assert Here.plans and all(plan.chunks == 3 for plan in Plan.plans.values())
for value, right in zip((y, last, *found), (*wanted, *grads)):
    assert (value - right).norm() < 1e-5 * right.norm()
print("equal")
"""


@pytest.mark.skipif(not triton_interprets(), reason="needs Triton, and NumPy before 2.4")
def test_interpreted():
    """The kernels on a CPU, by Triton's interpreter (which has no fast logarithm: no softplus)."""
    done = subprocess.run([sys.executable, "-c", INTERPRETED], capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr[-2000:]
