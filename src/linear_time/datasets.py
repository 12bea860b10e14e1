"""Real signals from installed packages, and synthetic ones with a formula."""

import hashlib
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from linear_time import _validate

# SHA-256 of the ECG's 1024 samples as little-endian 32-bit integers.
ECG_DIGEST = "96b58a5df18fc798a1db5af5e7041d86ad0dce11f552420bf14a0cc07de66b89"
ECG_SAMPLING_RATE = 360.0


class Signal(NamedTuple):
    """A sampled signal: x (length,), and its sampling rate in Hz."""

    x: Float[Tensor, " length"]
    sampling_rate: float

    @property
    def delta(self) -> float:
        """The step size Δ in seconds."""
        return 1 / self.sampling_rate

    @property
    def times(self) -> Float[Tensor, " length"]:
        """The time of every sample in seconds, from 0, (length,)."""
        return torch.arange(len(self.x), dtype=self.x.dtype) * self.delta


def ecg() -> Signal:
    """A real electrocardiogram: 1024 samples, as PyWavelets ships them.

    What is documented: "1024 points of an ECG timeseries", and no more. The
    package names neither the person nor the recording, the sampling rate or
    the unit. The values are whole numbers from −112 to 250, and are returned
    as they are: read them as the recorder's units, not as millivolts.

    The rate of 360 Hz is inferred from the samples. Their spectrum has two
    sharp lines, at 1/6 and 1/3 cycles a sample, which is where mains hum of
    60 Hz and its second harmonic fall at 360 samples a second (50 Hz at 300
    samples a second would fall there too). At 360 Hz the heart beats 66 times
    a minute.

    Returns:
        Signal(x, sampling_rate): x float64, (1024,); 360.0 Hz.

    Raises:
        ImportError: PyWavelets is missing; the message says what to install.
        ValueError: the package's data are not the ones this book was written
            with.

    Source: ``pywt.data.ecg`` of PyWavelets (MIT licence).
    """
    try:
        import pywt.data
    except ImportError as error:
        raise ImportError(
            "ecg: expected the package PyWavelets, which holds the recording, "
            "got none; install it with: pip install PyWavelets"
        ) from error
    samples = pywt.data.ecg()
    digest = hashlib.sha256(samples.astype("<i4").tobytes()).hexdigest()
    if samples.shape != (1024,) or digest != ECG_DIGEST:
        raise ValueError(
            f"ecg: expected 1024 samples with SHA-256 {ECG_DIGEST[:12]}…, "
            f"got shape {samples.shape} with {digest[:12]}…; install the "
            "version of PyWavelets that requirements.txt names"
        )
    x = torch.tensor(samples, dtype=torch.float64)
    return Signal(x, ECG_SAMPLING_RATE)


def chirp(
    length: int,
    sampling_rate: float | int = 1.0,
    start_hz: float | int = 0.0,
    end_hz: float | int = 0.25,
) -> Signal:
    """A tone whose frequency rises (or falls) in a straight line.

    x(t) = sin 2π (f₀ t + (f₁ − f₀) t²/(2T)), with T = length / sampling_rate:
    at time t its frequency is f₀ + (f₁ − f₀) t/T.

    Args:
        length: number of samples, ≥ 1.
        sampling_rate: samples a second, > 0, in Hz.
        start_hz: f₀ ≥ 0, in Hz.
        end_hz: f₁ ≥ 0, in Hz. Above half the sampling rate it aliases.

    Returns:
        Signal(x, sampling_rate): x float64, (length,).

    Raises:
        TypeError, ValueError: an argument is no such number.

    Source: the integral of the frequency is the phase.
    """
    _validate.count("length", length)
    _validate.number("sampling_rate", sampling_rate)
    _validate.number("start_hz", start_hz, or_equal=True)
    _validate.number("end_hz", end_hz, or_equal=True)
    t = torch.arange(length, dtype=torch.float64) / sampling_rate
    slope = (end_hz - start_hz) * sampling_rate / length
    cycles = start_hz * t + slope * t**2 / 2
    return Signal(torch.sin(2 * math.pi * cycles), float(sampling_rate))


def damped_oscillation(
    length: int,
    sampling_rate: float | int = 1.0,
    frequency_hz: float | int = 0.05,
    decay: float | int = 0.01,
) -> Signal:
    """A tone that dies out: x(t) = exp(−γ t) cos(2π f t).

    It is the sum of two modes, λ = −γ ± 2πi f, with weights ½.

    Args:
        length: number of samples, ≥ 1.
        sampling_rate: samples a second, > 0, in Hz.
        frequency_hz: f ≥ 0, in Hz.
        decay: γ ≥ 0, in 1/s.

    Returns:
        Signal(x, sampling_rate): x float64, (length,).

    Raises:
        TypeError, ValueError: an argument is no such number.

    Source: chapter 11.
    """
    _validate.count("length", length)
    _validate.number("sampling_rate", sampling_rate)
    _validate.number("frequency_hz", frequency_hz, or_equal=True)
    _validate.number("decay", decay, or_equal=True)
    t = torch.arange(length, dtype=torch.float64) / sampling_rate
    x = torch.exp(-decay * t) * torch.cos(2 * math.pi * frequency_hz * t)
    return Signal(x, float(sampling_rate))
