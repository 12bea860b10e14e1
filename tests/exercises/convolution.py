"""Wrong answers to the exercises of chapter 13: each is a plausible slip."""

import torch

from linear_time.convolution import causal_convolution, circular_convolution, kernel, toeplitz


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


def correlate(x, taps):
    return toeplitz(taps).T @ x


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
    "13-polynomial": [
        circular_convolution,
        correlate,
        lambda x, taps: x * taps,
        lambda x, taps: causal_convolution(x, taps.flip(-1)),
        causal_convolution,
    ],
    "13-padding": [
        lambda length, taps: 2 * length,
        lambda length, taps: length + taps,
        lambda length, taps: length,
        lambda length, taps: length + taps - 2,
    ],
    "13-envelope": [
        lambda: (32, 1024, 2**15),  # without the product of the transforms, or of length L
        lambda: (64, 512, 2**15),  # without the ½ of the triangle, or N² alone
        lambda: (64, 576, 2**15),  # the crossover itself, no power of two
        lambda: (128, 1024, 2**15),
        lambda: (64, 1024, 2**16),  # log₂ L in place of log₂ 2L
        lambda: (64, 1024, 2**14),
        lambda: (64, 1024),
        lambda: 64,
    ],
    "13-leak": [nothing, shape_only, impulse_only, constant_kernel, quiet_end],
    "13-varying": [
        lambda matrix: matrix[:, 0],
        first_diagonal_only,
        last_row_forwards,
        lower_part_only,
        absolute,
        to_the_letter,
        lambda matrix: None,
    ],
}
