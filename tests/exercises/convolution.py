"""Wrong answers to the exercises of chapter 13: each is a plausible slip."""

import sympy as sp
import torch

from linear_time.convolution import kernel, toeplitz


def starts_at_the_first_power(A_bar, B_bar, C, length):
    return kernel(A_bar, A_bar @ B_bar, C, length)


def transposed(A_bar, B_bar, C, length):
    return kernel(A_bar.T.contiguous(), B_bar, C, length)


def only_powers_of_two(A_bar, B_bar, C, length):
    columns, power = B_bar[:, None], A_bar
    while columns.shape[1] < length:
        columns, power = torch.cat([columns, power @ columns], dim=1), power @ power
    return C @ columns


def power_not_squared(A_bar, B_bar, C, length):
    columns = B_bar[:, None]
    while columns.shape[1] < length:
        columns = torch.cat([columns, A_bar @ columns], dim=1)
    return C @ columns[:, :length]


def loop(A_bar, B_bar, C, length):
    """Right, one step after the other."""
    h, entries = B_bar, []
    for _ in range(length):
        entries.append(C @ h)
        h = A_bar @ h
    return torch.stack(entries)


def powers(A_bar, B_bar, C, length):
    steps = [torch.linalg.matrix_power(A_bar, i) for i in range(length)]
    return torch.stack([C @ step @ B_bar for step in steps])


def rest_lines(*lines):
    """A proof with some of its lines replaced; None is the right one."""
    right = (
        lambda a, b, c, n, i: c * b * sp.Sum(a**i, (i, 0, n - 1)),
        lambda a, b, c, n, i: c * b * (1 - a**n) / (1 - a),
        lambda a, b, c, n, i: c * b / (1 - a) - a**n * c * b / (1 - a),
    )
    own = [given or line for given, line in zip(lines, right, strict=True)]
    return lambda *symbols: [line(*symbols) for line in own]


def rest_start(a, b, c, n, i):
    return sp.Sum(c * a**i * b, (i, 0, n - 1))


def read_off(**wrong):
    return {"largest": 0.31, "turns": 16.7, "sum": 1} | wrong


def crossings(fft=0, dense=0, diagonal=0):
    """Off by so many powers of two."""

    def answer(N):
        def first(fewer):
            return next(2**k for k in range(30) if all(fewer(2**j, j + 1) for j in range(k, 30)))

        return (
            2**fft * first(lambda L, log: (3 * log + 2) * 2 < L + 1),
            2**dense * first(lambda L, log: 2 * (N**2 + 2 * N) < L + 1),
            2**diagonal * first(lambda L, log: 3 * log + 2 > 3 * N),
        )

    return answer


def nothing(layer):
    pass


def shape_only(layer):
    x = torch.ones(5, dtype=torch.float64)
    assert layer(x, x).shape == x.shape


def impulse_only(layer):
    """Finds the shift and the flip, but an impulse at 0 cannot wrap."""
    x, taps = torch.zeros(4, dtype=torch.float64), torch.arange(1.0, 5, dtype=torch.float64)
    x[0] = 1
    assert torch.allclose(layer(x, taps), taps)


def quiet_end(layer):
    """Finds all but the layer that wraps its very last product."""
    x, taps = torch.arange(8.0, dtype=torch.float64), torch.arange(1.0, 9, dtype=torch.float64)
    x[-1] = 0
    assert torch.allclose(layer(x, taps), toeplitz(taps) @ x)


def constant_kernel(layer):
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert torch.allclose(layer(x, torch.ones(3, dtype=torch.float64)), x.cumsum(0))


def first_diagonal_only(matrix):
    same = torch.allclose(matrix.diagonal(), matrix[0, 0])
    return matrix[:, 0] if same else None


def last_row_forwards(matrix):
    taps = matrix[-1].contiguous()
    return taps if torch.allclose(toeplitz(matrix[:, 0].contiguous()), matrix) else None


def absolute(matrix):
    """Takes every matrix of small weights for a convolution: our own former solution."""
    taps = matrix[:, 0].contiguous()
    return taps if torch.allclose(toeplitz(taps), matrix) else None


def to_the_letter(matrix):
    taps = matrix[:, 0].contiguous()
    return taps if torch.equal(toeplitz(taps), matrix) else None


def almost(matrix):
    """Takes an entry that is off by a thousandth for rounding."""
    taps = matrix[:, 0].contiguous()
    return taps if (toeplitz(taps) - matrix).abs().max() < 0.05 * matrix.abs().max() else None


def backwards(matrix):
    """Sees which are convolutions, and takes the last row as it stands."""
    taps = matrix[:, 0].contiguous()
    gap = (toeplitz(taps) - matrix).abs().max()
    return matrix[-1] if gap <= 1e-9 * matrix.abs().max() else None


def lower_part_only(matrix):
    taps = matrix[:, 0].contiguous()
    return taps if torch.allclose(toeplitz(taps), matrix.tril()) else None


WRONG = {
    "13-doubling": [
        starts_at_the_first_power,
        transposed,
        only_powers_of_two,
        power_not_squared,
        kernel,
        loop,
        powers,
    ],
    "13-rest": [
        rest_lines(rest_start, None, None),
        rest_lines(lambda *x: rest_lines(None, None, None)(*x)[1], None, None),
        rest_lines(None, rest_start, None),
        rest_lines(None, lambda a, b, c, n, i: c * b / (1 - a), None),
        rest_lines(None, lambda a, b, c, n, i: c * b * (1 - a ** (n + 1)) / (1 - a), None),
        rest_lines(None, None, lambda a, b, c, n, i: c * b * (1 - a**n) / (1 - a)),
        rest_lines(None, None, lambda a, b, c, n, i: c * b / (1 - a)),
        rest_lines(
            None, None, lambda a, b, c, n, i: c * b * (1 + a**n / (a - 1)) + c * b * a / (1 - a)
        ),
        lambda a, b, c, n, i: [c * b / (1 - a) * (1 - a**n)],
        lambda a, b, c, n, i: None,
    ],
    "13-taps": [
        lambda: read_off(largest=0.173),
        lambda: read_off(turns=6),
        lambda: read_off(turns=0.0167),
        lambda: read_off(turns=14),
        lambda: read_off(sum=0.03),
        lambda: read_off(mean=0.03),
        lambda: (0.31, 16.7, 1),
    ],
    "13-padding": [
        lambda length, taps: 2 * length,
        lambda length, taps: length + taps,
        lambda length, taps: length,
        lambda length, taps: length + taps - 2,
    ],
    "13-envelope": [
        crossings(fft=-1),  # without the product of the transforms, or of length L
        crossings(fft=1),
        crossings(dense=-1),  # without the ½ of the triangle, or N² alone
        crossings(dense=1),
        crossings(diagonal=-1),
        crossings(diagonal=1),  # log₂ L in place of log₂ 2L
        lambda N: (64, 1024, 2**15),  # what holds for 16 states
        lambda N: crossings()(N)[:2],
        lambda N: (*crossings()(N), 1),
        lambda N: 64,
    ],
    "13-leak": [nothing, shape_only, impulse_only, constant_kernel, quiet_end],
    "13-varying": [
        lambda matrix: matrix[:, 0],
        first_diagonal_only,
        last_row_forwards,
        lower_part_only,
        absolute,
        to_the_letter,
        almost,
        backwards,
        lambda matrix: None,
    ],
}
