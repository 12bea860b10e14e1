"""Chapter 02: attention is torch's; the tiled form is the plain one in linear memory; the cache."""

import copy
import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from helpers import Largest, close, count_flops, draw, source
from linear_time.attention import (
    CausalSelfAttention,
    MultiHeadAttention,
    SoftmaxSummary,
    attend_by_tiles,
    attention,
    causal_mask,
    join_heads,
    online_softmax,
    online_softmax_attention,
    softmax_summary,
    split_heads,
)
from linear_time.cache import KVCache, extend

F64 = torch.float64
seeds = st.integers(0, 2**31 - 1)
small = st.integers(1, 9)
batches = st.sampled_from([(), (3,), (2, 3), (2, 1, 2)])


def qkv(seed, queries, keys, d_head=4, d_value=3, batch=(), scale=1.0):
    draw = source(seed)
    return (
        scale * draw(*batch, queries, d_head),
        scale * draw(*batch, keys, d_head),
        draw(*batch, keys, d_value),
    )


# --- plain attention -----------------------------------------------------------------------------


@given(seed=seeds, queries=small, keys=small, d_head=small, d_value=small, batch=batches)
def test_equals_torch(seed, queries, keys, d_head, d_value, batch):
    q, k, v = qkv(seed, queries, keys, d_head, d_value, batch)
    close(attention(q, k, v), scaled_dot_product_attention(q, k, v))
    mask = source(seed + 1)(*batch, queries, keys) > 0
    mask[..., 0] = True  # torch and we differ on rows that may read nothing: below
    close(attention(q, k, v, mask), scaled_dot_product_attention(q, k, v, attn_mask=mask))
    if queries == keys:
        close(
            attention(q, k, v, causal_mask(keys)),
            scaled_dot_product_attention(q, k, v, is_causal=True),
        )


@pytest.mark.parametrize(
    "shape", [(6,), (1, 6), (5, 1), (3, 1, 6), (1, 5, 6), (3, 5, 6), (3, 5, 1)]
)
def test_masks_broadcast(shape):
    q, k, v = qkv(0, 5, 6, batch=(3,))
    mask = source(1)(*shape) > -0.3
    full = mask.expand(3, 5, 6)
    close(attention(q, k, v, mask), attention(q, k, v, full.contiguous()))


def test_a_query_that_may_read_nothing_gets_zeros_and_finite_gradients():
    q, k, v = (tensor.requires_grad_() for tensor in qkv(0, 4, 5))
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[1] = False
    y = attention(q, k, v, mask)
    assert (y[1] == 0).all() and torch.isfinite(y).all()
    others = attention(q[[0, 2, 3]], k, v)
    close(y[[0, 2, 3]], others)
    wanted = torch.autograd.grad(others.square().sum(), (q, k, v), retain_graph=True)
    got = torch.autograd.grad(y.square().sum() + y[1].sum(), (q, k, v))
    for one, other in zip(got, wanted, strict=True):
        assert torch.isfinite(one).all()
        close(one, other)
    assert (got[0][1] == 0).all()


def test_masked_keys_have_no_influence_at_all():
    q, k, v = qkv(0, 4, 5)
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[:, 2] = False
    k.requires_grad_()
    v.requires_grad_()
    attention(q, k, v, mask).sum().backward()
    assert (k.grad[2] == 0).all() and (v.grad[2] == 0).all()
    assert (k.grad[[0, 1, 3, 4]] != 0).any(1).all()


def test_gradcheck_plain():
    q, k, v = (tensor.requires_grad_() for tensor in qkv(0, 3, 4))
    mask = torch.tensor([[True, False, True, True], [False] * 4, [True] * 4])
    assert torch.autograd.gradcheck(lambda *t: attention(*t, mask), (q, k, v))


