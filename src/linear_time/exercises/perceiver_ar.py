"""Checks of chapter 10."""

import torch

from linear_time import records
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
    plain,
)
from linear_time.exercises.estimate import expect_reading
from linear_time.exercises.perceiver import by_hand
from linear_time.perceiver_ar import PerceiverAR
from linear_time.rotary import apply_rotary, rotary_embedding

F64 = torch.float64


def model_of(cases, layers, n_latents):
    """A small model, away from its start."""
    model = PerceiverAR(
        11, 16, layers, n_latents, n_heads=4, n_kv_heads=2, d_ff=24
    ).to(F64)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = cases.randn(*parameter.shape)
            parameter.copy_(0.3 * noise + (parameter.ndim == 1))
    return model


def tokens_of(cases, batch, length):
    return torch.tensor(
        [[cases.integer(0, 10) for _ in range(length)] for _ in range(batch)]
    )


@exercise("10-masks")
def masks(answer, cases):
    drawn = [
        (n, cases.integer(2, n - 1))
        for n in (cases.integer(4, 12) for _ in range(2))
    ]
    for n, m in ((1, 1), (5, 5), (9, 1), *drawn):
        both = plain(by_hand(answer, n, m))
        given = f"n = {n} and m = {m}"
        expect(
            isinstance(both, tuple | list) and len(both) == 2,
            f"For {given}: expected a pair of masks.",
        )
        rows = causal_mask(n)
        wanted = rows[n - m :], causal_mask(m)
        slips = {
            "latent 0 stands at position n − m, not at 0": (
                rows[:m],
                wanted[1],
            ),
            "True is where a latent may read": (~wanted[0], ~wanted[1]),
            "a latent may read its own position": (
                rows[n - m :].tril(n - m - 1),
                wanted[1].tril(-1),
            ),
        }
        for k, (name, got) in enumerate(
            zip(("input", "latent"), both, strict=True)
        ):
            text = f"{given}, the {name} mask"
            expect(
                isinstance(got, torch.Tensor) and got.dtype == torch.bool,
                f"For {text}: expected a boolean tensor.",
            )
            own = {slip: pair[k].int() for slip, pair in slips.items()}
            expect_close(got.int(), wanted[k].int(), text, slips=own)


