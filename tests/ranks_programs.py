"""What the processes of test_distributed.py run: they import it, and are sent only names.

Each takes its rank, and whole tensors of which it uses its own shard; what comes back is this
shard of the output and of each gradient.
"""

import time

import torch
from torch import distributed
from torch.distributed import distributed_c10d as c10d
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from linear_time import distributed as d
from linear_time.decoder import SwiGLU
from linear_time.mamba2 import Mamba2Config, Mamba2LM


def cut(tensors, sizes, dim):
    """This rank's shard of each, as leaves."""
    rank = distributed.get_rank()
    return [t.split(sizes, dim)[rank].clone().requires_grad_() for t in tensors]


def gradients(y, leaves):
    return y.detach(), *torch.autograd.grad(y.square().sum(), leaves)


def scan(rank, inputs, A, D, sizes, school, initial_state=None):
    own = cut(inputs, sizes, 1)
    with d.Traffic() as sent:
        if school == "states":
            y, last = d.ssd_shards(
                own[0], own[1], A, *own[2:], D, True, initial_state=initial_state, chunk=4
            )
        else:
            y, last = d.ssd_heads(own[0], own[1], A, *own[2:], D, chunk=4), None
    forward = dict(sent.rounds), sent.bytes
    found = gradients(y, own)
    return found, None if last is None else last.detach(), forward


def delta(rank, inputs, sizes):
    own = cut(inputs, sizes, 1)
    return gradients(d.delta_shards(*own, chunk=4), own)


def layer(rank, mixer, x, sizes):
    own = cut([x], sizes, 1)
    return gradients(d.mamba2_shards(mixer, *own), own)


def ring(rank, inputs, sizes, causal):
    own = cut(inputs, sizes, 2)
    with d.Traffic() as sent:
        y = d.ring_attention(*own, causal=causal)
    forward = dict(sent.rounds), sent.bytes
    return gradients(y, own), forward


def keys_of_groups(rank, q, k):
    """What attention sends for queries and keys (batch, heads, length, d): all-to-all, and ring."""
    world = distributed.get_world_size()
    with d.Traffic() as by_heads:
        for t in (q, k, k):  # queries, keys, values
            d.exchange(t, 1, 2)
        d.exchange(q.repeat(1, 1, world, 1)[:, : q.shape[1] // world], 2, 1)  # home
    with d.Traffic() as around:
        d.ring_attention(q, k, k, summary=grouped_summary)
    return by_heads.bytes, around.bytes


def grouped_summary(q, k, v, causal):
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    return d.scores_summary(q, k, v, causal)


def collectives(rank, x):
    """A gather, a shift and an all-to-all of what each rank holds, with their gradients."""
    own = x[rank].clone().requires_grad_()
    world = distributed.get_world_size()
    weight = torch.arange(1.0, world + 1) * (rank + 1)
    gathered = d.gather(own)
    (of_gather,) = torch.autograd.grad((gathered.sum((1, 2)) * weight).sum(), own)
    shifted = d.shift(own)
    (of_shift,) = torch.autograd.grad((shifted * (rank + 1)).sum(), own)
    swapped = d.exchange(own, 0, 1)
    (of_swap,) = torch.autograd.grad((swapped * (rank + 1)).sum(), own)
    return [t.detach() for t in (gathered, of_gather, shifted, of_shift, swapped, of_swap)]


def in_a_group(rank, work, inputs, dim, others=()):
    """The two last ranks of three are a group of their own, which knows nothing of the first."""
    group = distributed.new_group([1, 2])
    if rank == 0:
        return None
    own = [t.chunk(2, dim)[rank - 1].clone().requires_grad_() for t in inputs]
    if work == "ring":
        y = d.ring_attention(*own, group=group)
    elif work == "layer":
        y = d.mamba2_shards(*others, *own, group=group)
    elif work == "delta":
        y = d.delta_shards(*own, chunk=4, group=group)
    else:
        A, D = others
        y = getattr(d, work)(own[0], own[1], A, *own[2:], D, chunk=4, group=group)
    return gradients(y, own)


def halo_of(rank, x, past):
    return d.halo(x, past)


def uneven(rank):
    return d.exchange(torch.zeros(distributed.get_world_size() + 1, 2), 0, 1)


def ignoring(rank, mended):
    """Rank 0 needs nothing of what it gathers, as the first shard of a sequence."""
    x = torch.ones(2, requires_grad=True)
    gathered = d.gather(x)
    y = x.sum()
    if rank:
        y = y + gathered[:rank].sum()
    if mended:
        y = d.keep(y, gathered)
    y.backward()
    return x.grad


def tensor_parallel(rank, x, state):
    """The book's gated MLP, its hidden channels over the ranks, by torch's DTensor."""
    mlp = SwiGLU(8, 12)
    mlp.load_state_dict(state)
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    plan = {"gate": ColwiseParallel(), "up": ColwiseParallel(), "down": RowwiseParallel()}
    parallelize_module(mlp, mesh, plan)
    with d.Traffic() as sent:
        y = mlp(x).clone()  # which waits for the sum
    return y.detach(), mlp.gate.weight.to_local().shape, sent.rounds


def torchs_context_parallel(rank, x):
    """Attention of a CPU under torch's own sharding of the sequence."""
    from torch.distributed.tensor.experimental import context_parallel

    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    q, k, v = (t.clone() for t in x)
    with context_parallel(mesh, buffers=[q, k, v], buffer_seq_dims=[2, 2, 2]):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def infinite(rank):
    x = torch.tensor([float("inf")], requires_grad=True)
    y = d.keep(torch.ones(()), d.gather(x))
    y.backward()
    return y.detach(), x.grad


def breaking(rank):
    if rank == 1:
        raise ValueError("this one has a fault of its own")  # which is no timeout
    distributed.barrier()


def number(rank, x=None):
    return rank, distributed.get_world_size(), torch.zeros(1).dtype, torch.rand(1).item()


def starts_badly(rank):
    """The next group does not come about in rank 0."""
    real = c10d.ProcessGroupGloo

    def once(*given, **named):
        c10d.ProcessGroupGloo = real
        raise RuntimeError("no transport")

    if rank == 0:
        c10d.ProcessGroupGloo = once


def starts_late(rank):
    """The next group comes about late in rank 0."""
    real = c10d.ProcessGroupGloo

    def once(*given, **named):
        c10d.ProcessGroupGloo = real
        time.sleep(1.5)
        return real(*given, **named)

    if rank == 0:
        c10d.ProcessGroupGloo = once


def sharded_model(rank, tokens, registered):
    """Logits, and the tokens that a sharded model generates."""
    torch.manual_seed(0)
    model = Mamba2LM(Mamba2Config(vocab_size=11, d_model=8, n_layer=2, N=4, P=4, chunk=4))
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    held = sum(p.to_local().numel() for p in model.parameters())
    if registered:
        register_fsdp_forward_method(model, "prefill")
        for block in model.blocks:
            register_fsdp_forward_method(block, "prefill")
    with torch.no_grad():
        return model(tokens), model.prefill(tokens)[0], held
