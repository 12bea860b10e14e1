"""Checks of chapter 10."""

import torch

from linear_time.attention import (
    attend,
    causal_mask,
    join_heads,
    split_heads,
)
from linear_time.exercises import (
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
)
from linear_time.exercises.perceiver import by_hand
from linear_time.perceiver_ar import PerceiverAR
from linear_time.rotary import apply_rotary, rotary_embedding

F64 = torch.float64


def model_of(layers, n_latents, seed=0):
    """A small model, away from its start."""
    generator = torch.Generator().manual_seed(seed)
    model = PerceiverAR(
        11, 16, layers, n_latents, n_heads=4, n_kv_heads=2, d_ff=24
    ).to(F64)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=F64)
            parameter.copy_(0.3 * noise + (parameter.ndim == 1))
    return model


def tokens_of(batch, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(11, (batch, length), generator=generator)


@exercise("10-masks")
def masks(answer):
    for n, m in ((1, 1), (7, 3), (5, 5), (9, 1)):
        both = by_hand(answer, n, m)
        given = f"n = {n} and m = {m}"
        expect(
            isinstance(both, tuple) and len(both) == 2,
            f"For {given}: expected a pair of masks.",
        )
        wanted = causal_mask(n)[n - m :], causal_mask(m)
        for name, got, right in zip(
            ("input", "latent"), both, wanted, strict=True
        ):
            text = f"{given}, the {name} mask"
            expect(
                isinstance(got, torch.Tensor) and got.dtype == torch.bool,
                f"For {text}: expected a boolean tensor.",
            )
            expect_close(got.int(), right.int(), text)


@exercise("10-pays")
def pays(answer):
    for d, layers in (
        (16, 2),
        (16, 3),
        (64, 4),
        (64, 17),
        (12, 5),
        (8, 1),
        (4096, 32),
    ):
        for skip in (False, True):
            right = next(
                (m for m in range(1, 300) if _cheaper(m, d, layers, skip)), None
            )
            given = f"d = {d}, {layers} layers, skip = {skip}"
            expect_equal(answer(d, layers, skip), right, given)


def _cheaper(m, d, layers, skip):
    """By counting every score of an input of n = 3 m tokens."""
    n = 3 * m

    def looking(queries, start, keys):
        seen = sum(range(start, start + queries)) if skip else queries * keys
        return 4 * d * seen

    decoder = layers * looking(n, 1, n)
    latents = looking(m, n - m + 1, n) + (layers - 1) * looking(m, 1, m)
    latents += 4 * d**2 * (n - m)  # keys and values of the prefix
    return latents * n < decoder * m  # a loss each


@exercise("10-stride")
def stride(answer):
    for m, every, start in ((4, 3, 6), (5, 1, 7), (3, 3, 4), (4, 2, 9)):
        model, tokens = model_of(3, m), tokens_of(2, 13)
        calls, steps = [], []
        plain, plain_step = model.prefill, model.step

        def prefill(tokens, *rest, calls=calls, plain=plain, **options):
            calls.append(tokens.shape[1])
            return plain(tokens, *rest, **options)

        def step(token, *rest, steps=steps, plain=plain_step, **options):
            steps.append(len(token))
            return plain(token, *rest, **options)

        model.prefill, model.step = prefill, step
        with torch.no_grad():
            got = answer(model, tokens.clone(), start, every)
            del model.prefill, model.step
            ends = range(start, 14)
            rows = [
                model(
                    tokens[:, :end],
                    n_latents=m - every + 1 + (end - start) % every,
                )[:, -1]
                for end in ends
            ]
        given = f"{m} latents, stride {every}, from prefix {start} on"
        expect_close(got, torch.stack(rows, 1), given, atol=1e-8)
        expect_equal(
            calls, list(range(start, 14, every)), f"{given}, the prefills"
        )
        wanted = 14 - start - len(calls)
        expect_equal(len(steps), wanted, f"{given}, the number of steps")


@exercise("10-reach")
def reach(answer):
    for t, m, layers in (
        (20, 4, 2),
        (20, 4, 3),
        (30, 2, 9),
        (9, 5, 4),
        (7, 1, 6),
        (12, 5, 1),
    ):
        seen = {t}
        for _ in range(layers - 1):
            seen = {s for u in seen for s in range(max(0, u - m + 1), u + 1)}
        given = f"t = {t}, m = {m}, {layers} layers"
        expect_equal(answer(t, m, layers), min(seen), given)


def broken(model, tokens, mask=None, start=None, residual=True):
    """``model(tokens)`` with one thing wrong in its first layer."""
    x = model.embedding(tokens)
    n = x.shape[1]
    m = min(model.n_latents, n)
    mask = causal_mask(n)[n - m :] if mask is None else mask(n, m)
    place = n - m if start is None else start(n, m)
    first, *others = model.blocks
    layer, read = first.attention, first.attention_norm(x)
    group = layer.n_heads // layer.n_kv_heads

    def turned(linear, x, n_heads, first):
        heads = split_heads(linear(x), n_heads)
        positions = torch.arange(first, first + x.shape[1])
        turn = rotary_embedding(positions, layer.d_head, layer.base, x.dtype)
        return apply_rotary(heads, *turn)

    q = turned(layer.query, read[:, n - m :], layer.n_heads, place)
    k = turned(layer.key, read, layer.n_kv_heads, 0)
    v = split_heads(layer.value(read), layer.n_kv_heads)
    k, v = (t.repeat_interleave(group, dim=1) for t in (k, v))
    z = layer.out(join_heads(attend(q, k, v, mask)))
    z = x[:, n - m :] + z if residual else z
    z = z + first.mlp(first.mlp_norm(z))
    for block in others:
        z = block(z)
    return model.logits(z)


@exercise("10-bug")
def bug(answer):
    def good(model, tokens):
        return model(tokens)

    bugs = {
        "no input mask": lambda model, tokens: model(tokens, input_mask=False),
        "no latent mask": lambda model, tokens: model(
            tokens, latent_mask=False
        ),
        "the input mask is aligned with the first token": (
            lambda model, tokens: broken(
                model, tokens, mask=lambda n, m: causal_mask(n)[:m]
            )
        ),
        "the input mask lets each latent read one token too many": (
            lambda model, tokens: broken(
                model,
                tokens,
                mask=lambda n, m: torch.ones(n, n).tril(1).bool()[n - m :],
            )
        ),
        "the first layer's queries stand at positions 0, 1, …": (
            lambda model, tokens: broken(model, tokens, start=lambda n, m: 0)
        ),
        "the first layer has no residual": (
            lambda model, tokens: broken(model, tokens, residual=False)
        ),
    }
    expect_finds_bug(answer, good, bugs, "implementation")
