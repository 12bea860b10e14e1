"""Wrong answers to the exercises of chapter 00: each is a plausible slip."""

import math

import sympy as sp
import torch

from linear_time.convolution import causal_convolution, circular_convolution, toeplitz


def slips(right, wrong):
    """A tuple of answers for each slip, in which only one question is answered wrongly."""
    answers = []
    for place, values in enumerate(wrong):
        assert len(values) >= 3
        for value in values:
            answers.append(tuple(value if i == place else r for i, r in enumerate(right)))
    return [*answers, None, right[:2]]


EIGEN = slips(
    (-1 + 2j, math.exp(-3), math.pi),
    (
        (-1 - 2j, 1 + 2j, -2 + 1j, 2j, -1, None),
        (1.0, math.exp(3), math.exp(-1), math.exp(-3 * math.sqrt(5)), 3 * math.sqrt(5), None),
        (2.0, 1 / math.pi, 2 * math.pi, 4 * math.pi, "pi"),
    ),
)
ODE = slips(
    (2 * math.log(8), 3.0, 1 - math.exp(-1)),
    (
        (math.log(8), math.log(8) / 2, 2 / 8, -2 * math.log(8), 14.0),
        (6.0, -3.0, 12.0, 0.0, math.inf, None),
        (math.exp(-1), 1.0, 0.25, 1 - math.exp(-4), 1 - math.exp(-1 / 16)),
    ),
)
FOURIER = slips(
    ([1, 1, 1], [-2, 1, 1], 360 / 1024),
    (
        ([-1, -1, 3], [1, 3, 5], [0, 1, 1], [1, 1, 1, -3], [-1, -1, -1]),
        ([1, 1, 1], [-1, -1, 2], [1, 1, -2], [4, 3, 5]),
        (1024 / 360, 180 / 1024, 360.0, 360 / 513, 2 * math.pi * 360 / 1024),
    ),
)
GRADIENT = slips(
    ([4, 6], 3, 12),
    (
        ([3, 7], [1, 1], 10, [[4, 6]], [2, 6]),
        (1000, 1, 3000, None),
        (4, 8, 2, 6, 1),
    ),
)
ROOFLINE = slips(
    (2 * 128 * 256 * 64, 8_000_000, 0.2),
    (
        (128 * 256 * 64, 2 * 128 * 64, 128 * 256 + 256 * 64, 128 * 255 * 64),
        (4_000_000, 1_000_000, 12_000_000, 16_000_000, 64_000_000),
        (1.0, 5.0, 10.0, 0.02, 2e13),
    ),
)


# 00-alias


def _alias(shift=0.5, angular=2 * math.pi, whole=math.floor):
    def lowest_mode(lam, delta):
        turns = whole(lam.imag * delta / angular + shift)
        return complex(lam.real, lam.imag - angular * turns / delta)

    return lowest_mode


def alias_by_the_logarithm_of_a_sample(lam, delta):
    """Right but for the lower end, which the interval does not contain."""
    import cmath

    got = cmath.log(cmath.exp(lam * delta)) / delta
    return complex(got.real, -abs(got.imag) if abs(got.imag) * delta > 3.1415 else got.imag)


def alias_once(lam, delta):
    turn = 2 * math.pi / delta
    return lam - 1j * turn if lam.imag > turn / 2 else lam


# 00-ramp


def ramp_lost_start(a, b, t):
    return -b * t / a - b / a**2


def ramp_wrong_sign(a, b, t):
    return b * (sp.exp(a * t) - 1 + a * t) / a**2


def ramp_lost_input(a, b, t):
    return (sp.exp(a * t) - 1 - a * t) / a**2


def ramp_integral_without_memory(a, b, t):
    return b * t**2 / 2


def ramp_step_times_t(a, b, t):
    return b * t * (sp.exp(a * t) - 1) / a


# 00-keep


