"""Wrong answers to the exercises of chapter 16: each is a plausible slip."""

import math

import sympy as sp
import torch

from linear_time.mixer import LanguageModel, Residual
from linear_time.pictures.selective import TWINS
from linear_time.selective import Selective, selective_scan


def _scan(u, delta, A, B, C, h, b_bar, a_bar=torch.exp):
    outputs = []
    for t in range(u.shape[1]):
        z = delta[:, t, None] * A
        h = a_bar(z) * h + b_bar(z, delta[:, t, None], A) * B[:, t] * u[:, t, None]
        outputs.append(h @ C[:, t])
    return torch.stack(outputs, dim=1), h


def released(u, delta, A, B, C, h):
    return _scan(u, delta, A, B, C, h, lambda z, d, a: d)


def forgets_the_state(u, delta, A, B, C, h):
    return _scan(u, delta, A, B, C, 0 * h, lambda z, d, a: torch.expm1(z) / a)


def euler_for_A(u, delta, A, B, C, h):
    return _scan(u, delta, A, B, C, h, lambda z, d, a: torch.expm1(z) / a, lambda z: 1 + z)


def own_scan(u, delta, A, B, C, h):
    """Right."""
    return _scan(u, delta, A, B, C, h, lambda z, d, a: torch.expm1(z) / a)


def output_only(u, delta, A, B, C, h):
    return _scan(u, delta, A, B, C, h, lambda z, d, a: torch.expm1(z) / a)[0]


def the_librarys(u, delta, A, B, C, h):
    y, last = selective_scan(
        *(u[None], delta[None], A, B[None], C[None]),
        initial_state=h[None],
        return_last_state=True,
        rule="zero_order_hold",
    )
    return y[0], last[0]


def naive_phi(a, delta):
    z = a * delta
    return (math.exp(z) - 1) / z if z else 1.0


def series_near_zero(a, delta):
    """Two terms are too few below the place where it changes to them."""
    z = a * delta
    return 1 + z / 2 if abs(z) < 1e-3 else math.expm1(z) / z


def _twins(n_tokens, i, rows):
    before = torch.ones(4, i - 1, dtype=torch.int64)
    behind = torch.ones(4, n_tokens - i - 2, dtype=torch.int64)
    return torch.cat([before, torch.tensor(rows), behind], dim=1)


def _matrix(delta, A, B, C, first):
    length = len(delta)
    K = torch.zeros(length, length, dtype=delta.dtype)
    for t in range(length):
        for s in range(t + 1):
            steps = delta[s + first : t + first].sum()
            K[t, s] = (C[:, t] * torch.exp(A * steps) * B[:, s]).sum() * delta[s]
    return K


def without_a_step(delta, A, B, C):
    return _matrix(delta, A, B, C, 1) / delta


def factor_by_factor(delta, A, B, C):
    """exp(A τ_t) exp(−A τ_s): right on paper, and overflows on a long sequence."""
    clock = delta.cumsum(0)[:, None] * A  # (length, N)
    K = (C.T * clock.exp()) @ ((-clock).exp() * B.T).T * delta
    return K.tril()


def by_the_librarys_scan(delta, A, B, C):
    length = len(delta)
    wide = (x.expand(length, *x.shape) for x in (delta[None], B, C))
    delta, B, C = (x.contiguous() for x in wide)
    unit = torch.eye(length, dtype=delta.dtype).unsqueeze(1)
    return selective_scan(unit, delta, A[None], B, C)[:, 0].T


def _bits(missing):
    return lambda n, V, p: n * (math.log2(V) - missing(p, V))


def _entropy(p):
    return -sum(x * math.log2(x) for x in (p, 1 - p) if x > 0)


def nothing(scan):
    pass


def _inputs():
    ones = torch.ones(1, 1, 4, dtype=torch.float64)
    return ones, ones, -torch.ones(1, 1, dtype=torch.float64), ones, ones


def shape_only(scan):
    assert scan(*_inputs()).shape == (1, 1, 4)


def constant_inputs(scan):
    y = scan(*_inputs())
    h = 0.0
    for t in range(4):
        h = math.exp(-1) * h + 1
        assert math.isclose(y[0, 0, t].item(), h, rel_tol=1e-6)


def no_options(scan):
    """Everything varies, but no bias, no gate and no state is passed."""
    g = torch.Generator().manual_seed(0)
    u, delta, B, C = (torch.randn(1, 2, 6, generator=g, dtype=torch.float64) for _ in range(4))
    A = -torch.rand(2, 2, generator=g, dtype=torch.float64)
    y, h = scan(u, delta.exp(), A, B, C), torch.zeros(1, 2, 2, dtype=torch.float64)
    for t in range(6):
        step = delta.exp()[:, :, t, None]
        h = torch.exp(step * A) * h + step * B[:, None, :, t] * u[:, :, t, None]
        assert torch.allclose(y[:, :, t], (h * C[:, None, :, t]).sum(-1))


