"""Checks of chapter 03."""

import torch

from linear_time.decoder import LlamaBlock, apply_rotary, rotary_embedding
from linear_time.exercises import (
    Calls,
    Wrong,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    randn,
    shown,
)

F64 = torch.float64

SMALL = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}


def size(config):
    d, heads = config["hidden_size"], config["num_attention_heads"]
    shared = heads + config["num_key_value_heads"]
    block = 2 * d * d // heads * shared + 3 * d * config["intermediate_size"]
    blocks = config["num_hidden_layers"] * (block + 2 * d)
    tables = 2 - config["tie_word_embeddings"]
    return blocks + d + tables * config["vocab_size"] * d


@exercise("03-count")
def count(answer):
    seven = {
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    }
    for change in ({}, {"tie_word_embeddings": True}, seven):
        config = {**SMALL, **change}
        expect_equal(answer(dict(config)), size(config), f"config = {config}")


@exercise("03-reorder")
def reorder(answer):
    for n_heads, half in ((1, 2), (3, 4)):
        d_head = 2 * half
        weight, x = randn(n_heads * d_head, 5), randn(6, 5, seed=1)
        given = f"n_heads = {n_heads}, d_head = {d_head}"
        got = answer(weight.clone(), n_heads)
        expect(
            isinstance(got, torch.Tensor) and got.shape == weight.shape,
            f"For {given}: expected a tensor of shape {tuple(weight.shape)}, "
            f"got {shown(got)}.",
        )
        cos, sin = rotary_embedding(torch.arange(6), d_head, dtype=F64)
        q = (x @ weight.T).unflatten(-1, (n_heads, d_head)).transpose(0, 1)
        even, odd = q[..., 0::2], q[..., 1::2]
        turned = [even * cos - odd * sin, even * sin + odd * cos]
        want = torch.cat(turned, -1)  # the paper's, its pairs now in halves
        mine = (x @ got.T).unflatten(-1, (n_heads, d_head)).transpose(0, 1)
        have = apply_rotary(mine, cos, sin)
        scores = want @ want.mT
        expect_close(have @ have.mT, scores, f"{given}, the scores")


@exercise("03-fits")
def fits(answer):
    cases = {
        (24 * 2**30, 6_738_415_616, 32, 32, 128): 23_446,
        (24 * 2**30, 6_738_415_616, 32, 8, 128): 93_787,
        (1000, 400, 1, 1, 10): 5,
        (239, 100, 1, 1, 10): 0,
        (1000, 501, 1, 1, 10): 0,
    }
    names = "memory, n_parameters, n_layer, n_kv_heads, d_head"
    for arguments, tokens in cases.items():
        expect_equal(answer(*arguments), tokens, f"{names} = {arguments}")


@exercise("03-share")
def share(answer):
    for part, *sizes in (
        (0.5, 4096, 11_008, 32, 32),
        (0.1, 4096, 14_336, 32, 8),
        (0.9, 64, 172, 4, 1),
    ):
        d, d_ff, heads, kv = sizes
        P = 2 * d * (d // heads) * (heads + kv) + 3 * d * d_ff
        want = part * P / ((1 - part) * 2 * d)
        given = f"share = {part}, d = {d}, d_ff = {d_ff}, {heads}/{kv} heads"
        expect_close(answer(part, *sizes), want, given)


@exercise("03-prefill")
@torch.no_grad()
def prefill(answer):
    torch.manual_seed(0)
    block = LlamaBlock(12, 3, 1, d_ff=20, base=50.0).double()

    def forbidden(*arguments, **settings):
        raise Wrong("Expected a pass of your own, not the library's prefill.")

    block.prefill = block.attention.prefill = forbidden
    calls = {}
    for length in (1, 7, 40):
        x, later = randn(2, length, 12), randn(2, 12, seed=1)
        state, outputs = block.initial_state(2), []
        for x_t in x.unbind(1):
            y_t, state = block.step(x_t, state)
            outputs.append(y_t)
        with Calls() as made:
            y, cache = answer(block, x.clone())
        calls[length] = len(made.names)
        given = f"length = {length}"
        expect_close(y, torch.stack(outputs, 1), f"{given}, y")
        expect_close(cache.k, state.k, f"{given}, the keys of the cache")
        expect_close(cache.v, state.v, f"{given}, the values of the cache")
        wanted, _ = block.step(later, state)
        given = f"{given}, a step from the cache that you returned"
        expect_close(block.step(later, cache)[0], wanted, given)
    expect(
        calls[40] < calls[7] + 33,
        "Expected as many calls to torch for 40 tokens as for 7, "
        f"got {calls[40]} and {calls[7]}: is there a loop over the tokens?",
    )


@exercise("03-bug")
def bug(answer):
    def made(change=lambda cos, sin: (cos, sin), base=10_000.0):
        def turn(x, positions):
            cos, sin = rotary_embedding(positions, x.shape[-1], base, F64)
            return apply_rotary(x, *change(cos, sin))

        return turn

    good = made()

    def half_turned(x, positions):
        cos, sin = rotary_embedding(positions, x.shape[-1], dtype=F64)
        left, right = x.chunk(2, dim=-1)
        return torch.cat([left * cos - right * sin, right * cos], -1)

    def mixed(x, positions):
        cos, sin = rotary_embedding(positions, x.shape[-1], dtype=F64)
        cos, sin = (v.repeat_interleave(2, dim=-1) for v in (cos, sin))
        left, right = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-right, left], -1) * sin

    bugs = {
        "the second half lacks its sine": half_turned,
        "the position is not used": lambda x, p: good(x, torch.zeros_like(p)),
        "halves are turned by the angles of neighbours": mixed,
        "the frequencies fall too slowly: base^(−i/d_head)": made(base=100.0),
        "the angle is the square of the position": lambda x, p: good(x, p * p),
    }
    expect_finds_bug(answer, good, bugs)
