"""Chapter 23: one sequence on several machines.

Every process holds a shard of the sequence, in order of their ranks. To the
state that enters it a shard does one affine map,

    S_out = S_in M + S_own,

so that (M, S_own) is all that the later ranks need of it: a number and a
matrix a head where the gate is a number, whatever the shard's length. Maps are
composed as in chapter 17. Of a convolution a rank needs the last taps − 1
inputs of the rank before. Attention needs all keys and values: they go around
in a ring, and chapter 02's summaries are merged.

Here ``group`` is one of torch.distributed; None is that of all processes.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from linear_time import _validate
from linear_time.attention import (
    SoftmaxSummary,
    online_softmax,
    softmax_summary,
)
from linear_time.delta_rule import delta_rule
from linear_time.duality import (
    Groups,
    Inputs,
    Matrices,
    PerHead,
    Steps,
    ssd,
)
from linear_time.layer import cast_like, full, without_autocast
from linear_time.mamba2 import Mamba2
from linear_time.recurrences import Keys, Numbers, Values

Group = distributed.ProcessGroup | None
Shard = Float[Tensor, "batch length d_model"]
ByHead = Float[Tensor, "batch heads length d"]
Summary = Callable[[Tensor, Tensor, Tensor, bool], SoftmaxSummary]
#: The map of a shard: M, (…, heads) or (…, heads, dk, dk), and what it adds.
ShardMap = tuple[Tensor, Tensor]


# What processes can say to one another, with gradients


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group, x = group, x.contiguous()
        world = distributed.get_world_size(group)
        parts = [torch.empty_like(x) for _ in range(world)]
        distributed.all_gather(parts, x, group=group)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # Each rank has a gradient for what every rank gave: the sum goes home.
        return _swap(grad, ctx.group).sum(0), None


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _swap(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _swap(grad, ctx.group), None


class _Shift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _pass_on(x, 1, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _pass_on(grad, -1, ctx.group), None


def _swap(x: Tensor, group: Group) -> Tensor:
    """Part r of the first dimension to rank r; parts come by their sender."""
    x = x.contiguous()
    received = torch.empty_like(x)
    distributed.all_to_all_single(received, x, group=group)
    return received


def _pass_on(x: Tensor, by: int, group: Group) -> Tensor:
    """What the rank ``by`` places before this one holds, around the ring."""
    rank, world = distributed.get_rank(group), distributed.get_world_size(group)
    x = x.contiguous()
    if world == 1:
        return x.clone()
    received = torch.empty_like(x)
    others = [(rank + by) % world, (rank - by) % world]
    to, source = (
        other if group is None else distributed.get_global_rank(group, other)
        for other in others
    )
    jobs = [
        distributed.P2POp(distributed.isend, x, to, group),
        distributed.P2POp(distributed.irecv, received, source, group),
    ]
    for job in distributed.batch_isend_irecv(jobs):
        job.wait()
    return received


def gather(x: Tensor, group: Group = None) -> Tensor:
    """What all ranks hold, (ranks, …), in every one of them.

    All must hold the same shape. Its gradient goes back to who gave: every
    rank has to take part in that too (``keep``).

    Args:
        x: this rank's tensor.
        group: of processes.
    """
    gathered: Tensor = _Gather.apply(x, group)
    return gathered


def shift(x: Tensor, group: Group = None) -> Tensor:
    """What the rank before holds; in the first rank what the last one holds.

    Args:
        x: this rank's tensor; all have the same shape.
        group: of processes.
    """
    received: Tensor = _Shift.apply(x, group)
    return received


def exchange(x: Tensor, split: int, join: int, group: Group = None) -> Tensor:
    """An all-to-all: shards along one dimension for shards along another.

    Args:
        x: whole along ``split``, this rank's shard along ``join``.
        split: a dimension, which the number of ranks divides.
        join: another dimension.
        group: of processes.

    Returns:
        This rank's shard along ``split``, whole along ``join``.

    Raises:
        ValueError: the ranks do not divide the dimension.
    """
    world = distributed.get_world_size(group)
    if x.shape[split] % world:
        raise ValueError(
            f"x: expected {world} ranks to divide dimension {split}, got "
            f"shape {_validate.shape_text(x.shape)}"
        )
    parts = torch.stack(x.tensor_split(world, dim=split))
    received: Tensor = _Exchange.apply(parts, group)
    return torch.cat(received.unbind(0), dim=join)


def keep(y: Tensor, *others: Tensor) -> Tensor:
    """y, which also depends on the others: on 0 times each of their numbers.

    Backward enters a collective where the output depends on what it gave. A
    rank that ignores what it received would not enter, and the ranks that do
    would wait for it without end. (0 · x would be NaN for an infinite x.)

    Args:
        y: what is used.
        *others: what was received and may be unused.
    """
    for other in others:
        nothing = other.masked_fill(
            torch.ones((), dtype=torch.bool, device=other.device), 0
        )
        y = y + nothing.sum().to(y.dtype)
    return y


# The state that enters a shard


def compose(first: ShardMap, second: ShardMap) -> ShardMap:
    """The map S → S M₁ + S₁ and after it S → S M₂ + S₂, as one map.

    (M₁, S₁) • (M₂, S₂) = (M₁ M₂, S₁ M₂ + S₂): chapter 17's ``combine`` with
    the matrix at the right. Where M is a number a head, it multiplies.

    Args:
        first: of the earlier shard.
        second: of the later one.
    """
    (M_1, S_1), (M_2, S_2) = first, second
    if M_1.ndim < S_1.ndim:
        return M_1 * M_2, S_1 * M_2[..., None, None] + S_2
    return M_1 @ M_2, S_1 @ M_2 + S_2


def entering(
    M: Tensor,
    S: Matrices,
    group: Group = None,
    initial_state: Matrices | None = None,
) -> tuple[Matrices, Matrices]:
    """The state that enters this rank's shard, and the one after the last.

    One all-gather of dk·dv + 1 numbers a head (dk² + dk·dv for a matrix M),
    and the maps of the ranks before, composed on each rank by itself.

    Args:
        M: of this rank's shard, (batch, heads), or (batch, heads, dk, dk).
        S: what the shard leaves of its own, (batch, heads, dv, dk).
        group: of processes.
        initial_state: before the first shard, the same on all ranks; zero
            if None.

    Returns:
        Two states, (batch, heads, dv, dk).
    """
    one_map = M[..., None] if M.ndim == 2 else M.flatten(2)
    flat = torch.cat([one_map, S.flatten(2)], dim=2)
    gathered = gather(flat, group)
    sizes = [one_map.shape[2], S[0, 0].numel()]
    now = torch.zeros_like(S) if initial_state is None else full(initial_state)
    states = [now]
    for one in gathered.unbind(0):
        M_r, S_r = one.split(sizes, dim=2)
        M_r, S_r = M_r.reshape(M.shape), S_r.reshape(S.shape)
        _, now = compose((M_r, now), (M_r, S_r))
        states.append(now)
    rank = distributed.get_rank(group)
    return keep(states[rank], gathered), keep(states[-1], gathered)


def halo(x: Tensor, past: int, group: Group = None) -> Tensor:
    """The last inputs of the rank before; zeros in the first rank.

    Args:
        x: (batch, channels, length) with length ≥ past.
        past: taps − 1.
        group: of processes.

    Returns:
        (batch, channels, past).

    Raises:
        ValueError: the shard is shorter than that.
    """
    if x.shape[-1] < past:
        raise ValueError(
            f"x: expected a shard of at least {past} steps, since its halo "
            f"comes from one rank, got {x.shape[-1]}"
        )
    received = shift(x[..., x.shape[-1] - past :], group)
    first = distributed.get_rank(group) == 0
    return received.masked_fill(torch.tensor(first, device=x.device), 0)


def ssd_shards(
    x: Inputs,
    delta: Steps,
    A: PerHead,
    B: Groups,
    C: Groups,
    D: PerHead | None = None,
    return_last_state: bool = False,
    *,
    initial_state: Matrices | None = None,
    chunk: int = 64,
    group: Group = None,
) -> Inputs | tuple[Inputs, Matrices]:
    """``ssd`` of a sequence whose shards the ranks hold, in order.

    Each computes its shard from a state of zero; the state that enters is
    gathered, and y_t gains exp(c_t) S_in C_t, with c_t = Σ_{r≤t} Δ_r A.

    Args, Returns, Raises: as ``ssd``, of this rank's shard; the initial and
        the last state are those of the whole sequence. Shards may differ in
        length.
    """
    y, S = ssd(x, delta, A, B, C, D, True, chunk=chunk)
    with without_autocast(x):
        # Steps stand last: a sum along another dimension is slow on a GPU.
        since = (full(delta) * full(A)).mT.contiguous().cumsum(-1).exp()
        before, last = entering(since[..., -1], S, group, initial_state)
        groups, (batch, heads, P, N) = B.shape[2], S.shape
        shared = before.reshape(batch, groups, heads // groups * P, N)
        read = shared @ full(C).permute(0, 2, 3, 1)  # (…, heads · P, length)
        read = read.reshape(batch, heads, P, -1) * since[:, :, None]
        y = y + cast_like(read.permute(0, 3, 1, 2), x)
    return (y, last) if return_last_state else y


def delta_shards(
    q: Keys,
    k: Keys,
    v: Values,
    beta: Numbers,
    log_decay: Numbers | Keys | None = None,
    *,
    chunk: int = 64,
    group: Group = None,
) -> Values:
    """``delta_rule`` of a sequence whose shards the ranks hold, in order.

    With nothing to write, from the state I, a shard leaves M, and what it
    reads at t is M_t q_t, so that y_t gains S_in (M_t q_t).

    Args, Returns, Raises: as ``delta_rule``, of this rank's shard.
    """
    y, S = delta_rule(q, k, v, beta, log_decay, True, chunk=chunk)
    batch, _, heads, dk = k.shape
    eye = torch.eye(dk, dtype=S.dtype, device=S.device)
    through, M = delta_rule(
        q, k, torch.zeros_like(k), beta, log_decay, True,
        initial_state=eye.expand(batch, heads, dk, dk), chunk=chunk,
    )  # fmt: skip
    before, _ = entering(M, S, group)
    read = torch.einsum("bhvk,blhk->blhv", before, full(through))
    return y + cast_like(read, v)


def mamba2_shards(layer: Mamba2, x: Shard, group: Group = None) -> Shard:
    """A whole Mamba-2 layer on a shard: the halo, then the state.

    Args:
        layer: the same on all ranks.
        x: this rank's shard, (batch, length, d_model).
        group: of processes.

    Returns:
        Of ``layer`` on the whole sequence, this rank's shard.
    """
    layer.check_input(x)
    z, mixed, delta = layer.project(x)
    past = halo(mixed.mT, layer.taps - 1, group)
    u, B, C = layer.convolve(torch.cat([past, mixed.mT], dim=2))
    step = functional.softplus(full(delta) + layer.dt_bias)
    y, _ = ssd_shards(
        u, step, layer.A, B, C, layer.D, True, chunk=layer.chunk, group=group
    )
    return layer.out_proj(layer.norm(y.flatten(2), z))


def ssd_heads(
    x: Inputs,
    delta: Steps,
    A: PerHead,
    B: Groups,
    C: Groups,
    D: PerHead | None = None,
    *,
    chunk: int = 64,
    group: Group = None,
) -> Inputs:
    """``ssd`` by an all-to-all: the whole sequence of some of the heads.

    Shards of the sequence are exchanged for shards of the heads, and back.
    Groups that the ranks do not divide are copied first.

    Args, Returns, Raises: as ``ssd_shards``; all shards are of one length,
        and the ranks divide the heads.
    """
    rank, world = distributed.get_rank(group), distributed.get_world_size(group)
    copies = world // math.gcd(world, B.shape[2])
    B, C = (v.repeat_interleave(copies, dim=2) for v in (B, C))
    x, delta, B, C = (exchange(v, 2, 1, group) for v in (x, delta, B, C))
    own = slice(rank * len(A) // world, (rank + 1) * len(A) // world)
    skip = None if D is None else D[own]
    y, _ = ssd(x, delta, A[own], B, C, skip, True, chunk=chunk)
    return exchange(y, 1, 2, group)


# Attention, whose keys go around


def scores_summary(
    q: Tensor, k: Tensor, v: Tensor, causal: bool
) -> SoftmaxSummary:
    """The summary of one block of keys, by its matrix of scores."""
    scores = full(q) @ full(k).mT / math.sqrt(q.shape[-1])
    if causal:
        future = torch.ones(scores.shape[-2:], device=q.device).triu(1).bool()
        scores = scores.masked_fill(future, -math.inf)
    return softmax_summary(scores, v)


def ring_attention(
    q: ByHead,
    k: ByHead,
    v: ByHead,
    causal: bool = True,
    group: Group = None,
    summary: Summary = scores_summary,
) -> ByHead:
    """Attention over a sequence whose shards the ranks hold, in order.

    In round i a rank has the keys and values of the rank i places before it,
    takes their ``SoftmaxSummary``, merges it into its own and passes them on.
    A causal rank ignores what comes from later ranks.

    Args:
        q, k, v: this rank's shard, (batch, heads, length, d); all shards
            are of one length.
        causal: query t reads keys s ≤ t only.
        group: of processes.
        summary: of one block, ``summary(q, k, v, causal)``.

    Returns:
        As q, with the width of v.

    Source: Liu, Zaharia & Abbeel (2023), "Ring Attention with Blockwise
        Transformers".
    """
    rank, world = distributed.get_rank(group), distributed.get_world_size(group)
    total = summary(q, k, v, causal)  # its own
    for i in range(1, world):
        k, v = shift(k, group), shift(v, group)
        if rank >= i or not causal:
            total = online_softmax(total, summary(q, k, v, False))
    y = total.weighted / total.total[..., None]
    return keep(cast_like(y, q), k, v)


# What is sent


_NAMES = {
    "allgather_": "gather",
    "_allgather_base_": "gather",
    "alltoall_base_": "all-to-all",
    "send": "send",
    "allreduce_": "all-reduce",
    "_reduce_scatter_base_": "reduce-scatter",
    # As DTensor calls them.
    "all_reduce": "all-reduce",
    "all_gather_into_tensor": "gather",
    "reduce_scatter_tensor": "reduce-scatter",
}


class Traffic(TorchDispatchMode):
    """Counts what this process sends: ``with Traffic() as sent:``.

    ``sent.rounds`` has the number of collectives by name and ``sent.bytes``
    the bytes that leave this process, where a collective of W ranks is
    counted as its ring: of a gather, W − 1 times its own part; of an
    all-to-all, and of a reduce-scatter, all but the part that stays; of an
    all-reduce, twice that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rounds: dict[str, int] = {}
        self.bytes = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = _NAMES.get(func._schema.name.partition("::")[2])
        if name and func.namespace in ("c10d", "_c10d_functional"):
            world = distributed.get_world_size()
            # c10d has the output before the input of a gather or a scatter.
            second = func.namespace == "c10d" and (
                name in ("gather", "reduce-scatter")
            )
            of = args[1] if second else args[0]
            tensors = [of] if isinstance(of, Tensor) else list(of)
            held = sum(t.numel() * t.itemsize for t in tensors)
            share = {
                "gather": world - 1,
                "send": 1,
                "all-reduce": 2 * (world - 1) / world,
            }.get(name, (world - 1) / world)
            self.rounds[name] = self.rounds.get(name, 0) + 1
            self.bytes += share * held
        return func(*args, **(kwargs or {}))
