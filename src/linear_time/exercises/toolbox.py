"""Checks of chapter 00, and the diagnostic that says which sections to read."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import sympy as sp
import torch

from linear_time.convolution import (
    causal_convolution,
    circular_convolution,
    toeplitz,
)
from linear_time.datasets import ecg
from linear_time.exercises import (
    Calls,
    Largest,
    Wrong,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    expect_parts,
    no_derivatives,
    plain,
    shown,
)
from linear_time.exercises.estimate import expect_quantity, expect_reading

F64 = torch.float64

# ---- the diagnostic


class Question(NamedTuple):
    """One question: what it asks, its answer, and what a slip should recall."""

    asks: str
    right: Any
    hint: str


class Section(NamedTuple):
    """A section of the chapter and the three questions that stand for it."""

    title: str
    questions: tuple[Question, Question, Question]


#: exercise -> the section that it decides about
DIAGNOSTIC = {
    "00-eigen": Section(
        "Eigenvalues and complex exponentials",
        (
            Question(
                "the eigenvalue of [[-1, 2], [-2, -1]] above the real axis",
                -1 + 2j,
                "Expected a root of (-1 - λ)² + 4 = 0.",
            ),
            Question(
                "|exp((-1 + 2i) 3)|",
                math.exp(-3),
                "Expected a size that the real part alone decides.",
            ),
            Question(
                "the period of Re exp((-1 + 2i) t)",
                math.pi,
                "Expected the time in which the angle 2t grows by 2π.",
            ),
        ),
    ),
    "00-ode": Section(
        "A linear differential equation",
        (
            Question(
                "the time at which h' = -h/2, h(0) = 8 has come down to 1",
                2 * math.log(8),
                "Expected the t that solves 8 exp(-t/2) = 1.",
            ),
            Question(
                "the limit of h' = -2h + 6x with x = 1",
                3.0,
                "Expected the h at which h' is 0.",
            ),
            Question(
                "h(1/4) of h' = -4h + 4x with h(0) = 0 and x = 1",
                1 - math.exp(-1),
                "Expected the share of the way after one time constant.",
            ),
        ),
    ),
    "00-fourier": Section(
        "Convolution and the FFT",
        (
            Question(
                "the causal convolution of (1, 2, 3) with the kernel (1, -1)",
                [1.0, 1.0, 1.0],
                "Expected three numbers y_t = x_t - x_{t-1}, with nothing "
                "before the start.",
            ),
            Question(
                "the circular convolution of the same two, modulo 3",
                [-2.0, 1.0, 1.0],
                "Expected three numbers y_t = x_t - x_{t-1}, where the last "
                "input stands before the first.",
            ),
            Question(
                "the spacing in Hz of the FFT's frequencies for 1024 samples "
                "at 360 Hz",
                360 / 1024,
                "Expected one cycle per record: 1 over its duration.",
            ),
        ),
    ),
    "00-gradient": Section(
        "Vector–Jacobian products",
        (
            Question(
                "the gradient by x of v·(Wx), W = [[1, 2], [3, 4]], v = (1, 1)",
                [4.0, 6.0],
                "Expected Wᵀv, two numbers.",
            ),
            Question(
                "the number of vector–Jacobian products that give the whole "
                "Jacobian of a map from 1000 numbers to 3",
                3,
                "Expected one product for each row, and a row for each output.",
            ),
            Question(
                "dL/da at a = 2 where h_1 = a, h_2 = a h_1, L = a h_2",
                12.0,
                "Expected the sum over all three uses of a.",
            ),
        ),
    ),
    "00-roofline": Section(
        "A roofline on one page",
        (
            Question(
                "the FLOPs of a (128, 256) times a (256, 64) matrix",
                2 * 128 * 256 * 64,
                "Expected a multiplication and an addition for each of "
                "128 · 256 · 64 triples.",
            ),
            Question(
                "the bytes that x + 1 must move for a million float32",
                8e6,
                "Expected 4 bytes read and 4 bytes written for each number.",
            ),
            Question(
                "the share of the peak at 10 FLOP/byte, on 1e14 FLOP/s and "
                "2e12 B/s",
                0.2,
                "Expected 10 over the machine's FLOP/byte, peak / bandwidth.",
            ),
        ),
    ),
}


def _faults(name: str, answer: Any) -> list[str]:
    """One entry a question: "" where it is right, else what to recall."""
    words = "a tuple of three answers (None for one that you leave)"
    got = plain(
        expect_parts(answer() if callable(answer) else answer, 3, words)
    )
    faults = []
    for question, have in zip(DIAGNOSTIC[name].questions, got, strict=True):
        try:
            # Answers worked out by hand are rounded.
            expect_close(have, question.right, question.asks, rtol=5e-3)
            faults.append("")
        except Wrong:
            said = "no answer" if have is None else f"got {shown(have)}"
            faults.append(f"{question.asks}: {said}. {question.hint}")
    return faults


def _register(name: str) -> None:
    @exercise(name)
    def group(answer, cases):
        faults = _faults(name, answer)
        right = faults.count("")
        told = [f"({i}) {f}" for i, f in enumerate(faults, start=1) if f]
        expect(right == 3, f"{right} of 3. {' '.join(told)}")


for _name in DIAGNOSTIC:
    _register(_name)


def diagnose(answers: Mapping[str, Any]) -> list[str]:
    """Say from the diagnostic's answers which sections to read.

    Args:
        answers: exercise -> the function that returns its three answers.

    Returns:
        The titles of the sections to read; empty if the reader may go on.

    Raises:
        ValueError: a name is not one of the diagnostic's.
    """
    for name in answers:
        if name not in DIAGNOSTIC:
            known = ", ".join(DIAGNOSTIC)
            raise ValueError(
                f"answers: expected names among {known}, got {name!r}"
            )
    to_read, total = [], 0
    for name, section in DIAGNOSTIC.items():
        try:
            faults = _faults(name, answers[name])
            total += faults.count("")
            verdict = f"{faults.count('')} of 3"
            if any(faults):
                missed = [str(i) for i, f in enumerate(faults, 1) if f]
                verdict += f", read it (missed: {', '.join(missed)})"
                to_read.append(section.title)
        except (KeyError, NotImplementedError):
            verdict = "not attempted yet"
            to_read.append(section.title)
        except Exception:  # an error of the student's is a wrong answer
            verdict = "0 of 3, read it (the answers could not be read)"
            to_read.append(section.title)
        print(f"{section.title:38s}{verdict}")
    if not to_read:
        print("15 of 15. Go on to chapter 11.")
    else:
        print(f"{total} of 15. Sections to read: {len(to_read)} of 5.")
    return to_read


# ---- the exercises at the end


@exercise("00-alias")
def alias(answer, cases):
    tried = []
    for turns in (0.2, 0.7, -0.3, -0.6, 5, -160):  # a step
        delta = cases.choice([0.25, 0.5, 1.0])
        turns *= cases.uniform(0.9, 1.1)
        omega = round(2 * math.pi * turns / delta, 3)
        tried.append((complex(cases.uniform(-2, 0.5), omega), delta))
    tried.append((complex(-1, 0), 3.0))
    half = math.pi / 0.5  # half a turn a step: the upper end is inside
    for turns in (1, -1, 3, cases.choice([-3, 5])):
        tried.append((complex(-1, turns * half), 0.5))
    for lam, delta in cases.shuffled(tried):
        want = _folded(lam, delta)
        turn = 2j * math.pi / delta
        expect_close(
            answer(lam, delta),
            want,
            f"λ = {shown(lam)}, delta = {delta:g}",
            slips={
                "that is a whole turn too high": want + turn,
                "that is a whole turn too low: only one end of the interval "
                "belongs to it": want - turn,
                "nothing was taken off": lam,
            },
        )


def _folded(lam, delta):
    """By trying: whole turns off or on, until it lies within."""
    turn, omega = 2 * math.pi / delta, lam.imag
    while omega > turn / 2:
        omega -= turn
    while omega <= -turn / 2:
        omega += turn
    return complex(lam.real, omega)


@exercise("00-ramp")
def ramp(answer, cases):
    names = cases.choice([("a", "b", "t"), ("u", "v", "s"), ("p", "q", "r")])
    a = sp.Symbol(names[0], nonzero=True)
    b, t = (sp.Symbol(name, real=True) for name in names[1:])
    h = sp.S.Zero + plain(answer(a, b, t))  # no text
    start = sp.simplify(sp.limit(h, t, 0))
    expect(start == 0, f"Expected h(0) = 0, got {start}.")
    residual = sp.simplify(sp.diff(h, t) - a * h - b * t)
    expect(
        residual == 0,
        f"Put into the equation, with a = {a}, b = {b} and t = {t}, "
        f"h' - a h - b t should be 0 and is {residual}.",
    )


@exercise("00-keep")
def keep(answer, cases):
    tried = []
    delta = cases.choice([0.01, 0.008])
    times = torch.arange(round(1.2 / delta), dtype=F64) * delta
    lasts = len(times) * delta
    slow, fast = cases.integer(2, 9) / lasts, cases.integer(20, 30) / lasts
    tones = torch.sin(2 * math.pi * fast * times)
    low = torch.sin(2 * math.pi * slow * times)
    given = f"a tone of {slow:g} Hz and one of {fast:g} Hz, cutoff 12"
    tried.append((low + tones, delta, 12.0, low, given))
    given += ", and a constant 2, which has frequency 0"
    tried.append((low + tones + 2, delta, 12.0, low + 2, given))
    for length, delta, cutoff in (
        (2 * cases.integer(30, 60) + 1, 0.01, cases.uniform(8, 30)),
        (2 * cases.integer(20, 40), 0.5, cases.uniform(0.2, 0.6)),
        (7, 1.0, 0.2),
        (8, 0.5, 0.5),  # the cutoff is a frequency: it stays
    ):
        x = cases.randn(length)
        lag = torch.arange(length, dtype=F64)
        weights = torch.zeros(length, dtype=F64)
        for n in range(length // 2 + 1):
            if n / (length * delta) <= cutoff:
                once = n == 0 or 2 * n == length
                cosine = torch.cos(2 * math.pi * n * lag / length)
                weights += (1 if once else 2) * cosine / length
        given = f"{length} random samples, delta = {delta:g}, cutoff {cutoff:g}"
        tried.append(
            (x, delta, cutoff, circular_convolution(x, weights), given)
        )
    signal = ecg()
    parts = torch.fft.rfft(signal.x)
    parts[torch.fft.rfftfreq(1024, signal.delta) > 40] = 0
    want = torch.fft.irfft(parts, n=1024)
    tried.append((signal.x, signal.delta, 40.0, want, "the ECG, cutoff 40 Hz"))
    for x, delta, cutoff, want, given in tried:
        slips = {
            "the high frequencies are kept": x - want,
            "the constant is lost": want - want.mean(),
        }
        got = answer(x.clone(), delta, cutoff)
        expect_close(got, want, given, slips=slips)


@exercise("00-pullback")
def pullback(answer, cases):
    v = torch.tensor([0.0, 0.0, 1.0], dtype=F64)
    taps = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    tried = [(v, taps, "v = (0, 0, 1), kernel = (1, 2, 3)")]
    for length in (1, 2, cases.integer(3, 50), cases.integer(700, 1100)):
        given = f"random v and kernel of length {length}"
        tried.append((cases.randn(length), cases.randn(length), given))
    for v, taps, given in tried:
        with no_derivatives(), Calls(most=500), Largest() as largest:
            got = answer(v.clone(), taps.clone())
        expect_close(
            got,
            toeplitz(taps).mT @ v,
            given,
            slips={
                "that is the convolution once more, forwards": toeplitz(taps)
                @ v,
                "time is still turned round": (toeplitz(taps).mT @ v).flip(0),
            },
        )
    length = len(v)
    expect(
        largest.numbers <= 8 * length,
        f"For length {length}: expected no tensor of more than {8 * length} "
        f"numbers, got one of {largest.numbers}.",
    )


def _padded_to(n):
    def convolve(x, kernel):
        return _multiply(x, kernel, n(len(x)))[: len(x)]

    return convolve


def _multiply(x, kernel, n):
    return torch.fft.irfft(torch.fft.rfft(x, n) * torch.fft.rfft(kernel, n), n)


def _late(x, kernel):
    y = causal_convolution(x, kernel)
    return torch.cat([y.new_zeros(1), y[:-1]])


def _mirrored(x, kernel):
    return causal_convolution(x, kernel.flip(0))


def _centred(x, kernel):
    shift = (len(x) - 1) // 2
    long = _multiply(x, kernel, 2 * len(x) - 1)
    return long[shift : shift + len(x)]


def _by_the_sum(x, kernel):
    taps = range(len(x))
    return torch.stack(
        [sum(kernel[j] * x[t - j] for j in taps if j <= t) for t in taps]
    )


@exercise("00-bug")
def bug(answer, cases):
    bugs = {
        "no padding at all": _padded_to(lambda length: length),
        "padding that is one zero short": _padded_to(
            lambda length: max(length, 2 * length - 2)
        ),
        "an output one step late": _late,
        "a kernel read backwards": _mirrored,
        "an output centred on the kernel, which reads the future": _centred,
    }
    right = [
        causal_convolution,
        lambda x, kernel: toeplitz(kernel) @ x,
        _by_the_sum,
    ]
    what = "implementation of the convolution"
    expect_finds_bug(answer, right, bugs, what, cases=cases)


@exercise("00-batch")
def batch(answer, cases):
    tried = [(4096, 50), (1024, 50), (200, 50), (64, 50), (100, 50)]
    tried += [
        (cases.integer(5, 40) * 128, cases.integer(20, 300)) for _ in range(4)
    ]
    tried += [(2 * ridge, ridge) for ridge in (cases.integer(10, 90),)]
    for d_model, ridge in cases.shuffled(tried):
        bandwidth = cases.choice([1, 2, 4]) * 1e12
        peak = ridge * bandwidth
        want = math.inf
        if d_model > 2 * ridge:
            want = -(-ridge * d_model // (d_model - 2 * ridge))
        given = f"d_model = {d_model}, {peak:.3e} FLOP/s, {bandwidth:.0e} B/s"
        expect_equal(
            answer(d_model, peak, bandwidth),
            want,
            given,
            slips={
                "the input and the result have to move too": ridge,
                "no batch is large enough: the intensity has a limit": (
                    lambda d=d_model, R=ridge, want=want: (
                        abs(-(-R * d // (d - 2 * R)))
                        if want == math.inf
                        else math.nan
                    )
                ),
                "rounded down, it is still memory-bound": want - 1,
            },
        )


@exercise("00-figure")
def figure(answer, cases):
    words = "three numbers: seconds, recorder's units, a factor"
    seconds, line, smaller = expect_parts(answer(), 3, words)
    signal = ecg()
    x = signal.x - signal.x.mean()
    high = (x > 0.6 * x.max()).nonzero()[:, 0]
    apart = float((high[-1] - high[0]) * signal.delta)
    what = "the time from the first spike to the last"
    slips = {"that is the time between neighbours": apart / 2}
    expect_reading(plain(seconds), apart, what, factor=1.06, slips=slips)
    sizes = 2 * torch.fft.rfft(x).abs() / len(x)
    hertz = torch.fft.rfftfreq(len(x), signal.delta)
    hum, second = (float(sizes[(hertz - f).abs() < 1].max()) for f in (60, 120))
    what = "the line at 60 Hz"
    expect_reading(plain(line), hum, what, factor=1.3)
    expect_reading(
        plain(smaller),
        hum / second,
        "how many times as high as the line at 120 Hz",
        factor=1.5,
        slips={"the axis is logarithmic: distances are factors": 1.5},
    )


@exercise("00-token")
def token(answer, cases):
    words = "two pairs of a number and a unit, and a number"
    reading, arithmetic, tokens = expect_parts(answer(), 3, words)
    expect_quantity(
        plain(reading),
        7.0,
        "ms",
        "the reading of the weights",
        slips={
            "a number has two bytes": 3.5,
            "a number has two bytes, not four": 14.0,
        },
    )
    expect_quantity(
        plain(arithmetic),
        0.14,
        "ms",
        "the arithmetic",
        slips={"a multiplication and an addition for each weight": 0.07},
    )
    what = "the tokens that could share a reading"
    expect_reading(plain(tokens), 50.0, what, factor=1.3)
