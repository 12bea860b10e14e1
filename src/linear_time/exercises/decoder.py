"""Checks of chapter 03."""

import inspect

import sympy as sp
import torch

from linear_time import records
from linear_time.decoder import LlamaBlock, apply_rotary, rotary_embedding
from linear_time.exercises import (
    Calls,
    Wrong,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    expect_parts,
    plain,
)
from linear_time.exercises.estimate import (
    expect_quantity,
    expect_quote,
    expect_reading,
)
from linear_time.exercises.proof import expect_lines

F64 = torch.float64


def size(config):
    d, heads = config["hidden_size"], config["num_attention_heads"]
    shared = heads + config["num_key_value_heads"]
    block = 2 * d * d // heads * shared + 3 * d * config["intermediate_size"]
    blocks = config["num_hidden_layers"] * (block + 2 * d)
    tables = 2 - config["tie_word_embeddings"]
    return blocks + d + tables * config["vocab_size"] * d


def drawn_config(cases, **change):
    heads = cases.choice([2, 4, 8])
    config = {
        "vocab_size": cases.integer(50, 500),
        "hidden_size": heads * 2 * cases.integer(2, 16),
        "intermediate_size": cases.integer(50, 300),
        "num_hidden_layers": cases.integer(2, 9),
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "tie_word_embeddings": False,
    }
    return {**config, **change}


@exercise("03-count")
def count(answer, cases):
    seven = {
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "tie_word_embeddings": False,
    }
    for config in (
        drawn_config(cases),
        drawn_config(cases, tie_word_embeddings=True),
        drawn_config(cases, num_key_value_heads=1),
        seven,
    ):
        want, d = size(config), config["hidden_size"]
        alike = dict(config)
        alike["num_key_value_heads"] = config["num_attention_heads"]
        layers = config["num_hidden_layers"]
        expect_equal(
            answer(dict(config)),
            want,
            f"config = {config}",
            slips={
                "the heads that share keys have fewer of them": size(alike),
                "a block has two norms": want - layers * d,
                "there is a norm behind the last block": want - d,
                "tied, the embedding is the head": (
                    want + config["vocab_size"] * d
                    if config["tie_word_embeddings"]
                    else -1
                ),
            },
        )


@exercise("03-relative")
def relative(answer, cases):
    t, s, theta = sp.symbols("t s theta", real=True)
    q = sp.symbols(cases.choice(["q0:2", "a0:2"]), real=True)
    k = sp.symbols(cases.choice(["k0:2", "b0:2"]), real=True)

    def turned(pair, at):
        c, n = sp.cos(at * theta), sp.sin(at * theta)
        return pair[0] * c - pair[1] * n, pair[0] * n + pair[1] * c

    one, other = turned(q, t), turned(k, s)
    start = one[0] * other[0] + one[1] * other[1]
    parallel = q[0] * k[0] + q[1] * k[1]
    across = q[0] * k[1] - q[1] * k[0]

    def sorted_by_products(line):
        return (
            isinstance(line, sp.Add)
            and len(line.args) == 2
            and all(
                wave.args[0] in (t * theta, s * theta)
                for wave in line.atoms(sp.cos, sp.sin)
            )
            and any(parallel in part.args for part in line.args)
            and any(
                across in part.args or -across in part.args
                for part in line.args
            )
        )

    def of_the_distance(line):
        waves = line.atoms(sp.cos, sp.sin)
        angle = (s - t) * theta
        return bool(waves) and all(
            sp.expand(wave.args[0] - angle) == 0
            or sp.expand(wave.args[0] + angle) == 0
            for wave in waves
        )

    forms = [
        (
            "two terms: the dot product of query and key times a sum of "
            "products of cosines and sines, and q₀k₁ − q₁k₀ times another",
            sorted_by_products,
        ),
        ("cosines and sines of (s − t)θ alone", of_the_distance),
    ]
    expect_lines(answer(*q, *k, t, s, theta), start, forms, cases)


