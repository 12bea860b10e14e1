"""Chapter 16: the selective scan as torch's own functions are.

``scan_kernel`` computes; here torch learns to differentiate it, once and
again, to map it (``torch.vmap``), and to compile and export what calls it.

The gradient is a function with a gradient of its own: that of the plain loop
over ``next_state``, which keeps every state. A map calls the scan for one
row after the other. A compiler sees one operation, not a loop over steps.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from linear_time import scan_kernel
from linear_time.layer import full, without_autocast
from linear_time.scan_kernel import next_state


def chunked_scan(
    *inputs: Tensor | None, softplus: bool, rule: str
) -> tuple[Tensor, Tensor]:
    """(y, last state) of ``selective_scan``, whose arguments are checked.

    Args:
        inputs: u, delta, A, B, C, D, z, delta_bias, and the state before the
            first step; None where ``selective_scan`` may have None.
        softplus: whether delta goes through it.
        rule: "exponential_euler" or "zero_order_hold".
    """
    run: Any = _scan if torch.compiler.is_compiling() else _Scan.apply
    y, last, _ = run(*inputs, softplus, rule, torch.is_grad_enabled())
    return y, last


class _Scan(torch.autograd.Function):
    """The scan, with ``_Gradients`` as its gradient."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        *inputs, softplus, rule, keep = arguments
        return scan_kernel.forward(tuple(inputs), softplus, rule, keep)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.softplus, ctx.rule, _ = inputs
        y, last, entering = output
        ctx.save_for_backward(entering, *tensors)
        ctx.results = [(x.shape, x.dtype, x.device) for x in (y, last)]
        ctx.mark_non_differentiable(entering)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        return _pull_back(_Gradients.apply, ctx, *grads)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        return _one_by_one(_Scan.apply, info, in_dims, arguments)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        _refuse_forward_mode()


class _Gradients(torch.autograd.Function):
    """The gradients, one for each input that is there."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return tuple(_gradients(*arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        grad_y, grad_last, _, *tensors, ctx.softplus, ctx.rule = inputs
        ctx.save_for_backward(grad_y, grad_last, *tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        grad_y, grad_last, *tensors = ctx.saved_tensors
        present = [x for x in tensors if x is not None]

        def scan(*present: Tensor) -> tuple[Tensor, Tensor]:
            inputs = _fill(tensors, present)
            return _plain(*inputs, softplus=ctx.softplus, rule=ctx.rule)

        def gradients(
            grad_y: Tensor, grad_last: Tensor, *present: Tensor
        ) -> tuple[Tensor, ...]:
            pull_back: Any = torch.func.vjp(scan, *present)[1]
            return pull_back((grad_y, grad_last))

        given = grad_y, grad_last, *present
        pull_back: Any = torch.func.vjp(gradients, *given)[1]
        of_grad_y, of_grad_last, *others = pull_back(cotangents)
        of_inputs = _fill(tensors, others)
        return of_grad_y, of_grad_last, None, *of_inputs, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        return _one_by_one(_Gradients.apply, info, in_dims, arguments)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        _refuse_forward_mode()


def _gradients(
    grad_y: Tensor, grad_last: Tensor, entering: Tensor, *arguments: Any
) -> list[Tensor]:
    *inputs, softplus, rule = arguments
    grads = scan_kernel.backward(
        grad_y, grad_last, entering, tuple(inputs), softplus, rule
    )
    return [grad for grad in grads if grad is not None]


def _pull_back(
    gradients: Callable[..., Any],
    ctx: Any,
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    _: Tensor | None = None,
) -> tuple[Any, ...]:
    """The gradients of all twelve arguments of ``_Scan``."""
    entering, *tensors = ctx.saved_tensors
    upstream = [
        torch.zeros(shape, dtype=dtype, device=device) if x is None else x
        for x, (shape, dtype, device) in zip(
            (grad_y, grad_last), ctx.results, strict=True
        )
    ]
    grads = gradients(*upstream, entering, *tensors, ctx.softplus, ctx.rule)
    return *_fill(tensors, grads), None, None, None


def _fill(tensors: Any, values: Any) -> list[Any]:
    """The values, in order, in the places of the tensors that are there."""
    values = iter(values)
    return [None if x is None else next(values) for x in tensors]


def _one_by_one(
    run: Callable[..., Any], info: Any, in_dims: Any, arguments: Any
) -> tuple[Any, Any]:
    """``vmap``: the mapped calls one after the other, then stacked."""
    results = []
    for i in range(info.batch_size):
        each = zip(arguments, in_dims, strict=True)
        row = [x if dim is None else x.select(dim, i) for x, dim in each]
        results.append(run(*row))
    stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)


def _refuse_forward_mode() -> None:
    raise NotImplementedError(
        "selective_scan: expected gradients in reverse mode, got forward mode "
        "(jvp, jacfwd, hessian); selective_scan_reference has both"
    )


def _plain(*inputs: Any, softplus: bool, rule: str) -> tuple[Tensor, Tensor]:
    """The same step by step, by operations that torch differentiates."""
    dtype = inputs[0].dtype
    everything: Any = (None if x is None else full(x) for x in inputs)
    u, delta, A, B, C, D, z, delta_bias, h = everything
    with without_autocast(u):
        if h is None:
            h = u.new_zeros(len(u), *A.shape)
        if delta_bias is not None:
            delta = delta + delta_bias[:, None]
        if softplus:
            delta = functional.softplus(delta)
        outputs = []
        steps = (x.unbind(2) for x in (u, delta, B, C))
        for u_t, delta_t, B_t, C_t in zip(*steps, strict=True):
            h = next_state(h, u_t, delta_t, A, B_t, rule)
            outputs.append((h @ C_t.unsqueeze(2)).squeeze(2))
        y = torch.stack(outputs, dim=-1)
        if D is not None:
            y = y + D[:, None] * u
        if z is not None:
            y = y * functional.silu(z)
        return y.to(dtype), h


# What torch.compile and torch.export see.
_INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, "
    "Tensor? z, Tensor? delta_bias, Tensor? h, bool softplus, str rule"
)
_scan = torch.library.custom_op(
    "linear_time::selective_scan",
    _Scan.forward,
    mutates_args=(),
    schema=f"({_INPUTS}, bool keep) -> (Tensor, Tensor, Tensor)",
)
_scan_gradients = torch.library.custom_op(
    "linear_time::selective_scan_gradients",
    _gradients,
    mutates_args=(),
    schema=f"(Tensor y, Tensor last, Tensor entering, {_INPUTS}) -> Tensor[]",
)


@_scan.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    u, _, A, *_, keep = arguments
    y = torch.empty_like(u)
    last = u.new_empty((len(u), *A.shape), dtype=full(u).dtype)
    chunks = torch.library.get_ctx().new_dynamic_size() if keep else 0
    return y, last, last.new_empty(chunks, *last.mT.shape)


@_scan_gradients.register_fake
def _(
    y: Tensor, last: Tensor, entering: Tensor, *arguments: Any
) -> list[Tensor]:
    *inputs, _, _ = arguments
    return [torch.empty_like(x) for x in inputs if x is not None]


_scan.register_autograd(
    functools.partial(_pull_back, _scan_gradients),
    setup_context=_Scan.setup_context,
)