@exercise("10-pays")
def pays(answer, cases):
    drawn = [(cases.integer(4, 150), cases.integer(2, 20)) for _ in range(5)]
    for d, layers in ((16, 2), (16, 3), (8, 1), (64, 17), (4096, 32), *drawn):
        for skip in (False, True):
            right = next(
                (m for m in range(1, 500) if _cheaper(m, d, layers, skip)), None
            )
            top, bottom = (2 * d, layers - 2) if skip else (d, layers - 1)
            slips = {
                "at equality nothing is saved": -(-top // bottom),
                "the first layer reads the whole prefix and saves nothing": top
                // (bottom + 1)
                + 1,
            } if bottom > 0 else {}  # fmt: skip
            given = f"d = {d}, {layers} layers, skip = {skip}"
            expect_equal(answer(d, layers, skip), right, given, slips=slips)


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


@exercise("10-audit")
def audit(answer, cases):
    drawn = [
        (64 * cases.integer(2, 200), 2 ** cases.integer(7, 17))
        for _ in range(4)
    ]
    for d, n in ((12288, 2048), *drawn):
        for visible in (False, True):
            mlp, rest = 2 * 8 * d**2, 2 * 4 * d**2
            every = sum(4 * d * t for t in range(1, n + 1)) / n
            seen = every if visible else 4 * d * n
            total = mlp + rest + seen
            right = {
                "products with weights": (mlp + rest) / total,
                "the MLP": mlp / total,
                "looking": seen / total,
            }
            given = f"d = {d}, n = {n}, only visible scores: {visible}"
            got = plain(answer(d, n, visible))
            expect(
                isinstance(got, tuple | list) and len(got) == 3,
                f"For {given}: expected three shares.",
            )
            other = 4 * d * n if visible else every
            slips = {
                "that counts the other scores": other / (mlp + rest + other),
                "scores and weighted sums both count": seen
                / 2
                / (total - seen / 2),
            }
            for (name, want), have in zip(right.items(), got, strict=False):
                own = slips if name == "looking" else {}
                expect_close(have, want, f"{given}, {name}", slips=own)


@exercise("10-stride")
def stride(answer, cases):
    length = cases.integer(11, 14)
    drawn = [
        (m, cases.integer(1, m), cases.integer(m, 9))
        for m in (cases.integer(3, 6) for _ in range(2))
    ]
    for m, every, start in ((4, 3, 6), (3, 3, 4), *drawn):
        model, tokens = model_of(cases, 3, m), tokens_of(cases, 2, length)
        calls, steps = [], []

        def prefill(tokens, *rest, calls=calls, model=model, **options):
            calls.append(tokens.shape[1])
            return model.prefill(tokens, *rest, **options)

        def step(token, *rest, steps=steps, model=model, **options):
            steps.append(len(token))
            return model.step(token, *rest, **options)

        with torch.no_grad():
            got = answer(prefill, step, tokens.clone(), start, every, m)
            late = [k % every for k in range(length + 1 - start)]

            def passed(counts, model=model, tokens=tokens, start=start):
                rows = [
                    model(tokens[:, : start + k], n_latents=count)[:, -1]
                    for k, count in enumerate(counts)
                ]
                return torch.stack(rows, 1)

            wanted = passed([m - every + 1 + k for k in late])
            slips = {
                "there are as many latents as fit, always": passed(
                    [m for _ in late]
                ),
                "one latent more would fit": passed(
                    [max(1, m - every) + k for k in late]
                ),
            }
        given = f"{m} latents, stride {every}, from prefix {start} on"
        expect_close(got, wanted, given, atol=1e-8, slips=slips)
        expect_equal(
            calls,
            list(range(start, length + 1, every)),
            f"{given}, the prefills",
        )
        expect_equal(
            len(steps),
            length + 1 - start - len(calls),
            f"{given}, the number of steps",
        )


@exercise("10-reach")
def reach(answer, cases):
    drawn = [
        tuple(cases.integer(*ends) for ends in ((5, 40), (2, 6), (2, 9)))
        for _ in range(4)
    ]
    for t, m, layers in ((20, 4, 2), (7, 1, 6), (12, 5, 1), (9, 5, 4), *drawn):
        seen = {t}
        for _ in range(layers - 1):
            seen = {s for u in seen for s in range(max(0, u - m + 1), u + 1)}
        slips = {
            "that is what one layer sees": max(0, t - m + 1),
            "a window of m reaches m − 1 back": max(0, t - (layers - 1) * m),
            "layer 1 is not windowed": max(0, t - layers * (m - 1)),
            "nothing is before position 0": t - (layers - 1) * (m - 1),
        }
        given = f"t = {t}, m = {m}, {layers} layers"
        expect_equal(answer(t, m, layers), min(seen), given, slips=slips)


@exercise("10-read")
def read(answer, cases):
    """Points of the figure, from the record that it reads."""
    budgets = records.read("perceiver_ar").by("steps")

    def point(steps, n, m, batch):
        runs = budgets[steps].where(M=n, N=m, batch=batch).chosen("validation")
        values = runs.values("test")
        return sum(values) / len(values)

    batches, losses = point(200, 256, 256, 16), point(200, 256, 256, 4)
    few = point(200, 256, 64, 16)
    right = {
        "decoder, batches of 16": (batches, {"that is with 64 latents": few}),
        "decoder, 1,024 losses": (losses, {"that is the left panel": batches}),
        "64 alone, 5 x compute": (
            point(1000, 64, 64, 16),
            {"that is what reads 256 characters": point(1000, 256, 64, 16)},
        ),
    }  # fmt: skip
    got = plain(answer())
    expect(
        isinstance(got, dict) and set(got) == set(right),
        f"Expected a dictionary with the keys {'; '.join(right)}.",
    )
    for name, (value, slips) in right.items():
        expect_reading(got[name], value, name, factor=1.025, slips=slips)


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


def by_hand_layers(model, tokens):
    """Right: the first layer written out, with nothing wrong in it."""
    return broken(model, tokens)


def by_prefixes(model, tokens):
    """Right: each latent as the last one of a prefix."""
    n = tokens.shape[1]
    m = min(model.n_latents, n)
    rows = [
        model(tokens[:, : n - m + 1 + i], n_latents=i + 1)[:, -1]
        for i in range(m)
    ]
    return torch.stack(rows, dim=1)


@exercise("10-bug")
def bug(answer, cases):
    def library(model, tokens):
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
    right = [library, by_hand_layers, by_prefixes]
    expect_finds_bug(answer, right=right, bugs=bugs, cases=cases)