def _keep(x, delta, cutoff_hz, n=None, scale=1.0, keep_low=True, real=True):
    if real:
        frequencies = torch.fft.rfftfreq(len(x), delta) * scale
        spectrum = torch.fft.rfft(x)
        spectrum[(frequencies > cutoff_hz) == keep_low] = 0
        return torch.fft.irfft(spectrum) if n is None else torch.fft.irfft(spectrum, n=len(x))
    frequencies = torch.fft.fftfreq(len(x), delta)
    spectrum = torch.fft.fft(x)
    spectrum[frequencies > cutoff_hz] = 0  # forgets the negative ones
    return torch.fft.ifft(spectrum).real


def keep_even_lengths_only(x, delta, cutoff_hz):
    return _keep(x, delta, cutoff_hz)


def keep_in_radians(x, delta, cutoff_hz):
    return _keep(x, delta, cutoff_hz, n=True, scale=2 * math.pi)


def keep_in_cycles_a_sample(x, delta, cutoff_hz):
    return _keep(x, 1.0, cutoff_hz, n=True)


def keep_the_high_ones(x, delta, cutoff_hz):
    return _keep(x, delta, cutoff_hz, n=True, keep_low=False)


def keep_half_of_the_negative(x, delta, cutoff_hz):
    return _keep(x, delta, cutoff_hz, real=False)


def keep_without_the_mean(x, delta, cutoff_hz):
    return _keep(x - x.mean(), delta, cutoff_hz, n=True)


def keep_strictly_below(x, delta, cutoff_hz):
    spectrum = torch.fft.rfft(x)
    spectrum[torch.fft.rfftfreq(len(x), delta) >= cutoff_hz] = 0
    return torch.fft.irfft(spectrum, n=len(x))


# 00-bug


def tests_an_impulse_at_the_start(convolve):
    kernel = torch.arange(1.0, 6.0, dtype=torch.float64)
    impulse = torch.zeros(5, dtype=torch.float64)
    impulse[0] = 1
    assert torch.allclose(convolve(impulse, kernel), kernel)


def tests_the_shape(convolve):
    x = torch.ones(8, dtype=torch.float64)
    assert convolve(x, x).shape == x.shape


def tests_all_but_the_first_output(convolve):
    x = torch.arange(1.0, 9.0, dtype=torch.float64)
    kernel = x.flip(0) ** 2
    assert torch.allclose(convolve(x, kernel)[1:], (toeplitz(kernel) @ x)[1:])


def tests_against_the_circle(convolve):
    x = torch.arange(1.0, 9.0, dtype=torch.float64)
    assert torch.allclose(convolve(x, x), circular_convolution(x, x))


def tests_a_constant_kernel(convolve):
    x = torch.zeros(8, dtype=torch.float64)
    x[2] = 1
    kernel = torch.ones(8, dtype=torch.float64)
    assert torch.allclose(convolve(x, kernel), toeplitz(kernel) @ x)


def returns_false_instead(convolve):
    x = torch.randn(8, dtype=torch.float64)
    return torch.allclose(convolve(x, x), toeplitz(x) @ x)


# 00-pullback


def convolves_again(v, kernel):
    return causal_convolution(v, kernel)


def turns_the_kernel_only(v, kernel):
    return causal_convolution(v, kernel.flip(0))


def forgets_to_turn_back(v, kernel):
    return causal_convolution(v.flip(0), kernel)


def pulls_back_round_the_circle(v, kernel):
    n = len(v)
    return torch.fft.irfft(torch.fft.rfft(v) * torch.fft.rfft(kernel).conj(), n=n)


def one_step_early(v, kernel):
    good = causal_convolution(v.flip(0), kernel).flip(0)
    return torch.cat([good[1:], good.new_zeros(1)])


def pulls_back_by_a_matrix(v, kernel):
    return toeplitz(kernel).mT @ v


def pulls_back_by_autograd(v, kernel):
    with torch.enable_grad():
        x = torch.zeros_like(v).requires_grad_()
        return torch.autograd.grad(causal_convolution(x, kernel), x, v)[0]


def pulls_back_in_a_loop(v, kernel):
    return torch.stack([(v[s:] * kernel[: len(v) - s]).sum() for s in range(len(v))])


# 00-batch


