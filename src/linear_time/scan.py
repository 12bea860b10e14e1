"""Chapter 17: a recurrence that changes at every step, done in parallel.

h_t = a_t h_{t−1} + b_t looks sequential. But a step is a map h → a h + b, two
such maps in a row are one such map, and composition is associative: the maps
may be composed in any grouping, as a sum may be. Every scan of this module
composes the same maps; they differ in the grouping.

The gradient of a scan is a scan that runs backwards. With g_t the gradient of
the loss with respect to h_t, everything later included,

    g_t = ∂ℓ/∂h_t + conj(a_{t+1}) g_{t+1},
    ∂ℓ/∂b_t = g_t,   ∂ℓ/∂a_t = g_t conj(h_{t−1}).

States are at least float32; a result has the precision of b.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Inexact
from torch import Tensor

from linear_time import _validate
from linear_time.layer import cast_like

Steps = Inexact[Tensor, "batch length *rest"]
Start = Inexact[Tensor, "batch *rest"]
Pair = tuple[Tensor, Tensor]
Elements = tuple[Tensor, ...]  # each (batch, length, …)
Operator = Callable[[Any, Any], Any]  # two Elements to one


def combine(first: Pair, second: Pair) -> Pair:
    """The map h → a₁ h + b₁ and after it h → a₂ h + b₂, as one map.

    (a₁, b₁) • (a₂, b₂) = (a₂ a₁, a₂ b₁ + b₂).

    It is associative, not commutative; (1, 0) is its identity.

    Args:
        first: (a₁, b₁), the earlier map; tensors of one shape.
        second: (a₂, b₂), the later one.

    Returns:
        The pair of the composed map.

    Source: Blelloch (1990), "Prefix Sums and Their Applications", section
        1.4.
    """
    (a_1, b_1), (a_2, b_2) = first, second
    return a_2 * a_1, a_2 * b_1 + b_2


def doubling_scan(operator: Operator, elements: Elements) -> Elements:
    """Hillis and Steele's scan, for any associative operator.

    x_0, x_0 • x_1, x_0 • x_1 • x_2, … along dim 1. After the round with
    reach r, position t holds the product of the last 2r elements up to t.

    Args:
        operator: takes an earlier and a later tuple of tensors, positions
            along dim 1, and returns a tuple of the same kind; associative.
        elements: the x_t: tensors (batch, length, …), one or several.

    Returns:
        The prefixes, a tuple as elements.

    Raises:
        TypeError: elements are not tensors.
        ValueError: there are none, or they differ in batch or length.

    Source: Hillis & Steele (1986), "Data Parallel Algorithms".
    """
    length = _length(elements)
    reach = 1
    while reach < length:
        earlier = _part(elements, slice(None, -reach))
        later = _part(elements, slice(reach, None))
        done = _part(elements, slice(None, reach))
        elements = _join(done, operator(earlier, later))
        reach *= 2
    return elements


def tree_scan(operator: Operator, elements: Elements) -> Elements:
    """Blelloch's two sweeps, for any associative operator.

    Up: neighbours are composed, halving the length until one is left. Down:
    level by level, the prefixes of the pairs are those of every odd position;
    an even position adds its own element to the prefix before it. Any length
    will do: an odd one leaves its last element without a partner.

    Args, Returns, Raises: as ``doubling_scan``.

    Source: Blelloch (1990), section 1.2, whose result excludes each
        position's own element; the inclusive form is Brent & Kung's (1982).
    """
    _length(elements)
    levels = [elements]
    while levels[-1][0].shape[1] > 1:
        paired = levels[-1][0].shape[1] // 2 * 2
        left = _part(levels[-1], slice(0, paired, 2))
        right = _part(levels[-1], slice(1, paired, 2))
        levels.append(tuple(operator(left, right)))
    prefix = levels.pop()
    while levels:
        level = levels.pop()
        length = level[0].shape[1]
        even = _part(level, slice(0, 1))
        if length > 2:
            before = _part(prefix, slice(0, (length - 1) // 2))
            own = _part(level, slice(2, None, 2))
            even = _join(even, operator(before, own))
        prefix = _interleave(even, prefix)
    return prefix


def linear_scan(a: Steps, b: Steps, initial: Start | None = None) -> Steps:
    """h_t = a_t h_{t−1} + b_t along dim 1: the scan to use.

    Wide rows are taken one by one, in place, so that a step is one operation.
    Narrow and long ones are cut into about √L chunks that advance side by
    side: one pass finds the map of every chunk, a scan over these maps gives
    each chunk the state that it starts from, and a second pass computes
    again, now from there. So nothing but a and h is kept for the gradient,
    which is a scan of the same kind; gradients of gradients work too, and so
    do ``torch.func`` and ``torch.vmap``.

    The product of a over a chunk must not overflow; it cannot where |a| ≤ 1.

    Args:
        a: the factors, (batch, length, …), real or complex.
        b: what is added, of a's shape and precision; a half may stand beside
            float32.
        initial: h_{−1}, (batch, …); zero if None.

    Returns:
        h, of b's shape.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: a shape does not fit or a value is not finite.

    Source: Martin & Cundy (2018), "Parallelizing Linear Recurrent Neural Nets
        Over Sequence Length", for the scan and its gradient.
    """
    h: Tensor = _LinearScan.apply(*_arguments(a, b, initial))
    return cast_like(h, b)


def sequential_scan(a: Steps, b: Steps, initial: Start | None = None) -> Steps:
    """The definition: one step after the other.

    The steps are unbound once. A loop that reads ``a[:, t]`` instead makes
    autograd write a gradient of a's whole size for every t: O(L²).

    Args, Returns, Raises: as ``linear_scan``.

    Source: the definition.
    """
    factors, added, h = _arguments(a, b, initial)
    states = []
    for a_t, b_t in zip(factors.unbind(1), added.unbind(1), strict=True):
        h = a_t * h + b_t
        states.append(h)
    return cast_like(torch.stack(states, dim=1), b)


def hillis_steele_scan(
    a: Steps, b: Steps, initial: Start | None = None
) -> Steps:
    """``doubling_scan`` of the maps: few rounds, much work.

    Args, Returns, Raises: as ``linear_scan``.

    Source: Hillis & Steele (1986), "Data Parallel Algorithms".
    """
    maps = _absorb(*_arguments(a, b, initial))
    return cast_like(doubling_scan(combine, maps)[1], b)


def blelloch_scan(a: Steps, b: Steps, initial: Start | None = None) -> Steps:
    """``tree_scan`` of the maps: little work, twice the rounds.

    Args, Returns, Raises: as ``linear_scan``.

    Source: as ``tree_scan``.
    """
    maps = _absorb(*_arguments(a, b, initial))
    return cast_like(tree_scan(combine, maps)[1], b)


def chunked_scan(
    a: Steps, b: Steps, initial: Start | None = None, chunk: int = 32
) -> Steps:
    """Scan chunks side by side, then hand a carry from chunk to chunk.

    1. Every chunk from its own beginning, all chunks at once.
    2. The state that enters a chunk is a scan over the chunks' last maps.
    3. Every position adds what its chunk's entering state became.

    Args, Returns, Raises: as ``linear_scan``; also
        chunk: steps a chunk, ≥ 1; the last chunk may be shorter.

    Source: chapter 17; three passes of this kind are how GPU scans work.
    """
    chunk = _validate.count("chunk", chunk)
    maps = _absorb(*_arguments(a, b, initial))
    length = maps[0].shape[1]
    factors, added = _chunks(maps[0], chunk, 1), _chunks(maps[1], chunk, 0)
    steps = list(zip(factors.unbind(2), added.unbind(2), strict=True))
    local = [steps[0]]
    for step in steps[1:]:
        local.append(combine(local[-1], step))
    a_end, b_end = local[-1]  # (batch, chunks, …)
    entering = [torch.zeros_like(b_end[:, 0])]
    for a_c, b_c in zip(a_end.unbind(1), b_end.unbind(1), strict=True):
        entering.append(a_c * entering[-1] + b_c)
    start = torch.stack(entering[:-1], dim=1)
    h = torch.stack([a_t * start + b_t for a_t, b_t in local], dim=2)
    return cast_like(h.flatten(1, 2)[:, :length].clone(), b)


def cumulative_sum_scan(
    a: Steps, b: Steps, initial: Start | None = None
) -> Steps:
    """The naive trick: divide the factors out, sum, multiply them back.

    h_t = e^{S_t} Σ_{s ≤ t} b_s e^{−S_s},  S_t = Σ_{s ≤ t} log a_s.

    Right in exact numbers, **unstable** in floating point: e^{−S} grows
    without bound, and once it overflows the result is 0 · ∞ = NaN. With
    Mamba's first Δ and A that happens within some hundred steps. It is kept
    to be shown failing.

    Args, Returns, Raises: as ``linear_scan``, with real a > 0.

    Source: chapter 17.
    """
    _validate.positive("a", a)
    factors, added = _absorb(*_arguments(a, b, initial))
    S = factors.log().cumsum(dim=1)
    h = torch.exp(S) * torch.cumsum(added * torch.exp(-S), dim=1)
    return cast_like(h, b)


class WorkDepth(NamedTuple):
    """What a scan does: compositions, and rounds that wait for one another."""

    work: int  # compositions of two maps
    depth: int  # rounds in lockstep, each for all its positions at once


def sequential_cost(length: int) -> WorkDepth:
    """L − 1 compositions, each waiting for the last."""
    length = _validate.count("length", length)
    return WorkDepth(length - 1, length - 1)


def hillis_steele_cost(length: int) -> WorkDepth:
    """⌈log₂ L⌉ rounds; the round with reach r composes L − r maps."""
    length = _validate.count("length", length)
    depth = (length - 1).bit_length()
    return WorkDepth(sum(length - 2**k for k in range(depth)), depth)


def blelloch_cost(length: int) -> WorkDepth:
    """A level of n maps: ⌊n/2⌋ compositions up, ⌈n/2⌉ − 1 down.

    For L a power of two: 2 L − 2 − log₂ L compositions in 2 log₂ L − 1
    rounds, since the last level's way down has nothing to do.
    """
    length = _validate.count("length", length)
    work = depth = 0
    while length > 1:
        up, down = length // 2, (length + 1) // 2 - 1
        work += up + down
        depth += 1 + (down > 0)
        length = up
    return WorkDepth(work, depth)


def chunked_cost(length: int, chunk: int = 32) -> WorkDepth:
    """Three passes with c steps a chunk and n = ⌈L/c⌉ chunks.

    L − n compositions within the chunks in c − 1 rounds, n − 1 for the ends
    of the chunks in as many, and one round for the other positions of all
    chunks but the first: 2 L − c − n in all. (``chunked_scan`` also runs the
    last chunk's padding, and the ends once more.)
    """
    length = _validate.count("length", length)
    chunk = _validate.count("chunk", chunk)
    chunk = min(chunk, length)
    n = -(-length // chunk)
    last = chunk > 1 and n > 1  # the round of the third pass
    return WorkDepth(2 * length - chunk - n, (chunk - 1) + (n - 1) + last)


_WIDE = 4096  # numbers a step from which a step is worth an operation


class _LinearScan(torch.autograd.Function):
    """The scan; both its derivatives are scans, and differentiable."""

    @staticmethod
    def forward(a: Tensor, b: Tensor, initial: Tensor) -> Tensor:
        return _scan(a, b, initial)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        a, _, initial = inputs
        ctx.save_for_backward(a, output, initial)
        ctx.save_for_forward(a, output, initial)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, h, initial = ctx.saved_tensors
        a = a.conj()
        after = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], dim=1)
        zero = torch.zeros_like(grad[:, 0])
        g = _LinearScan.apply(after.flip(1), grad.flip(1), zero).flip(1)
        return g * _before(h, initial).conj(), g, a[:, 0] * g[:, 0]

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        """h_t′ = a_t h_{t−1}′ + (a_t′ h_{t−1} + b_t′)."""
        a, h, initial = ctx.saved_tensors
        da, db, d_initial = tangents
        added = da * _before(h, initial) + db
        return _LinearScan.apply(a, added, d_initial)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Tensor) -> tuple[Tensor, int]:
        """The mapped dimension becomes a part of the batch."""
        size = info.batch_size
        rows = [
            x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(inputs, in_dims, strict=True)
        ]
        h = _LinearScan.apply(*(x.flatten(0, 1) for x in rows))
        return h.unflatten(0, (size, -1)), 0


def _before(h: Tensor, initial: Tensor) -> Tensor:
    """h_{t−1} beside every t."""
    return torch.cat([initial[:, None], h[:, :-1]], dim=1)


def _scan(a: Tensor, b: Tensor, initial: Tensor) -> Tensor:
    """h of ``linear_scan``, without a gradient."""
    length = b.shape[1]
    wide = b[:, 0].numel() >= _WIDE
    chunk = length if wide else math.isqrt(length - 1) + 1  # ⌈√L⌉
    a, b = _chunks(a, chunk, 1), _chunks(b, chunk, 0)
    h = torch.empty_like(b)  # (batch, chunks, chunk, …)
    a_steps, b_steps = a.unbind(2), b.unbind(2)
    if a.shape[1] == 1:
        state = initial[:, None]
    else:
        a_end, b_end = a_steps[0], b_steps[0]  # (batch, chunks, …)
        for a_t, b_t in zip(a_steps[1:], b_steps[1:], strict=True):
            a_end, b_end = combine((a_end, b_end), (a_t, b_t))
        ends = _scan(a_end, b_end, initial)
        state = torch.cat([initial[:, None], ends[:, :-1]], dim=1)
    for a_t, b_t, h_t in zip(a_steps, b_steps, h.unbind(2), strict=True):
        state = torch.addcmul(b_t, a_t, state, out=h_t)
    # A view: what was filled up is less than a chunk, of √L steps.
    return h.flatten(1, 2)[:, :length]


def _arguments(
    a: Tensor, b: Tensor, initial: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Check them; return a, b and the state before, of one full dtype."""
    _validate.inexact("a", a)
    if a.ndim < 2 or 0 in a.shape:
        raise ValueError(
            "a: expected shape (batch, length, …) without empty dimensions, "
            f"got shape {_validate.shape_text(a.shape)}"
        )
    _validate.shaped("b", b, tuple(a.shape))
    given = {"a": a, "b": b}
    if initial is not None:
        _validate.shaped("initial", initial, (a.shape[0], *a.shape[2:]))
        given["initial"] = initial
    dtype = _validate.full_precision(**given)
    if initial is None:
        initial = torch.zeros_like(b[:, 0])
    return a.to(dtype), b.to(dtype), initial.to(dtype)


def _absorb(a: Tensor, b: Tensor, initial: Tensor) -> Pair:
    """The same h from a state of zero: the first b takes a₀ h_{−1}."""
    first = b[:, :1] + a[:, :1] * initial[:, None]
    return a, torch.cat([first, b[:, 1:]], dim=1)


def _length(elements: Elements) -> int:
    """Check them; return how many positions they have."""
    if not isinstance(elements, tuple) or not elements:
        raise ValueError(
            "elements: expected a tuple of one tensor or more, "
            f"got {_validate.describe(elements)}"
        )
    for x in elements:
        if not isinstance(x, Tensor):
            raise TypeError(
                f"elements: expected tensors, got {_validate.describe(x)}"
            )
        if x.ndim < 2 or x.shape[:2] != elements[0].shape[:2] or 0 in x.shape:
            raise ValueError(
                "elements: expected one batch and one length >= 1 in all, "
                f"got shapes {', '.join(map(_shape, elements))}"
            )
    return elements[0].shape[1]


def _shape(x: Tensor) -> str:
    return _validate.shape_text(x.shape)


def _part(elements: Elements, steps: slice) -> Elements:
    return tuple(x[:, steps] for x in elements)


def _join(left: Elements, right: Elements) -> Elements:
    both = zip(left, right, strict=True)
    return tuple(torch.cat(pair, dim=1) for pair in both)


def _interleave(even: Elements, odd: Elements) -> Elements:
    """Positions 0, 2, 4, … from one and 1, 3, 5, … from the other."""
    whole = []
    for e, o in zip(even, odd, strict=True):
        both = e.new_empty(e.shape[0], e.shape[1] + o.shape[1], *e.shape[2:])
        both[:, 0::2], both[:, 1::2] = e, o
        whole.append(both)
    return tuple(whole)


def _chunks(x: Tensor, chunk: int, fill: int) -> Tensor:
    """(batch, length, …) → (batch, chunks, chunk, …), the end filled up."""
    missing = -x.shape[1] % chunk
    if missing:
        end = x.new_full((x.shape[0], missing, *x.shape[2:]), fill)
        x = torch.cat([x, end], dim=1)
    return x.unflatten(1, (-1, chunk))