@exercise("03-reorder")
def reorder(answer, cases):
    for n_heads, half in ((1, 2), (cases.integer(2, 4), cases.integer(3, 5))):
        d_head = 2 * half
        weight, x = cases.randn(n_heads * d_head, 5), cases.randn(6, 5)
        given = f"n_heads = {n_heads}, d_head = {d_head}"
        got = plain(answer(weight.clone(), n_heads))
        cos, sin = rotary_embedding(torch.arange(6), d_head, dtype=F64)
        q = (x @ weight.T).unflatten(-1, (n_heads, d_head)).transpose(0, 1)
        even, odd = q[..., 0::2], q[..., 1::2]
        turned = [even * cos - odd * sin, even * sin + odd * cos]
        want = torch.cat(turned, -1)  # the paper's, its pairs now in halves

        def scores(rows, x=x, split=(n_heads, d_head), turn=(cos, sin)):
            mine = (x @ rows.T).unflatten(-1, split).transpose(0, 1)
            have = apply_rotary(mine, *turn)
            return have @ have.mT

        across = torch.cat([weight[0::2], weight[1::2]])
        expect_close(
            scores(got),
            want @ want.mT,
            f"{given}, the scores",
            slips={
                "the rows are as they came": scores(weight),
                "the heads are mixed": scores(across),
            },
        )


@exercise("03-fits")
def fits(answer, cases):
    names = "memory, n_parameters, n_layer, n_kv_heads, d_head"
    n_layer, kv = cases.integer(20, 60), cases.choice([4, 8, 16])
    tried = [
        (24 * 2**30, 6_738_415_616, 32, 32, 128),
        (24 * 2**30, 6_738_415_616, 32, 8, 128),
        (cases.integer(20, 40) * 2**30, 10**9, n_layer, kv, 64),
        (1000, 400, 1, 1, 10),
        (239, 100, 1, 1, 10),
        (1000, 501, 1, 1, 10),
    ]
    for arguments in cases.shuffled(tried):
        memory, parameters, n_layer, kv, d_head = arguments
        free = max(memory - 2 * parameters, 0)
        token = 4 * n_layer * kv * d_head
        expect_equal(
            answer(*arguments),
            free // token,
            f"{names} = {arguments}",
            slips={
                "a token leaves a key and a value": 2 * free // token,
                "a number of 16 bits has two bytes": 4 * free // token,
                "not even the weights fit": (
                    (memory - 2 * parameters) // token if not free else -1
                ),
            },
        )