def _batch(d_model, ridge):
    if d_model <= 2 * ridge:
        return math.inf
    return math.ceil(ridge * d_model / (d_model - 2 * ridge))


def batch_of_one_byte_numbers(d_model, peak, bandwidth):
    return _batch(d_model, peak / bandwidth / 2)


def batch_counts_one_flop_a_triple(d_model, peak, bandwidth):
    return _batch(d_model, 2 * peak / bandwidth)


def batch_counts_the_weights_only(d_model, peak, bandwidth):
    return math.ceil(peak / bandwidth)


def batch_rounds_down(d_model, peak, bandwidth):
    ridge = peak / bandwidth
    if d_model <= 2 * ridge:
        return math.inf
    return math.floor(ridge * d_model / (d_model - 2 * ridge))


def batch_always_finite(d_model, peak, bandwidth):
    ridge = peak / bandwidth
    return math.ceil(ridge * d_model / abs(d_model - 2 * ridge + 1e-9))


def batch_forgets_the_result(d_model, peak, bandwidth):
    ridge = peak / bandwidth
    return math.inf if d_model <= ridge else math.ceil(ridge * d_model / (d_model - ridge))


def returns_none(*arguments):
    return None


def ramp_as_text(a, b, t):
    return "b*(exp(a*t) - 1 - a*t)/a**2"


WRONG = {
    "00-eigen": EIGEN,
    "00-ode": ODE,
    "00-fourier": FOURIER,
    "00-gradient": GRADIENT,
    "00-roofline": ROOFLINE,
    "00-alias": [
        _alias(),
        _alias(0),
        _alias(angular=1.0),
        _alias(whole=math.ceil),
        alias_by_the_logarithm_of_a_sample,
        alias_once,
        lambda lam, delta: lam,
    ],
    "00-ramp": [
        ramp_lost_start,
        ramp_wrong_sign,
        ramp_lost_input,
        ramp_integral_without_memory,
        ramp_step_times_t,
        ramp_as_text,
        returns_none,
    ],
    "00-keep": [
        keep_even_lengths_only,
        keep_in_radians,
        keep_in_cycles_a_sample,
        keep_the_high_ones,
        keep_half_of_the_negative,
        keep_without_the_mean,
        keep_strictly_below,
        returns_none,
    ],
    "00-bug": [
        tests_an_impulse_at_the_start,
        tests_the_shape,
        tests_all_but_the_first_output,
        tests_against_the_circle,
        tests_a_constant_kernel,
        returns_false_instead,
    ],
    "00-pullback": [
        convolves_again,
        turns_the_kernel_only,
        forgets_to_turn_back,
        pulls_back_round_the_circle,
        one_step_early,
        pulls_back_by_a_matrix,
        pulls_back_by_autograd,
        pulls_back_in_a_loop,
        returns_none,
    ],
    "00-batch": [
        batch_of_one_byte_numbers,
        batch_counts_one_flop_a_triple,
        batch_counts_the_weights_only,
        batch_rounds_down,
        batch_always_finite,
        batch_forgets_the_result,
        returns_none,
    ],
    "00-figure": [
        lambda: (0.9, 1, 4.5),
        lambda: (2.8, 1, 4.5),
        lambda: (1.8, 0.1, 4.5),
        lambda: (1.8, 5, 4.5),
        lambda: (1.8, 1, 1.5),
        lambda: (1.8, 1, 45),
        lambda: (1.8, 1),
        lambda: (1.8, 1, "four"),
    ],
    "00-token": [
        lambda: ((3.5, "ms"), (0.14, "ms"), 50),
        lambda: ((14, "ms"), (0.14, "ms"), 50),
        lambda: ((7, "s"), (0.14, "ms"), 50),
        lambda: ((7, "ms"), (0.07, "ms"), 50),
        lambda: ((7, "ms"), (0.14, "MB"), 50),
        lambda: ((7, "ms"), (0.14, "ms"), 100),
        lambda: ((7, "ms"), (0.14, "ms"), 1),
        lambda: (7, 0.14, 50),
        lambda: ((7, "ms"), (0.14, "ms")),
    ],
}