def test_large_scores_do_not_overflow():
    q, k, v = qkv(0, 6, 6, scale=1e4)
    nearest = (q @ k.mT).argmax(-1)
    for y in (attention(q, k, v), online_softmax_attention(q, k, v, block=2)):
        close(y, v[nearest], 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("function", [attention, online_softmax_attention])
def test_half_precision_ends_with_the_result(function, dtype):
    """In float16 a total of 70,000 keys is infinite, in bfloat16 it stops at 256."""
    n = 70_000
    q, k, v = torch.zeros(1, 2, dtype=dtype), torch.zeros(n, 2, dtype=dtype), torch.ones(n, 1)
    one = function(q, k, v.to(dtype)).item()
    assert abs(one - 1) <= torch.finfo(dtype).eps
    y = torch.linspace(-1, 1, n)[:, None].to(dtype)
    close(function(q, k, y).double(), y.double().mean(0, keepdim=True), 1e-3)
    # scores of 256² · 4 = 262,144 before the root of the width: too large for float16
    q = torch.full((1, 4), 256.0, dtype=dtype)
    k = torch.cat([q, -q, 0.5 * q])
    v = torch.tensor([[1.0], [2.0], [3.0]], dtype=dtype)
    got = function(q.requires_grad_(), k, v)
    assert got.item() == 1 and got.dtype == dtype
    (gradient,) = torch.autograd.grad(got, q)
    assert gradient.dtype == dtype and (gradient == 0).all()


@pytest.mark.parametrize("function", [attention, online_softmax_attention])
def test_autocast_does_not_reach_the_scores(function):
    """Forward and backward of float32 tensors are what they are without it."""
    inputs = [tensor.float().requires_grad_() for tensor in qkv(0, 20, 20, scale=3.0)]
    wanted = function(*inputs)
    gradients = torch.autograd.grad(wanted.square().sum(), inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = function(*inputs)
        assert torch.equal(got, wanted)
        if function is online_softmax_attention:  # its backward is our own
            again = torch.autograd.grad(got.square().sum(), inputs)
            assert all(map(torch.equal, again, gradients))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_summaries_are_at_least_float32(dtype):
    scores, v = torch.zeros(1, 300, dtype=dtype), torch.ones(300, 1, dtype=dtype)
    part = softmax_summary(scores, v)
    assert {field.dtype for field in part} == {torch.float32} and part.total.item() == 300
    low = SoftmaxSummary(*(field.to(dtype) for field in softmax_summary(scores[:, :200], v[:200])))
    merged = online_softmax(low, low)
    assert {field.dtype for field in merged} == {torch.float32} and merged.total.item() == 400


def test_equal_keys_give_the_mean_and_a_far_key_its_value():
    q, _, v = qkv(0, 3, 5)
    close(attention(q, torch.zeros(5, 4, dtype=F64), v), v.mean(0).expand(3, 3))


# --- three conventions of torch ------------------------------------------------------------------


def test_torchs_two_masks_mean_opposite_things():
    """True: may read, in scaled_dot_product_attention; may not, in nn.MultiheadAttention."""
    q, k, v = qkv(0, 4, 4, 4, 4, batch=(2,))
    mask = causal_mask(4)
    close(attention(q, k, v, mask), scaled_dot_product_attention(q, k, v, attn_mask=mask))
    layer = nn.MultiheadAttention(4, 1, bias=False, batch_first=True).double()
    with torch.no_grad():
        layer.in_proj_weight.copy_(torch.eye(4).repeat(3, 1))
        layer.out_proj.weight.copy_(torch.eye(4))
        close(attention(q, k, v, mask), layer(q, k, v, attn_mask=~mask)[0])


def test_a_row_without_keys_is_zero_or_nan():
    q, k, v = qkv(0, 3, 3, 4, 4, batch=(1,))
    mask = causal_mask(3).clone()
    mask[1] = False
    assert (attention(q, k, v, mask)[:, 1] == 0).all()
    assert (scaled_dot_product_attention(q, k, v, attn_mask=mask)[:, 1] == 0).all()
    layer = nn.MultiheadAttention(4, 1, batch_first=True).double()
    assert layer(q, k, v, attn_mask=~mask)[0][:, 1].isnan().all()


def test_is_causal_aligns_with_the_first_key():
    q, k, v = qkv(0, 1, 6)
    close(scaled_dot_product_attention(q, k, v, is_causal=True), v[:1])
    q, k, v = qkv(0, 2, 6)
    first = scaled_dot_product_attention(q, k, v, is_causal=True)
    close(first, attention(q, k, v, causal_mask(6)[:2]))
    assert (first - attention(q, k, v, causal_mask(6)[-2:])).abs().max() > 0.01


# --- online softmax ------------------------------------------------------------------------------


def value_of(summary):
    return summary.weighted / summary.total[..., None]


@given(seed=seeds, queries=small, parts=st.lists(small, min_size=1, max_size=5), batch=batches)
def test_merged_blocks_are_the_softmax_of_all(seed, queries, parts, batch):
    draw = source(seed)
    scores, v = 5 * draw(*batch, queries, sum(parts)), draw(*batch, sum(parts), 3)
    blocks = [
        softmax_summary(*block)
        for block in zip(scores.split(parts, -1), v.split(parts, -2), strict=True)
    ]
    merged = blocks[0]
    for block in blocks[1:]:
        merged = online_softmax(merged, block)
    close(value_of(merged), scores.softmax(-1) @ v)
    close(merged.maximum + merged.total.log(), scores.logsumexp(-1))
    assert torch.equal(merged.maximum, scores.amax(-1))
    for one, other in zip(merged, softmax_summary(scores, v), strict=True):
        close(one, other)


@given(seed=seeds)
def test_the_merge_is_associative_and_commutative_with_a_neutral_element(seed):
    draw = source(seed)
    a, b, c = (softmax_summary(9 * draw(4, 3), draw(3, 2)) for _ in range(3))
    neutral = SoftmaxSummary(
        torch.full((4,), -math.inf, dtype=F64), torch.zeros_like(a.total), 0 * a.weighted
    )
    pairs = [
        (online_softmax(online_softmax(a, b), c), online_softmax(a, online_softmax(b, c))),
        (online_softmax(a, b), online_softmax(b, a)),
        (online_softmax(a, neutral), a),
        (online_softmax(neutral, a), a),
        (online_softmax(neutral, neutral), neutral),
    ]
    for left, right in pairs:
        for one, other in zip(left, right, strict=True):
            close(one, other)


def test_a_block_of_masked_keys_is_neutral():
    draw = source(0)
    v = draw(3, 2)
    masked = softmax_summary(torch.full((4, 3), -math.inf, dtype=F64), v)
    assert (masked.total == 0).all() and (masked.weighted == 0).all()
    real = softmax_summary(draw(4, 3), v)
    for one, other in zip(online_softmax(masked, real), real, strict=True):
        assert torch.equal(one, other)


# --- tiled attention -----------------------------------------------------------------------------


@given(seed=seeds, queries=st.integers(1, 20), keys=st.integers(1, 20), block=small, batch=batches)
def test_tiled_is_plain(seed, queries, keys, block, batch):
    q, k, v = qkv(seed, queries, keys, batch=batch, scale=3.0)
    close(online_softmax_attention(q, k, v, block=block), attention(q, k, v))
    k, v = k[..., :queries, :], v[..., :queries, :]
    q = q[..., : k.shape[-2], :]
    causal = online_softmax_attention(q, k, v, causal=True, block=block)
    close(causal, attention(q, k, v, causal_mask(q.shape[-2])))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("block", [1, 2, 3, 5, 7, 100])
def test_tiled_gradients_are_the_plain_ones(causal, block):
    q, k, v = (tensor.requires_grad_() for tensor in qkv(0, 7, 7, batch=(2,)))
    weight = source(1)(2, 7, 3)
    mask = causal_mask(7) if causal else None
    wanted = torch.autograd.grad((weight * attention(q, k, v, mask)).sum(), (q, k, v))
    tiled = online_softmax_attention(q, k, v, causal, block)
    got = torch.autograd.grad((weight * tiled).sum(), (q, k, v))
    for one, other in zip(got, wanted, strict=True):
        close(one, other, 1e-11)


@pytest.mark.parametrize("causal", [False, True])
def test_gradcheck_tiled(causal):
    q, k, v = (tensor.requires_grad_() for tensor in qkv(0, 5, 5))
    assert torch.autograd.gradcheck(
        lambda *t: online_softmax_attention(*t, causal=causal, block=2), (q, k, v)
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("block", [1, 3, 7, 100])
def test_tiled_leaves_masked_keys_out(causal, block):
    """Rows of a batch with other keys masked; in one, the first queries may read nothing."""
    q, k, v = (tensor.requires_grad_() for tensor in qkv(0, 7, 7, batch=(3, 2)))
    real = torch.ones(3, 1, 7, dtype=torch.bool)
    real[1, :, :4] = False
    real[2, :, [1, 5]] = False
    mask = real[..., None, :].expand(3, 2, 7, 7)
    if causal:
        mask = mask & causal_mask(7)
    weight = source(1)(3, 2, 7, 3)
    plain = attention(q, k, v, mask)
    tiled = online_softmax_attention(q, k, v, causal, block, real)
    close(tiled, plain)
    if causal:
        assert (tiled[1, :, :4] == 0).all()
    wanted = torch.autograd.grad((weight * plain).sum(), (q, k, v))
    got = torch.autograd.grad((weight * tiled).sum(), (q, k, v))
    for one, other in zip(got, wanted, strict=True):
        close(one, other, 1e-11)
    nothing = torch.zeros(3, 1, 7, dtype=torch.bool)
    y = online_softmax_attention(q, k, v, causal, block, nothing)
    assert (y == 0).all() and (torch.autograd.grad(y.sum(), v)[0] == 0).all()


@pytest.mark.parametrize("block", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("queries", [1, 2, 4, 9])
def test_causal_tiles_of_few_queries_are_those_of_the_last(queries, block):
    q, k, v = (tensor.requires_grad_() for tensor in qkv(0, queries, 9, batch=(2,)))
    wanted = attention(q, k, v, causal_mask(9)[9 - queries :])
    got = attend_by_tiles(q, k, v, True, block, None)
    close(got, wanted)
    weight = source(1)(2, queries, 3)
    pairs = zip(
        torch.autograd.grad((weight * got).sum(), (q, k, v)),
        torch.autograd.grad((weight * wanted).sum(), (q, k, v)),
        strict=True,
    )
    for one, other in pairs:
        close(one, other, 1e-11)


def test_tiled_refuses_a_second_derivative():
    q, k, v = (tensor.requires_grad_() for tensor in qkv(0, 4, 4))
    y = online_softmax_attention(q, k, v).sum()
    with pytest.raises(RuntimeError, match="expected to be differentiated once, got create_graph"):
        torch.autograd.grad(y, q, create_graph=True)


def counted(run, length):
    """(numbers in the largest tensor made, entries kept for backward)."""
    q, k, v = (tensor.requires_grad_() for tensor in qkv(0, length, length, 8, 8))
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = run(q, k, v).sum()
        kept = sum(saved.values())
        y.backward()
    return largest.numbers, kept


@pytest.mark.parametrize("causal", [False, True])
def test_memory_grows_with_the_length_when_tiled_and_with_its_square_when_plain(causal):
    def tiled(q, k, v):
        return online_softmax_attention(q, k, v, causal, block=16)

    def plain(q, k, v):
        return attention(q, k, v, causal_mask(q.shape[-2]) if causal else None)

    lengths = (128, 256, 512)
    for length in lengths:
        largest, kept = counted(tiled, length)
        assert largest == 8 * length  # q, k, v, out: no tile is larger
        assert kept == (4 * 8 + 1) * length  # q, k, v, out and one number a query
    ratio = counted(plain, 512)[0] / counted(plain, 256)[0]
    assert ratio == 4 and counted(plain, 512)[0] == 512**2
    assert counted(plain, 512)[1] > 512**2


def test_causal_tiles_of_the_future_are_never_made():
    class Products(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm)
            return function(*args, **(kwargs or {}))

    counts = []
    for causal in (False, True):
        with Products() as products:
            online_softmax_attention(*qkv(0, 32, 32), causal=causal, block=4)
        counts.append(products.count)
    assert counts == [2 * 8 * 8, 2 * 8 * 9 // 2]


# --- many heads ----------------------------------------------------------------------------------


def copied(theirs, d_model, n_heads, d_kv):
    ours = MultiHeadAttention(d_model, n_heads, d_kv).double()
    draw = source(9)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(draw(*parameter.shape))
        if theirs.in_proj_weight is None:
            weights = theirs.q_proj_weight, theirs.k_proj_weight, theirs.v_proj_weight
        else:
            weights = theirs.in_proj_weight.chunk(3)
        layers = ours.query, ours.key, ours.value
        for layer, weight, bias in zip(layers, weights, theirs.in_proj_bias.chunk(3), strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        ours.out.load_state_dict(theirs.out_proj.state_dict())
    return ours


@pytest.mark.parametrize(("d_model", "n_heads"), [(6, 1), (6, 2), (6, 6), (1, 1)])
@pytest.mark.parametrize("d_kv", [None, 5])
@torch.no_grad()
def test_many_heads_are_torchs(d_model, n_heads, d_kv):
    theirs = nn.MultiheadAttention(d_model, n_heads, kdim=d_kv, vdim=d_kv, batch_first=True)
    theirs = theirs.double().eval()
    ours = copied(theirs, d_model, n_heads, d_kv)
    draw = source(0)
    x, context = draw(3, 4, d_model), draw(3, 7, d_kv or d_model)
    close(ours(x, context), theirs(x, context, context)[0], 1e-10)
    key_mask = draw(3, 7) > 0
    key_mask[:, 2] = True
    mask = draw(4, 7) > 0
    mask[:, 2] = True
    got = ours(x, context, mask=mask, key_mask=key_mask)
    wanted = theirs(x, context, context, key_padding_mask=~key_mask, attn_mask=~mask)[0]
    close(got, wanted, 1e-10)
    close(
        ours(x, context, key_mask=key_mask), ours(x, context, key_mask[:1].new_ones(4, 7), key_mask)
    )
    if d_kv is None:
        close(ours(x), theirs(x, x, x)[0], 1e-10)


@torch.no_grad()
def test_own_widths_of_keys_and_values():
    layer = MultiHeadAttention(6, 2, d_kv=5, d_qk=4, d_v=10).double()
    draw = source(0)
    x, context = draw(3, 4, 6), draw(3, 7, 5)
    heads = []
    for head in range(2):
        of_qk, of_v = slice(2 * head, 2 * head + 2), slice(5 * head, 5 * head + 5)
        q, k, v = layer.query(x), layer.key(context), layer.value(context)
        heads.append(scaled_dot_product_attention(q[..., of_qk], k[..., of_qk], v[..., of_v]))
    close(layer(x, context), layer.out(torch.cat(heads, -1)))


@torch.no_grad()
def test_a_bias_of_the_keys_changes_nothing_and_padding_neither():
    layer = MultiHeadAttention(6, 2).double()
    draw = source(0)
    x, context = draw(2, 4, 6), draw(2, 7, 6)
    y = layer(x, context)
    layer.key.bias += 3 * draw(6)
    close(layer(x, context), y)
    real = torch.arange(9) < 7
    padded = torch.cat([context, 100 * draw(2, 2, 6)], 1)
    close(layer(x, padded, key_mask=real.expand(2, 9)), y)


@torch.no_grad()
def test_a_row_of_padding_alone_reads_nothing():
    """What is read is zero; the bias of the last map is not read."""
    layer = MultiHeadAttention(6, 2, d_kv=5).double()
    draw = source(0)
    x, context = draw(3, 4, 6), draw(3, 7, 5)
    key_mask = torch.ones(3, 7, dtype=torch.bool)
    key_mask[1] = False
    y = layer(x, context, key_mask=key_mask)
    close(y[1], layer.out.bias.expand(4, 6))
    close(y[[0, 2]], layer(x[[0, 2]], context[[0, 2]]))
    mask = torch.ones(4, 7, dtype=torch.bool)
    mask[2] = False
    close(layer(x, context, mask=mask)[:, 2], layer.out.bias.expand(3, 6))


def test_heads_split_and_join():
    x = source(0)(2, 5, 6)
    heads = split_heads(x, 3)
    assert heads.shape == (2, 3, 5, 2)
    assert torch.equal(heads[:, 1], x[..., 2:4])
    assert torch.equal(join_heads(heads), x)


# --- the causal mixer ----------------------------------------------------------------------------


@pytest.mark.parametrize("block", [None, 1, 4, 64])
@torch.no_grad()
def test_causal_mixer_is_torchs_layer_under_a_mask(block):
    torch.manual_seed(0)
    mixer = CausalSelfAttention(6, 2, block).double()
    heads = mixer.heads
    theirs = nn.MultiheadAttention(6, 2, bias=False, batch_first=True).double().eval()
    weights = [heads.query.weight, heads.key.weight, heads.value.weight]
    theirs.in_proj_weight.copy_(torch.cat(weights))
    theirs.out_proj.weight.copy_(heads.out.weight)
    x = source(0)(3, 11, 6)
    close(mixer(x), theirs(x, x, x, attn_mask=~causal_mask(11))[0])
    close(mixer(x), heads(x, mask=causal_mask(11)))


@torch.no_grad()
def test_the_cache_keeps_the_order_of_the_positions():
    cache = KVCache.empty(1, 1, 1, None, None)
    for number in range(3):
        cache = cache.append(torch.full((1, 1, 1, 1), number), torch.full((1, 1, 1, 1), -number))
    assert cache.k.flatten().tolist() == [0, 1, 2]
    assert cache.v.flatten().tolist() == [0, -1, -2]


@given(seed=seeds, dim=st.integers(0, 2), steps=st.integers(1, 40))
@torch.no_grad()
def test_what_is_extended_is_joined_and_never_changes(seed, dim, steps):
    """Any parent, or its newest part, may be continued, any number of times."""
    draw, choose = source(seed), torch.Generator().manual_seed(seed)
    first = list(draw(60, 60, 60).shape)
    first[dim] = 5
    known = [(start := draw(*first), start.clone())]
    for _ in range(steps):
        old, right = known[int(torch.randint(len(known), (), generator=choose))]
        drop = int(torch.randint(3, (), generator=choose)) % (old.shape[dim] - 1)
        old = old.narrow(dim, drop, old.shape[dim] - drop)
        right = right.narrow(dim, drop, right.shape[dim] - drop)
        sizes = list(first)
        sizes[dim] = int(torch.randint(1, 4, (), generator=choose))
        new = draw(*sizes)
        known.append((extend(old, new, dim), torch.cat([right, new], dim)))
        known = known[-12:]
    for got, right in known:
        assert torch.equal(got, right)


@torch.no_grad()
def test_a_cache_is_copied_a_logarithm_of_times():
    state, new = KVCache(*torch.zeros(2, 1, 4, 1024, 8)), torch.ones(1, 4, 1, 8)
    buffers = set()
    for t in range(5000):
        state = state.append(t * new, -t * new)
        buffers.add(state.k.untyped_storage().data_ptr())
        assert state.k.untyped_storage().nbytes() <= 2 * state.k.nbytes
    assert len(buffers) <= 3  # for 2050, 4102 and 8206 positions
    assert torch.equal(state.k[0, 2, 1024:, 3], torch.arange(5000.0))
    assert torch.equal(state.v, -state.k)


@torch.no_grad()
def test_a_window_slides_without_being_copied_each_time():
    new, state, copies = torch.ones(1, 4, 1, 8), KVCache(*torch.zeros(2, 1, 4, 1024, 8)), 0
    for t in range(5000):
        before = state.k.untyped_storage().data_ptr()
        state = state.newest(1023).append(t * new, -t * new)
        assert state.k.shape[2] == 1024 and state.position == 1025 + t
        assert state.k.untyped_storage().nbytes() <= 2.1 * state.k.nbytes
        copies += state.k.untyped_storage().data_ptr() != before
    assert copies <= 5
    assert torch.equal(state.k[0, 2, :, 3], torch.arange(5000.0)[-1024:])
    small = state.newest(600).append(new, new)
    assert small.k.untyped_storage().nbytes() <= 4 * small.k.nbytes
    assert torch.equal(small.k[:, :, :-1], state.k[:, :, -600:])
    assert state.newest(2000).k.shape[2] == 1024 and state.newest(2000).dropped == state.dropped


@torch.no_grad()
def test_a_state_is_continued_twice_and_stays():
    mixer = CausalSelfAttention(32, 2).double()
    x = source(0)(1, 1030, 32)
    _, state = mixer.prefill(x[:, :1024])
    _, state = mixer.step(x[:, 1024], state)  # now with room
    kept = [part.clone() for part in state[:2]]
    _, one = mixer.step(x[:, 1025], state)
    _, other = mixer.step(x[:, 1026], state)
    assert one.k.untyped_storage().data_ptr() == state.k.untyped_storage().data_ptr()
    assert other.k.untyped_storage().data_ptr() != state.k.untyped_storage().data_ptr()
    for y, branch, t in ((1027, one, 1025), (1028, other, 1026)):
        path = torch.cat([x[:, :1025], x[:, [t, y]]], 1)
        close(mixer.step(x[:, y], branch)[0], mixer(path)[:, -1])
    assert all(torch.equal(*pair) for pair in zip(state[:2], kept, strict=True))


@torch.no_grad()
def test_a_saved_cache_has_no_room():
    mixer = CausalSelfAttention(32, 2)
    _, state = mixer.prefill(torch.ones(1, 1000, 32))
    assert state.v.untyped_storage().nbytes() == state.v.nbytes
    _, state = mixer.step(torch.ones(1, 32), state)
    assert state.v.untyped_storage().nbytes() == 2 * state.v.nbytes
    file = io.BytesIO()
    torch.save([state], file)
    assert len(file.getvalue()) < 1.02 * 2 * state.k.nbytes
    file.seek(0)
    (loaded,) = torch.load(file, weights_only=False)
    for again in (loaded, copy.deepcopy(state)):
        assert isinstance(again, KVCache) and again.mask is None and again.dropped == 0
        for one, other in zip(again[:2], state[:2], strict=True):
            assert torch.equal(one, other)
            assert one.untyped_storage().nbytes() == one.nbytes
        _, longer = mixer.step(torch.ones(1, 32), again)
        assert longer.k.shape[2] == 1002 and again.k.shape[2] == 1001


def test_a_cache_goes_through_all_modes():
    """Made in inference mode and written without gradients, or read with them; and under vmap."""
    mixer = CausalSelfAttention(32, 2).double()
    x = source(0)(1, 1030, 32)
    y = mixer(x)
    with torch.inference_mode():
        _, state = mixer.prefill(x[:, :1000])
        _, state = mixer.step(x[:, 1000], state)
    with torch.no_grad():
        _, state = mixer.step(x[:, 1001], state)
        got, state = mixer.step(x[:, 1002], state)
        close(got, y[:, 1002])
        many = x[:, 1003] + torch.zeros(3, 1, 1)
        got = torch.func.vmap(lambda x_t: mixer.step(x_t, state)[0])(many)
        close(got, y[:, 1003].expand(3, 1, 32))
    got, grown = mixer.step(x[:, 1003], state)
    close(got, y[:, 1003])
    assert grown.k.requires_grad and not state.k.requires_grad
    with torch.no_grad():
        mixer.step(x[:, 1003], state)
    got.sum().backward()  # nothing that it needs was written to
    with torch.no_grad():
        got, grown = mixer.step(x[:, 1004], grown)
        close(got, y[:, 1004])


@torch.no_grad()
def test_a_cache_takes_the_larger_precision():
    cache = KVCache(*torch.ones(2, 1, 4, 1024, 8, dtype=torch.bfloat16))
    new = torch.full((1, 4, 1, 8), 1 / 3)
    cache = cache.append(new.bfloat16(), new.bfloat16())  # now with room
    assert cache.k.dtype == torch.bfloat16
    for _ in range(2):
        cache = cache.append(new, new)
    assert cache.k.dtype == torch.float32 and (cache.k[:, :, -2:] == new).all()


@pytest.mark.parametrize("block", [None, 4])
@torch.no_grad()
def test_a_later_chunk_may_be_padded_too(block):
    """Rows that are continued by chunks of different lengths."""
    mixer = CausalSelfAttention(6, 2, block).double()
    x, more, x_t = source(0)(3, 5, 6), source(1)(3, 4, 6), source(2)(3, 6)
    real = [4, 1, 2]
    mask = torch.arange(4) >= 4 - torch.tensor(real)[:, None]
    _, state = mixer.prefill(x)
    y, state = mixer.prefill(torch.where(mask[..., None], more, 1e3), state, mask)
    after, state = mixer.step(x_t, state)
    assert state.mask.shape == (3, 10) and state.mask[:, -1].all()
    for row, n in enumerate(real):
        alone = torch.cat([x[row], more[row, 4 - n :], x_t[row, None]])[None]
        close(y[row, -n:], mixer(alone)[0, 5 : 5 + n])
        close(after[row], mixer(alone)[0, -1])


@pytest.mark.parametrize("block", [None, 64])
def test_a_prompt_costs_one_forward_pass(block):
    mixer, x = CausalSelfAttention(8, 2, block), torch.zeros(1, 300, 8)
    once, prompt = (count_flops(call, x) for call in (mixer, mixer.prefill))
    assert once == prompt > 0


def test_the_cache_grows_by_two_widths_a_step():
    mixer = CausalSelfAttention(6, 3)
    state = mixer.initial_state(2)
    for t in range(4):
        assert [part.shape for part in state[:2]] == [(2, 3, t, 2)] * 2
        assert sum(part.numel() for part in state[:2]) == 2 * t * 2 * 6
        _, state = mixer.step(torch.ones(2, 6), state)
    assert state.k.dtype == torch.float32
    assert mixer.initial_state(2, dtype=F64).v.dtype == F64


# --- bad input -----------------------------------------------------------------------------------

Q, K, V = qkv(0, 4, 5, batch=(2,))
BAD_QKV = [
    ((Q[0, 0], K, V), ValueError, r"^q: expected shape \(…, queries, d_head\).*\(4,\)"),
    ((Q, K[:, :0], V[:, :0]), ValueError, r"^k: .*without empty.*\(2, 0, 4\)"),
    ((Q, K[..., :3], V), ValueError, r"^k: expected shape \(2, keys, 4\).* \(2, 5, 3\)"),
    ((Q, K[:1], V), ValueError, r"^k: expected shape \(2, keys, 4\).* \(1, 5, 4\)"),
    ((Q, K, V[:, :4]), ValueError, r"^v: expected shape \(2, 5, d_value\).* \(2, 4, 3\)"),
    ((Q, K, V[:1]), ValueError, r"^v: expected shape \(2, 5, d_value\).* \(1, 5, 3\)"),
    ((Q, K.float(), V), TypeError, "^k: expected the precision of q"),
    ((Q / 0, K, V), ValueError, "^q: expected finite values"),
    ((Q, K, V.long()), TypeError, "^v: .*got an int64 tensor"),
    ((Q.tolist(), K, V), TypeError, "^q: .*got a list"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("arguments", "error", "message"), BAD_QKV)
@pytest.mark.parametrize("function", [attention, online_softmax_attention])
def test_bad_input_qkv(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*arguments)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.ones(4, 5), TypeError, "^mask: expected a bool tensor, True .*got a float32"),
        ([[True]], TypeError, "^mask: .*got a list"),
        (torch.ones(5, 4).bool(), ValueError, r"^mask: expected shape \(2, 4, 5\) or .*\(5, 4\)"),
        (torch.ones(3, 4, 5).bool(), ValueError, r"^mask: .*\(2, 4, 5\) or .*\(3, 4, 5\)"),
        (torch.ones(1, 2, 4, 5).bool(), ValueError, r"^mask: .*got shape \(1, 2, 4, 5\)"),
    ],
)
def test_bad_input_mask(mask, error, message):
    with pytest.raises(error, match=message):
        attention(Q, K, V, mask)


@pytest.mark.bad_input
def test_bad_input_tiled():
    with pytest.raises(ValueError, match=r"^causal: expected as many queries as keys, got 4 and 5"):
        online_softmax_attention(Q, K, V, causal=True)
    with pytest.raises(ValueError, match=r"^block: expected a whole number >= 1, got 0"):
        online_softmax_attention(Q, K, V, block=0)
    with pytest.raises(ValueError, match=r"^key_mask: expected shape \(2, 5\) or .*\(3, 5\)"):
        online_softmax_attention(Q, K, V, key_mask=torch.ones(3, 5).bool())
    with pytest.raises(TypeError, match=r"^key_mask: expected a bool tensor"):
        online_softmax_attention(Q, K, V, key_mask=torch.ones(5))
    a, b = (softmax_summary(source(0)(n, 3), source(1)(3, 2)) for n in (4, 5))
    with pytest.raises(ValueError, match=r"^right.maximum: expected shape \(4,\).*\(5,\)"):
        online_softmax(a, b)
    with pytest.raises(ValueError, match=r"^length: "):
        causal_mask(0)


X, CONTEXT = torch.zeros(2, 4, 6), torch.zeros(2, 7, 5)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X,), ValueError, r"^context: expected shape \(batch, keys, 5\), got None"),
        ((X, CONTEXT[..., :4]), ValueError, r"^context: expected shape \(2, keys, 5\)"),
        ((X[0], CONTEXT), ValueError, r"^x: expected shape \(batch, length, 6\).*\(4, 6\)"),
        ((X[:, :0], CONTEXT), ValueError, "^x: .*without empty dimensions"),
        ((X / 0, CONTEXT), ValueError, "^x: expected finite"),
        ((X[:1], CONTEXT), ValueError, r"^context: .*\(1, keys, 5\).*\(2, 7, 5\)"),
        ((X, CONTEXT, torch.ones(1, 7).bool()), ValueError, r"^mask: expected shape \(4, 7\) "),
        ((X, CONTEXT, torch.ones(4, 7)), TypeError, "^mask: expected a bool"),
        ((X, CONTEXT, None, torch.ones(1, 7).bool()), ValueError, r"^key_mask: .*\(2, 7\) "),
    ],
)
def test_bad_input_many_heads(arguments, error, message):
    with pytest.raises(error, match=message):
        MultiHeadAttention(6, 2, d_kv=5)(*arguments)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MultiHeadAttention(6, 4), ValueError, "^n_heads: .*divisor of d_qk = 6, got 4"),
        (lambda: MultiHeadAttention(6, 2, d_v=5), ValueError, "^n_heads: .*of d_v = 5, got 2"),
        (lambda: MultiHeadAttention(6, 0), ValueError, "^n_heads: expected a whole number"),
        (lambda: MultiHeadAttention(6.0, 2), TypeError, "^d_model: "),
        (lambda: MultiHeadAttention(6, 2, d_kv=0), ValueError, "^d_kv: "),
        (lambda: CausalSelfAttention(0, 1), ValueError, "^d_model: "),
        (lambda: CausalSelfAttention(6, 4), ValueError, "^n_heads: "),
        (lambda: CausalSelfAttention(6, 2, 0), ValueError, "^block: "),
        (lambda: CausalSelfAttention(6, 2).initial_state(0), ValueError, "^batch_size: "),
    ],
)
def test_bad_input_sizes(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.bad_input
@pytest.mark.parametrize("other", [(3, 6, 2), (2, 6, 3), (2, 4, 2)])
def test_bad_input_cache(other):
    batch, width, heads = other
    state = CausalSelfAttention(width, heads).initial_state(batch)
    message = r"^state: expected keys and values \(2, 2, past, 3\), got shape "
    with pytest.raises(ValueError, match=message):
        CausalSelfAttention(6, 2).step(torch.zeros(2, 6), state)


def test_tiles_skip_the_future_and_compute_scores_twice():
    """Products of forward and backward: more than the plain form's, but fewer under a mask."""
    found = {}
    for causal in (False, True):
        for tiled in (False, True):
            q, k, v = (draw(1, 1, 512, 32, seed=seed).requires_grad_() for seed in range(3))
            with FlopCounterMode(display=False) as counter:
                if tiled:
                    y = online_softmax_attention(q, k, v, causal=causal, block=32)
                else:
                    mask = torch.ones(512, 512, dtype=torch.bool).tril() if causal else None
                    y = attention(q, k, v, mask)
                y.sum().backward()
            found[causal, tiled] = counter.get_total_flops()
    assert found[False, True] * 12 == found[False, False] * 14
    assert 0.55 < found[True, True] / found[True, False] < 0.65
