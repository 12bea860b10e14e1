"""Wrong answers to the exercises of chapter 03: each is a plausible slip."""

import sympy as sp
import torch

from linear_time.attention import KVCache


def count(heads_shared=True, norms=2, last=1, tie=True):
    def parameters(config):
        d, heads = config["hidden_size"], config["num_attention_heads"]
        kv = config["num_key_value_heads"] if heads_shared else heads
        block = 2 * d * d // heads * (heads + kv) + 3 * d * config["intermediate_size"]
        tables = 1 if tie and config["tie_word_embeddings"] else 2
        blocks = config["num_hidden_layers"] * (block + norms * d)
        return blocks + last * d + tables * config["vocab_size"] * d

    return parameters


def across_heads(weight, n_heads):
    return torch.cat([weight[0::2], weight[1::2]])


def the_way_back(weight, n_heads):
    halves = weight.reshape(n_heads, 2, -1, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape)


def fits(weight_bytes=2, both=2, number_bytes=2, floor=0):
    def longest_context(memory, n_parameters, n_layer, n_kv_heads, d_head):
        free = memory - weight_bytes * n_parameters
        tokens = free // (both * number_bytes * n_layer * n_kv_heads * d_head)
        return tokens if floor is None else max(tokens, floor)

    return longest_context


