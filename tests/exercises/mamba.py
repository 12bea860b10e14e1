"""Wrong answers to the exercises of chapter 18: each is a plausible slip."""

import math

import torch


def flipped(window, u_t, weight, bias):
    longer = torch.cat([window, u_t[..., None]], dim=-1)
    return (longer * weight[:, 0].flip(-1)).sum(-1) + bias, longer[..., 1:]


def newest_first(window, u_t, weight, bias):
    longer = torch.cat([u_t[..., None], window], dim=-1)
    return (longer * weight[:, 0].flip(-1)).sum(-1) + bias, longer[..., :-1]


def no_bias(window, u_t, weight, bias):
    longer = torch.cat([window, u_t[..., None]], dim=-1)
    return (longer * weight[:, 0]).sum(-1), longer[..., 1:]


def grows(window, u_t, weight, bias):
    longer = torch.cat([window, u_t[..., None]], dim=-1)
    taps = weight.shape[-1]
    return (longer[..., -taps:] * weight[:, 0]).sum(-1) + bias, longer


def width(count):
    """The width with the nearest count."""

    def answer(target, vocab_size, n_layer):
        return min(range(1, 1000), key=lambda d: abs(count(d, vocab_size, n_layer) - target))

    return answer


def block(d):
    R = math.ceil(d / 16)
    return 6 * d**2 + 4 * d * R + 64 * d + 47 * d


def unrounded(d):
    return 6 * d**2 + 4 * d * (d / 16) + 64 * d + 47 * d


def rounded_down(d):
    return 6 * d**2 + 4 * d * (d // 16) + 64 * d + 47 * d


def larger_of_two(target, vocab_size, n_layer):
    def far(d):
        return abs(n_layer * block(d) + vocab_size * d + d - target)

    return min(range(999, 0, -1), key=far)


def quoted(numbers, log=math.log2, round_=math.floor):
    def answer(d, n, v, bits):
        return round_(bits * numbers(d, n) / log(v))

    return answer


def padded(side, kind):
    def answer(prompts, fill):
        longest = max(map(len, prompts))
        tokens, mask = [], []
        for prompt in prompts:
            n = longest - len(prompt)
            tokens.append([fill] * n + prompt if side == "left" else prompt + [fill] * n)
            mask.append(
                [0] * n + [1] * len(prompt) if side == "left" else [1] * len(prompt) + [0] * n
            )
        return torch.tensor(tokens), torch.tensor(mask, dtype=kind)

    return answer


def by_value(prompts, fill):
    """A prompt may hold the fill itself."""
    tokens, _ = padded("left", torch.bool)(prompts, fill)
    return tokens, tokens != fill


def served(states=38, every=1, halves=2, both=2, users_too=True, unit="B", per=1.0, second=True):
    def answer(users, n_layer, d_model, tokens, size):
        count = users if users_too else 1
        held = states * d_model * size * count * n_layer * every
        cached = both * d_model * size * count * n_layer // halves * tokens
        quantities = (held * per, unit), (cached * per, unit)
        return quantities if second else quantities[0]

    return answer


def read_off(**wrong):
    return {"cache at 1000": 1500, "level": 25, "twice": 5300} | {
        name.replace("_", " "): value for name, value in wrong.items()
    }


def _rank(bias=True, through=True):
    def answer(steps, d_inner):
        unit = torch.eye(d_inner, dtype=torch.float64)
        made, rest = steps(unit), steps(torch.zeros_like(unit))
        if through:
            made, rest = (x + torch.log(-torch.expm1(-x)) for x in (made, rest))
        W = made - rest if bias else made
        return int(torch.linalg.matrix_rank(W, rtol=1e-9))

    return answer


def nothing(make):
    pass


def shape_only(make):
    assert make(8)(torch.zeros(2, 5, 8)).shape == (2, 5, 8)


def causal_only(make):
    x = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    make(8)(x)[0, 2].sum().backward()
    assert (x.grad[0, 3:] == 0).all()


def forms_only(make):
    m = make(8)
    x = torch.randn(2, 10, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        state, wanted = m.initial_state(2), m(x)
        for t, x_t in enumerate(x.unbind(1)):
            y, state = m.step(x_t, state)
            assert torch.allclose(y, wanted[:, t], rtol=0, atol=1e-5)


WRONG = {
    "18-state": [
        lambda d, N, e, taps: math.ceil(e * (N + taps) / 2),
        lambda d, N, e, taps: math.ceil(e * N / 2),
        lambda d, N, e, taps: e * (N + taps - 1),
        lambda d, N, e, taps: math.floor(e * (N + taps - 1) / 2),
        lambda d, N, e, taps: N + taps - 1,
        lambda d, N, e, taps: max(1, round(e * (N + taps - 1) / 2)),
    ],
    "18-bias": [
        lambda delta: torch.log(torch.exp(delta) - 1),
        lambda delta: torch.log(torch.expm1(delta)),
        lambda delta: torch.log(delta),
        lambda delta: delta + torch.log(1 - torch.exp(-delta)),
        lambda delta: (delta + torch.log(-torch.expm1(-delta))).flatten()[:1],
    ],
    "18-match": [
        width(lambda d, v, n: n * 6 * d**2 + v * d),
        width(lambda d, v, n: n * block(d) + 2 * v * d + d),
        width(lambda d, v, n: n * block(d)),
        width(lambda d, v, n: block(d) + v * d + d),
        width(lambda d, v, n: n * unrounded(d) + v * d + d),
        width(lambda d, v, n: n * rounded_down(d) + v * d + d),
        larger_of_two,
    ],
    "18-recall": [
        quoted(lambda d, n: 38 * d),
        quoted(lambda d, n: 32 * d * n),
        quoted(lambda d, n: 38 * d * n, log=math.log),
        quoted(lambda d, n: 38 * d * n, round_=math.ceil),
        quoted(lambda d, n: 19 * d * n),
        lambda d, n, v, bits: 38 * d * n,
    ],
    "18-serve": [
        served(states=32),
        served(every=0.5),
        served(halves=1),
        served(both=1),
        served(users_too=False),
        served(unit="kB"),
        served(unit="GB", per=2.0**-30),
        served(unit="s"),
        served(second=False),
        lambda *sizes: (*served()(*sizes), (0, "B")),
        lambda users, n_layer, d_model, tokens, size: (
            (76 * d_model * size * users * n_layer // 2, "B"),
            (2 * tokens * d_model * users * n_layer // 2, "B"),
        ),
    ],
    "18-crossing": [
        lambda: read_off(cache_at_1000=38),
        lambda: read_off(level=1000),
        lambda: read_off(twice=1000),
        lambda: read_off(twice=10_000),
        lambda: read_off(once=700),
        lambda: (1500, 25, 5300),
    ],
    "18-rank": [
        _rank(bias=False),
        _rank(through=False),
        lambda steps, d_inner: math.ceil(d_inner / 32),
        lambda steps, d_inner: 1,
        lambda steps, d_inner: d_inner,
    ],
    "18-window": [flipped, newest_first, no_bias, grows],
    "18-pad": [
        padded("right", torch.bool),
        padded("left", torch.int64),
        by_value,
        lambda prompts, fill: (
            padded("left", torch.bool)(prompts, 0)[0] * 0 + fill,
            padded("left", torch.bool)(prompts, fill)[1],
        ),
    ],
    "18-bug": [nothing, shape_only, causal_only, forms_only],
}