def inverted(scan):
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    y = scan(one, 5 * one, -one[0], one, one)
    return "zero_order_hold" if y.item() > 2 else "exponential_euler"


def at_a_small_step(scan):
    """Both rules give Δ there, to the digits that are compared."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    y = scan(one, 1e-6 * one, -one[0], one, one)
    return "exponential_euler" if math.isclose(y.item(), 1e-6, rel_tol=1e-3) else "zero_order_hold"


def theorem_lines(*lines):
    """Lines as functions of e^z and e^−z; None is the right one."""
    right = (
        lambda e, f: 1 - 1 / (1 + e),
        lambda e, f: e / (1 + e),
        lambda e, f: 1 / (1 + f),
    )

    def answer(z):
        own = [given or line for given, line in zip(lines, right, strict=True)]
        return [line(sp.exp(z), sp.exp(-z)) for line in own]

    return answer


def with_the_integral(z):
    s = sp.Symbol("s", real=True)
    step = sp.log(1 + sp.exp(z))
    start = sp.Integral(sp.exp(-(step - s)), (s, 0, step))
    return [start, *theorem_lines(None, None, None)(z)[1:]]


def read_off(**wrong):
    right = {"hold at z = 3": 0.95, "released at z = 3": 3.05, "level": 0.06, "part": 1.6}
    names = {"hold": "hold at z = 3", "released": "released at z = 3"}
    return right | {names.get(name, name): value for name, value in wrong.items()}


def weights(width=24, blocks=2, **settings):
    """Of a network that was never trained."""
    torch.manual_seed(0)
    make = lambda: Residual(Selective(width, 16, **settings))  # noqa: E731
    return LanguageModel(make, 6, width, blocks).float().state_dict()


WRONG = {
    "16-twins": [
        lambda n, i: torch.tensor(TWINS),
        lambda n, i: _twins(n, i, [[1, 3, 7, 0], [0, 7, 3, 5], [1, 7, 3, 0], [5, 3, 7, 0]]),
        lambda n, i: _twins(n, i, [[1, 3, 7, 0], [0, 3, 7, 5], [1, 7, 3, 0], [0, 7, 3, 5]]),
        lambda n, i: _twins(n, i, [[1, 3, 0, 5], [1, 3, 0, 5], [1, 7, 0, 5], [1, 7, 0, 5]]),
        lambda n, i: _twins(n, i, TWINS).double(),
        lambda n, i: _twins(n, i, [[4 if k == 3 else k for k in row] for row in TWINS]),
        lambda n, i: _twins(n, i, [[20 if k == 1 else k for k in row] for row in TWINS]),
        lambda n, i: _twins(n, i, TWINS)[:, :-1],
    ],
    "16-scan": [
        lambda *x: (*own_scan(*x), 0),
        released,
        forgets_the_state,
        euler_for_A,
        output_only,
        the_librarys,
    ],
    "16-gate": [
        naive_phi,
        series_near_zero,
        lambda a, d: 1 + a * d / 2,
        lambda a, d: 1.0,
        lambda a, d: d,
        lambda a, d: -math.expm1(a * d),
    ],
    "16-audit": [
        inverted,
        at_a_small_step,
        lambda scan: "exponential_euler",
        lambda scan: "zero_order_hold",
    ],
    "16-kernel": [
        lambda *x: _matrix(*x, 0),
        lambda *x: _matrix(*x, 1).T,
        lambda delta, A, B, C: _matrix(delta, A, C, B, 1),
        without_a_step,
        factor_by_factor,
        by_the_librarys_scan,
    ],
    "16-bits": [
        _bits(lambda p, V: (1 - p) * math.log2(V)),
        _bits(lambda p, V: _entropy(p)),
        _bits(lambda p, V: _entropy(p) + (1 - p) * math.log2(V)),
        lambda n, V, p: n * p * math.log2(V),
        lambda n, V, p: n * math.log2(V),
    ],
    "16-theorem": [
        theorem_lines(None, None, lambda e, f: e / (1 + e)),
        theorem_lines(None, lambda e, f: 1 - 1 / (1 + e), None),
        theorem_lines(lambda e, f: 1 / (1 + e), None, None),
        theorem_lines(None, None, lambda e, f: 1 / (1 + e)),
        theorem_lines(None, None, lambda e, f: f / (f + f**2)),
        with_the_integral,
        lambda z: [1 / (1 + sp.exp(-z))],
    ],
    "16-read": [
        lambda: read_off(hold=3.05),
        lambda: read_off(released=0.95),
        lambda: read_off(level=1.0),
        lambda: read_off(level=16),
        lambda: read_off(part=0.1),
        lambda: read_off(steps=0.1),
        lambda: (0.95, 3.05, 0.06, 1.6),
    ],
    "16-train": [
        weights,
        lambda: weights(width=32),
        lambda: weights(select_delta=False, select_B_C=False),
        lambda: list(weights()),
        lambda: {k: math.nan * v for k, v in weights().items()},
    ],
    "16-bug": [nothing, shape_only, constant_inputs, no_options],
}
