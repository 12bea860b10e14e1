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
            assert torch.allclose(y, wanted[:, t], atol=1e-5)


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
    "18-window": [flipped, newest_first, no_bias, grows],
    "18-pad": [
        padded("right", torch.bool),
        padded("left", torch.int64),
        by_value,
    ],
    "18-bug": [nothing, shape_only, causal_only, forms_only],
}
