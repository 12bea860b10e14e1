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
    no_derivatives,
    shown,
)

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
    got = answer() if callable(answer) else answer
    expect(
        isinstance(got, tuple | list) and len(got) == 3,
        "Expected a tuple of three answers (None for one that you leave), "
        f"got {shown(got)}.",
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
    def group(answer):
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
def alias(answer):
    for lam, delta in (
        (-0.5 + 1j, 0.5),
        (-0.5 + 8j, 0.5),
        (0.3 - 8j, 0.5),
        (-1 + 100j, 0.25),
        (-2 - 1000j, 1.0),
        (-1 + 0j, 3.0),
    ):
        got = answer(lam, delta)
        given = f"λ = {shown(lam)}, delta = {delta:g}"
        expect_close(got, _folded(lam, delta), given)
    half = math.pi / 0.5  # half a turn a step: the upper end is inside
    for lam in (complex(-1, half), complex(-1, -half), complex(-1, 3 * half)):
        given = f"λ = {shown(lam)}, delta = 0.5"
        expect_close(answer(lam, 0.5), complex(-1, half), given)


def _folded(lam, delta):
    """By trying: whole turns off or on, until it lies within."""
    turn, omega = 2 * math.pi / delta, lam.imag
    while omega > turn / 2:
        omega -= turn
    while omega <= -turn / 2:
        omega += turn
    return complex(lam.real, omega)


@exercise("00-ramp")
def ramp(answer):
    a = sp.symbols("a", nonzero=True)
    b, t = sp.symbols("b t", real=True)
    h = sp.sympify(answer(a, b, t))
    start = sp.simplify(sp.limit(h, t, 0))
    expect(start == 0, f"Expected h(0) = 0, got {start}.")
    residual = sp.simplify(sp.diff(h, t) - a * h - b * t)
    expect(
        residual == 0,
        f"Expected h' - a h - b t = 0 for all a, b, t, got {residual}.",
    )


@exercise("00-keep")
def keep(answer):
    generator = torch.Generator().manual_seed(3)
    tones = torch.arange(120, dtype=F64) * 0.01
    slow = torch.sin(2 * math.pi * 5 * tones)  # 6 cycles in 1.2 s
    fast = torch.sin(2 * math.pi * 20 * tones)
    given = "a tone of 5 Hz and one of 20 Hz, delta = 0.01, cutoff 12"
    expect_close(answer(slow + fast, 0.01, 12.0), slow, given)
    given = "the tones, and a constant 2 that has frequency 0"
    expect_close(answer(slow + fast + 2, 0.01, 12.0), slow + 2, given)
    for length, delta, cutoff in (
        (101, 0.01, 9.7),
        (64, 0.5, 0.3),
        (7, 1.0, 0.2),
        (8, 0.5, 0.5),  # the cutoff is a frequency: it stays
    ):
        x = torch.randn(length, dtype=F64, generator=generator)
        lag = torch.arange(length, dtype=F64)
        weights = torch.zeros(length, dtype=F64)
        for n in range(length // 2 + 1):
            if n / (length * delta) <= cutoff:
                once = n == 0 or 2 * n == length
                cosine = torch.cos(2 * math.pi * n * lag / length)
                weights += (1 if once else 2) * cosine / length
        given = f"{length} random samples, delta = {delta:g}, cutoff {cutoff:g}"
        expect_close(
            answer(x.clone(), delta, cutoff),
            circular_convolution(x, weights),
            given,
        )
    signal = ecg()
    parts = torch.fft.rfft(signal.x)
    parts[torch.fft.rfftfreq(1024, signal.delta) > 40] = 0
    want = torch.fft.irfft(parts, n=1024)
    have = answer(signal.x.clone(), signal.delta, 40.0)
    expect_close(have, want, "the ECG, cutoff 40 Hz")


@exercise("00-pullback")
def pullback(answer):
    generator = torch.Generator().manual_seed(5)
    v = torch.tensor([0.0, 0.0, 1.0], dtype=F64)
    taps = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    given = "v = (0, 0, 1), kernel = (1, 2, 3)"
    expect_close(answer(v, taps), [3.0, 2.0, 1.0], given)
    for length in (1, 2, 7, 32, 1000):
        v = torch.randn(length, dtype=F64, generator=generator)
        taps = torch.randn(length, dtype=F64, generator=generator)
        given = f"random v and kernel of length {length}"
        with no_derivatives(), Calls(most=500), Largest() as largest:
            got = answer(v.clone(), taps.clone())
        expect_close(got, toeplitz(taps).mT @ v, given)
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


@exercise("00-bug")
def bug(answer):
    bugs = {
        "no padding at all": _padded_to(lambda length: length),
        "padding that is one zero short": _padded_to(
            lambda length: max(length, 2 * length - 2)
        ),
        "an output one step late": _late,
        "a kernel read backwards": _mirrored,
        "an output centred on the kernel, which reads the future": _centred,
    }
    expect_finds_bug(
        answer, causal_convolution, bugs, "implementation of the convolution"
    )


@exercise("00-batch")
def batch(answer):
    cases = (
        (4096, 1e14, 2e12, 52),
        (1024, 1e14, 2e12, 56),
        (200, 1e14, 2e12, 100),
        (4096, 4e14, 2e12, 222),
        (512, 1e13, 1e12, 11),
    )
    for d_model, peak, bandwidth, want in cases:
        given = f"d_model = {d_model}, {peak:.0e} FLOP/s, {bandwidth:.0e} B/s"
        expect_equal(answer(d_model, peak, bandwidth), want, given)
    for d_model in (64, 100):
        given = f"d_model = {d_model}, 1e+14 FLOP/s, 2e+12 B/s"
        expect_equal(answer(d_model, 1e14, 2e12), math.inf, given)
