"""Chapter 16: the selective scan on a GPU, in Triton.

With Δ = softplus(delta + bias), for each channel d and state n,

    h_t = exp(Δ_t A) h_{t−1} + Δ_t u_t B_t,
    y_t = (Σ_n C_t h_t + D u_t) SiLU(z_t).

A program is one warp. It owns BD channels of one row of the batch and walks
through time with their states in registers, T steps a block, while Triton
fetches the next blocks. Where batch and channels are too few to fill the
GPU, time is cut in chunks: ``chunk_ends`` finds what each leaves behind when it
starts from zero, and the start of a chunk follows from those before it.

Backward walks from the end, with g_t = C_t dy_t + a_{t+1} g_{t+1} and
a = exp(ΔA). The states that it needs are found again from every T-th, which
forward keeps; or a second forward finds them, where memory is short.

A tile of states is [BD, BN], N padded to BN; a block of u, Δ, z or y is
[BD, T], one of B or C is [BN, T].
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from linear_time.scan_triton_backward import scan_backward
from linear_time.scan_triton_forward import chunk_ends, scan_forward
from linear_time.scan_triton_plan import (
    BACKWARD,
    FORWARD,
    Plan,
    array,
    padded,
)
from linear_time.triton_tiles import INSTALLED

_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def available() -> bool:
    """Whether Triton is installed and torch sees a CUDA GPU."""
    return INSTALLED and torch.cuda.is_available()


def suits(u: Tensor, delta: Tensor, A: Tensor, *others: Tensor | None) -> bool:
    """Whether ``selective_scan`` takes them: CUDA, its types, N ≤ 256."""
    return (
        INSTALLED
        and A.shape[1] <= 256
        and all(
            x is None or (x.is_cuda and x.dtype in _TYPES)
            for x in (u, delta, A, *others)
        )
    )


def _like(x: Tensor) -> Tensor:
    """Room for a (batch, channels, length), channels side by side."""
    _, d, length = sizes = x.shape
    strides = length * d, 1, d
    return torch.empty_strided(sizes, strides, dtype=x.dtype, device=x.device)


def _prepared(inputs: Any) -> Any:
    """With B and C in float32, the N numbers of a step side by side.

    The kernels could convert them, but each of d_inner / BD warps would do
    it again. For short scans a launch costs more than that.
    """
    u, delta, A, B, C, *others = inputs
    short = u.numel() < 2**23
    form = {"dtype": torch.float32, "memory_format": torch.contiguous_format}
    B, C = (
        x
        if x.stride(1) == 1 and (short or x.dtype == torch.float32)
        else x.mT.to(**form).mT
        for x in (B, C)
    )
    return u, delta, A, B, C, *others


def _forward(inputs: Any, softplus: bool, keep: bool) -> Any:
    """y and the last state; for backward y before the gate, and states."""
    arrays = tuple(array(x) for x in _prepared(inputs))
    u, z, N = inputs[0], inputs[6], inputs[2].shape[1]
    batch, d_inner, length = u.shape
    plan = Plan.of(FORWARD["BD"], (softplus, keep), u, N, arrays)
    y, last = torch.empty_like(u), plan.new(batch, d_inner, N)
    kept = ungated = None
    if keep:
        kept = plan.new(batch * 2 * -(-length // 8), d_inner, plan.BN)
        ungated = _like(u) if z is not None else None
    left = plan.left(1, d_inner)
    options = FORWARD | {"SOFTPLUS": softplus}
    if left is not None:
        given = *arrays[:4], None, arrays[7]
        plan.launch(chunk_ends, given, left, 1, **options, REVERSE=False)
    outputs = tuple(array(x) for x in (y, ungated, kept, last))
    stages = 4 if keep and left is None else 3
    plan.launch(
        scan_forward, arrays, outputs, left, 1, **options, STAGES=stages
    )
    return y, last, ungated, kept


def _backward(
    inputs: Any,
    dy: Tensor,
    dlast: Tensor | None,
    ungated: Tensor | None,
    kept: Tensor | None,
    softplus: bool,
    deterministic: bool,
) -> list[Tensor | None]:
    """The gradients of the inputs."""
    u, delta, A, B, C, D, z, bias, initial = inputs
    inputs = _prepared(inputs)
    if kept is None:
        _, _, ungated, kept = _forward(inputs, softplus, True)
    # The kernel has no use for the initial state: it is among those kept.
    given = (*inputs[:8], dy, dlast, ungated, kept)
    arrays = tuple(array(x) for x in given)
    (batch, d_inner, length), N, BD = u.shape, A.shape[1], BACKWARD["BD"]
    key = *arrays, array(initial)  # which its gradient resembles
    plan = Plan.of(BD, (softplus, deterministic), u, N, key)
    left = plan.left(plan.BN, 1)
    if left is not None:
        _, delta_, A_, _, C_, _, z_, bias_, dy_, *_ = arrays
        turned = dy_, delta_, A_, C_, z_, bias_
        options = FORWARD | {"SOFTPLUS": softplus, "REVERSE": True}
        plan.launch(chunk_ends, turned, left, 1, **options)
    # Sums over programs: into one place, or a place each, added afterwards.
    of_B, of_A = batch * length * N, d_inner * N
    sizes = of_B, of_B, of_A, d_inner, d_inner
    if deterministic:
        groups, parts = -(-d_inner // BD), batch * plan.chunks
        places = groups, groups, parts, parts, parts
        room = [size * n for size, n in zip(sizes, places, strict=True)]
        sums = plan.new(sum(room))
    else:
        sums = torch.zeros(sum(sizes), dtype=torch.float32, device=u.device)
    du, ddelta = _like(u), _like(delta)
    dz = None if z is None else _like(z)
    dinitial = None if initial is None else torch.empty_like(initial)
    outputs = tuple(array(x) for x in (du, ddelta, dz, dinitial))
    options = BACKWARD | {"SOFTPLUS": softplus, "ATOMIC": not deterministic}
    plan.launch(scan_backward, arrays, outputs, sums, left, **options)
    if deterministic:
        each = zip(sums.split(room), places, strict=True)
        dB, dC, dA, dD, dbias = (x.view(n, -1).sum(0) for x, n in each)
    else:
        dB, dC, dA, dD, dbias = sums.split(sizes)
    return [
        *(du, ddelta, dA.view(d_inner, N).to(A.dtype)),
        dB.view(batch, length, N).mT.to(B.dtype),
        dC.view(batch, length, N).mT.to(C.dtype),
        None if D is None else dD.to(D.dtype),
        *(dz, None if bias is None else dbias.to(bias.dtype), dinitial),
    ]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        output = _forward(inputs[:9], *inputs[9:11])
        _remember(ctx, inputs, output)
        y, last, *_ = output
        return y, last

    @staticmethod
    def backward(ctx: Any, dy: Any, dlast: Any) -> Any:
        return _gradients(ctx, dy, dlast, _backward)


def _remember(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, softplus, keep, deterministic = inputs
    _, _, ungated, kept = output
    kept = (ungated if tensors[6] is not None else None, kept)
    ctx.save_for_backward(*tensors, *(kept if keep else (None, None)))
    ctx.options = softplus, deterministic
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dy: Any, dlast: Any, backward: Any) -> Any:
    if torch.is_grad_enabled():
        # torch's once_differentiable lets this pass with a wrong result
        # where dy itself needs no gradient.
        raise RuntimeError(
            "selective_scan: expected to be differentiated once, got "
            "create_graph=True; selective_scan_reference can be, twice"
        )
    *tensors, ungated, kept = ctx.saved_tensors
    dy = torch.zeros_like(tensors[0]) if dy is None else dy
    found = backward(tensors, dy, dlast, ungated, kept, *ctx.options)
    return *found, None, None, None


def selective_scan(
    u: Float[Tensor, "batch d_inner length"],
    delta: Float[Tensor, "batch d_inner length"],
    A: Float[Tensor, "d_inner N"],
    B: Float[Tensor, "batch N length"],
    C: Float[Tensor, "batch N length"],
    D: Float[Tensor, " d_inner"] | None = None,
    z: Float[Tensor, "batch d_inner length"] | None = None,
    delta_bias: Float[Tensor, " d_inner"] | None = None,
    delta_softplus: bool = False,
    initial_state: Float[Tensor, "batch d_inner N"] | None = None,
    *,
    keep_states: bool = True,
    deterministic: bool | None = None,
) -> tuple[
    Float[Tensor, "batch d_inner length"], Float[Tensor, "batch d_inner N"]
]:
    """``selective.selective_scan`` with the rule "exponential_euler", on a GPU.

    Every argument may be float32, bfloat16 or float16 and have any strides;
    fastest is what a Mamba block has, channels side by side: x.mT of an x
    (batch, length, d_inner). Inside all is float32. Values are not checked.

    Args:
        u, delta, A, B, C, D, z: as ``selective_scan``; N ≤ 256.
        delta_bias, delta_softplus, initial_state: likewise.
        keep_states: keep every fourth state for backward, 16 bytes a step
            and channel up to N = 16 (then N, up to a power of two); else
            backward runs forward again, and keeps them only meanwhile.
        deterministic: add the gradients of A, B, C, D and delta_bias up in
            one order, which takes ⌈d_inner/16⌉ times the room of those of B
            and C; None: if torch was told to be deterministic.

    Returns:
        y (batch, d_inner, length), of u's dtype; the last state (batch,
        d_inner, N), float32. They can be differentiated once, not twice.

    Raises:
        RuntimeError: no Triton, other tensors than ``suits`` admits, or a
            second derivative is asked for.

    Source: Gu & Dao (2023), "Mamba", section 3.3.2 and appendix D.
    """
    tensors = u, delta, A, B, C, D, z, delta_bias, initial_state
    if not suits(*tensors):
        types = sorted({str(x.dtype)[6:] for x in tensors if x is not None})
        raise RuntimeError(
            "scan_triton: expected Triton and CUDA tensors of float32, "
            "bfloat16 or float16 with N <= 256, got Triton "
            f"{'installed' if INSTALLED else 'missing'}, tensors of "
            f"{', '.join(types)} on {u.device}, N = {A.shape[1]}"
        )
    if u.device.index != torch.cuda.current_device():
        with torch.cuda.device(u.device):  # where Triton would launch
            return selective_scan(
                *tensors[:8],
                delta_softplus,
                initial_state,
                keep_states=keep_states,
                deterministic=deterministic,
            )
    wanted = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in tensors
    )
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    keep = wanted and keep_states
    y: Tensor
    last: Tensor
    if torch.compiler.is_compiling():
        y, last, _, _ = _op(*tensors, delta_softplus, keep, deterministic)
    elif wanted:
        y, last = _Scan.apply(*tensors, delta_softplus, keep, deterministic)
    else:
        y, last, _, _ = _forward(tensors, delta_softplus, False)
    return y, last


# What torch.compile sees: two opaque operators that know their shapes.
_INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, "
    "Tensor? z, Tensor? bias, Tensor? initial, "
)


@torch.library.custom_op(
    "linear_time::scan_triton",
    mutates_args=(),
    schema=f"({_INPUTS} bool softplus, bool keep, bool deterministic) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)
def _op(*args: Any) -> Any:
    output = _forward(args[:9], *args[9:11])
    return tuple(args[0].new_empty(0) if x is None else x for x in output)


@_op.register_fake
def _(u: Tensor, delta: Tensor, A: Tensor, *args: Any) -> Any:
    z, keep = args[3], args[-2]
    last = u.new_empty(len(u), *A.shape, dtype=torch.float32)
    ungated, kept = u.new_empty(0), u.new_empty(0)
    if keep:
        rows = len(u) * 2 * ((u.shape[2] + 7) // 8)
        kept = last.new_empty(rows, u.shape[1], padded(A.shape[1]))
        ungated = _like(u) if z is not None else ungated
    return torch.empty_like(u), last, ungated, kept


@torch.library.custom_op(
    "linear_time::scan_triton_backward",
    mutates_args=(),
    schema=f"({_INPUTS} Tensor dy, Tensor? dlast, Tensor? ungated, "
    "Tensor? kept, bool softplus, bool deterministic) -> Tensor[]",
)
def _op_backward(*args: Any) -> list[Tensor]:
    found = _backward(args[:9], *args[9:])
    for i in (2, 3, 4, 5, 7):  # these share their memory, which torch forbids
        x = found[i]
        found[i] = x if x is None else x.clone()
    return [x for x in found if x is not None]


@_op_backward.register_fake
def _(u: Tensor, delta: Tensor, A: Tensor, *args: Any) -> list[Tensor]:
    B, C, D, z, bias, initial = args[:6]
    in_time = (None if x is None else _like(x) for x in (u, delta, B, C, z))
    du, ddelta, dB, dC, dz = in_time
    like = du, ddelta, A, dB, dC, D, dz, bias, initial
    return [torch.empty_like(x) for x in like if x is not None]


def _op_gradients(ctx: Any, dy: Any, dlast: Any, *_: Any) -> Any:
    def backward(tensors: Any, *args: Any) -> Any:
        found = iter(_op_backward(*tensors, *args))
        return [x if x is None else next(found) for x in tensors]

    return _gradients(ctx, dy, dlast, backward)


_op.register_autograd(_op_gradients, setup_context=_remember)