@exercise("03-share")
def share(answer, cases):
    for part, *sizes in (
        (0.5, 4096, 11_008, 32, 32),
        (cases.uniform(0.05, 0.3), 4096, 14_336, 32, 8),
        (cases.uniform(0.7, 0.95), 64, cases.integer(100, 300), 4, 1),
    ):
        d, d_ff, heads, kv = sizes
        P = 2 * d * (d // heads) * (heads + kv) + 3 * d * d_ff
        want = part * P / ((1 - part) * 2 * d)
        given = (
            f"share = {part:.3f}, d = {d}, d_ff = {d_ff}, {heads}/{kv} heads"
        )
        expect_close(
            answer(part, *sizes),
            want,
            given,
            slips={
                "that is where the context costs this share of the weights, "
                "and not of both": want * (1 - part),
                "a weight is a multiplication and an addition": want / 2,
            },
        )


@exercise("03-prefill")
@torch.no_grad()
def prefill(answer, cases):
    n_heads = cases.choice([2, 3, 4])
    d_model = 4 * n_heads
    # Weights from the cases, and not from torch's own generator.
    block = LlamaBlock(d_model, n_heads, 1, d_ff=20, base=50.0).double()
    for parameter in block.parameters():
        drawn = cases.randn(*parameter.shape)
        parameter.copy_(1 + drawn / 4 if drawn.ndim == 1 else drawn / 3)

    def forbidden(*arguments, **settings):
        raise Wrong("Expected a pass of your own, not the library's prefill.")

    block.prefill = block.attention.prefill = forbidden
    calls = {}
    for length in (1, 7, 40):
        x, later = cases.randn(2, length, d_model), cases.randn(2, d_model)
        state, outputs = block.initial_state(2), []
        for x_t in x.unbind(1):
            y_t, state = block.step(x_t, state)
            outputs.append(y_t)
        with Calls() as made:
            got = answer(block, x.clone())
        y, cache = expect_parts(got, 2, "a pair of y and a cache")
        calls[length] = len(made.names)
        given = f"length = {length}"
        wanted, _ = block.step(later, state)
        found = {"y": y, "the keys of the cache": cache.k}
        found["the values of the cache"] = cache.v
        found["a step from the cache that you returned"] = block.step(
            later, cache
        )[0]
        right = (torch.stack(outputs, 1), state.k, state.v, wanted)
        for (name, have), want in zip(found.items(), right, strict=True):
            expect_close(have, want, f"{given}, {name}")
    expect(
        calls[40] < calls[7] + 33,
        "Expected as many calls to torch for 40 tokens as for 7, "
        f"got {calls[40]} and {calls[7]}: is there a loop over the tokens?",
    )


@exercise("03-figure")
def figure(answer, cases):
    words = "three numbers: a distance, a mean, a time"
    lowest, mean, taken = plain(expect_parts(answer(), 3, words))
    cos, _ = rotary_embedding(torch.arange(200), 64, dtype=F64)
    what = "the distance at which pair 10 is lowest"
    at = float(cos[:, 10].argmin())
    slips = {"that is a whole turn": 2 * at}
    expect_reading(lowest, at, what, factor=1.12, slips=slips)
    what = "the mean over the pairs at distance 50"
    expect_reading(mean, float(cos[50].mean()), what, factor=1.1)
    rows = records.read("generation").where(model="llama")
    at = rows.values("position").index(1000)
    what = "the time of a token at a context of 1,000"
    ms = float(rows.values("step_ms")[at])
    slips = {"the axis is in ms": ms / 1000}
    expect_reading(taken, ms, what, factor=1.25, slips=slips)


@exercise("03-serve")
def serve(answer, cases):
    words = "three pairs of a number and a unit"
    empty, full, users = plain(expect_parts(answer(), 3, words))
    weights, token = 6.738e9 * 2, 2.0**19
    expect_quantity(
        empty,
        weights / 2e12,
        "s",
        "a token behind an empty context",
        slips={"a weight has two bytes": weights / 4e12},
    )
    both = (weights + 24_704 * token) / 2e12
    expect_quantity(
        full,
        both,
        "s",
        "a token behind 24,704 others",
        slips={
            "the cache has to be read too": weights / 2e12,
            "the weights have to be read too": both - weights / 2e12,
        },
    )
    caches = 100 * 4096 * token / 4
    expect_quantity(
        users,
        caches,
        "B",
        "a hundred caches with 8 key heads",
        slips={
            "eight heads, where there were 32": 4 * caches,
            "that is one user's": caches / 100,
        },
    )


@exercise("03-audit")
def audit(answer, cases):
    from transformers.models.llama import modeling_llama

    words = "a pair: a quotation and a function"
    quote, error = expect_parts(answer, 2, words)
    for position in (cases.integer(2**18, 2**20), 10**6 + cases.integer(0, 99)):
        d_head = cases.choice([64, 128])
        i = torch.arange(d_head // 2, dtype=F64)
        theta = 10_000 ** (-2 * i / d_head)
        gap = ((position * theta.float()).double() - position * theta).abs()
        expect_close(
            error(position, d_head),
            gap.max(),
            f"position {position:,}, d_head = {d_head}",
            rtol=0.01,
            slips={
                "that is the mean over the pairs": gap.mean(),
                "that is a share of the angle": (gap / theta).max() / position,
            },
        )
    expect_quote(
        plain(quote),
        inspect.getsource(modeling_llama.LlamaRotaryEmbedding.forward),
        "LlamaRotaryEmbedding.forward",
        ("position_ids", "float"),
    )


@exercise("03-bug")
def bug(answer, cases):
    def made(change=lambda cos, sin: (cos, sin), base=10_000.0):
        def turn(x, positions):
            cos, sin = rotary_embedding(positions, x.shape[-1], base, F64)
            return apply_rotary(x, *change(cos, sin))

        return turn

    good = made()

    def by_complex_numbers(x, positions):
        half = x.shape[-1] // 2
        theta = 10_000.0 ** (-torch.arange(half).double() / half)
        angle = positions.double()[:, None] * theta
        z = torch.complex(x[..., :half].double(), x[..., half:].double())
        z = z * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([z.real, z.imag], -1).to(x.dtype)

    def by_matrices(x, positions):
        half, rows = x.shape[-1] // 2, []
        for x_t, t in zip(x, positions.tolist(), strict=True):
            R = torch.eye(2 * half, dtype=x.dtype)
            for i in range(half):
                angle = torch.tensor(t * 10_000.0 ** (-i / half), dtype=F64)
                R[i, i] = R[i + half, i + half] = angle.cos()
                R[i, i + half], R[i + half, i] = -angle.sin(), angle.sin()
            rows.append(R @ x_t)
        return torch.stack(rows)

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
    right = [good, by_complex_numbers, by_matrices]
    expect_finds_bug(answer, right, bugs, cases=cases)