def share(factor=1.0, inverse=False, kv=True):
    def context(part, d_model, d_ff, n_heads, n_kv_heads):
        shared = n_kv_heads if kv else n_heads
        P = 2 * d_model * (d_model // n_heads) * (n_heads + shared) + 3 * d_model * d_ff
        odds = part if inverse else part / (1 - part)
        return factor * odds * P / (2 * d_model)

    return context


def cached(block, x, turned=True, normed=True, swapped=False):
    from linear_time.decoder import apply_rotary, rotary_embedding

    layer = block.attention
    inside = block.attention_norm(x) if normed else x
    split = (layer.n_kv_heads, layer.d_head)
    k = layer.key(inside).unflatten(-1, split).transpose(1, 2)
    v = layer.value(inside).unflatten(-1, split).transpose(1, 2)
    turn = rotary_embedding(torch.arange(x.shape[1]), layer.d_head, layer.base, x.dtype)
    turned_k = apply_rotary(k, *turn) if turned else k
    return block(x), KVCache(*((v, turned_k) if swapped else (turned_k, v)))


def step_by_step(block, x):
    state, outputs = block.initial_state(len(x), dtype=x.dtype), []
    for x_t in x.unbind(1):
        y_t, state = block.step(x_t, state)
        outputs.append(y_t)
    return torch.stack(outputs, 1), state


def keys_in_a_loop(block, x):
    """The outputs at once, but the cache filled by steps."""
    return block(x), step_by_step(block, x)[1]


def of_the_library(block, x):
    return block.prefill(x)


def positions_lost(block, x):
    """The right numbers, in a cache that believes to be elsewhere."""
    y, cache = cached(block, x)
    return y, cache._replace(dropped=1)


def mean_of_the_rows(weight, n_heads):
    return torch.stack([weight.mean(0)] * len(weight))


def rotated(one=None, two=None):
    def proof(q0, q1, k0, k1, t, s, theta):
        c_t, n_t = sp.cos(t * theta), sp.sin(t * theta)
        c_s, n_s = sp.cos(s * theta), sp.sin(s * theta)
        dot, cross = q0 * k0 + q1 * k1, q0 * k1 - q1 * k0
        gap = (s - t) * theta
        lines = [
            dot * (c_t * c_s + n_t * n_s) - cross * (c_t * n_s - n_t * c_s),
            dot * sp.cos(gap) - cross * sp.sin(gap),
        ]
        if one:
            lines[0] = one(lines)
        if two:
            lines[1] = two(lines, dot, cross, gap)
        return lines

    return proof


def angle_error(position, d_head, mean=False, share=False, double=False):
    i = torch.arange(d_head // 2, dtype=torch.float64)
    theta = 10_000 ** (-2 * i / d_head)
    short = position * theta if double else (position * theta.float()).double()
    gap = (short - position * theta).abs()
    gap = gap / (position * theta) if share else gap
    return gap.mean() if mean else gap.max()


LINE = "position_ids[..., None].float() * self.inv_freq"


def relative_only(turn):
    q = torch.ones(1, 8, dtype=torch.float64)
    a = turn(q, torch.tensor([5])) @ turn(q, torch.tensor([3])).T
    b = turn(q, torch.tensor([15])) @ turn(q, torch.tensor([13])).T
    assert torch.allclose(a, b)


def norm_only(turn):
    x = torch.ones(3, 8, dtype=torch.float64)
    assert torch.allclose(turn(x, torch.arange(3)).norm(dim=-1), x.norm(dim=-1))


def position_zero(turn):
    x = torch.ones(1, 8, dtype=torch.float64)
    assert torch.allclose(turn(x, torch.tensor([0])), x)


WRONG = {
    "03-count": [count(False), count(norms=1), count(last=0), count(tie=False)],
    "03-relative": [
        rotated(one=lambda lines: sp.expand(lines[0])),
        rotated(one=lambda lines: lines[1]),
        rotated(two=lambda lines, *_: lines[0]),
        rotated(two=lambda lines, dot, cross, gap: dot * sp.cos(gap) + cross * sp.sin(gap)),
        lambda *symbols: rotated()(*symbols)[:1],
        lambda *symbols: rotated()(*symbols)[1:] * 2,
    ],
    "03-reorder": [
        lambda weight, n_heads: weight,
        across_heads,
        the_way_back,
        mean_of_the_rows,
        lambda weight, n_heads: None,
    ],
    "03-fits": [fits(both=1), fits(weight_bytes=4), fits(number_bytes=4), fits(floor=None)],
    "03-share": [share(2.0), share(inverse=True), share(kv=False), share(0.5)],
    "03-prefill": [
        lambda block, x: cached(block, x, turned=False),
        lambda block, x: cached(block, x, normed=False),
        lambda block, x: cached(block, x, swapped=True),
        lambda block, x: (block(x), block.initial_state(len(x))),
        step_by_step,
        keys_in_a_loop,
        of_the_library,
        positions_lost,
        lambda block, x: block(x),
        lambda block, x: (2 * block(x), cached(block, x)[1]),
        lambda block, x: (block(x), cached(block, x)[1]._replace(v=cached(block, x)[1].v.flip(2))),
    ],
    "03-figure": [
        lambda: (112, 0.5, 0.93),
        lambda: (28, 0.5, 0.93),
        lambda: (56, 0.7, 0.93),
        lambda: (56, 0.5, 0.001),
        lambda: (56, 0.5, 2.5),
        lambda: (56, 0.5),
        lambda: "56",
    ],
    "03-serve": [
        lambda: ((3.4, "ms"), (13, "ms"), (53, "GB")),
        lambda: ((6.7, "ms"), (6.7, "ms"), (53, "GB")),
        lambda: ((6.7, "ms"), (6.5, "ms"), (53, "GB")),
        lambda: ((6.7, "ms"), (13, "GB"), (53, "GB")),
        lambda: ((6.7, "ms"), (13, "ms"), (210, "GB")),
        lambda: ((6.7, "ms"), (13, "ms"), (0.5, "GB")),
        lambda: ((6.7, "ms"), (13, "ms")),
    ],
    "03-audit": [
        (LINE, lambda p, d: angle_error(p, d, mean=True)),
        (LINE, lambda p, d: angle_error(p, d, share=True)),
        (LINE, lambda p, d: angle_error(p, d, double=True)),
        ("the positions are turned into float32", angle_error),
        ("cos = emb.cos() * self.attention_scaling", angle_error),
        angle_error,
        (LINE,),
    ],
    "03-bug": [lambda turn: None, relative_only, norm_only, position_zero],
}
