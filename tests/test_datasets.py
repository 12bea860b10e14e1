"""The signals: the recording is the known one, the synthetic ones follow their formula."""

import hashlib
import math
import sys

import numpy as np
import pytest
import pywt.data
import scipy.signal
import torch
from hypothesis import given
from hypothesis import strategies as st

from linear_time import datasets
from linear_time.datasets import Signal, chirp, damped_oscillation, ecg

F64 = torch.float64


def test_ecg_is_the_recording_of_the_package():
    x, rate = ecg()
    assert x.dtype == F64
    assert x.shape == (1024,)
    assert rate == 360.0
    assert x.tolist() == pywt.data.ecg().tolist()
    assert (x.min().item(), x.max().item()) == (-112, 250)
    digest = hashlib.sha256(x.numpy().astype("<i4").tobytes()).hexdigest()
    assert digest == datasets.ECG_DIGEST


def test_ecg_gives_a_copy():
    ecg().x.zero_()
    assert ecg().x.abs().max() > 0


def test_ecg_supports_what_its_docstring_infers():
    """Sharp lines at 1/6 and 1/3 cycles a sample, and 66 beats a minute at 360 Hz."""
    x, rate = ecg()
    spectrum = np.abs(np.fft.rfft((x.numpy() - x.numpy().mean()) * np.hanning(1024)))
    background = np.array([np.median(spectrum[max(0, k - 10) : k + 11]) for k in range(513)])
    lines = [k for k in range(100, 513) if spectrum[k] > 3 * background[k]]
    assert all(min(abs(k - 1024 / 6), abs(k - 1024 / 3)) < 1 for k in lines)
    assert {round(6 * k / 1024) for k in lines} == {1, 2}
    beats = scipy.signal.find_peaks(x.numpy(), height=150, distance=100)[0]
    assert len(beats) == 3
    assert round(60 * rate / np.diff(beats).mean()) == 66


def test_signal_times():
    signal = Signal(torch.zeros(5, dtype=F64), 4.0)
    assert signal.delta == 0.25
    assert signal.times.tolist() == [0, 0.25, 0.5, 0.75, 1.0]


@given(
    length=st.integers(1, 200),
    rate=st.floats(0.5, 500),
    start=st.floats(0, 0.5),
    end=st.floats(0, 0.5),
)
def test_chirp_equals_scipy(length, rate, start, end):
    x, sampling_rate = chirp(length, rate, start * rate, end * rate)
    assert sampling_rate == rate
    t = np.arange(length) / rate
    theirs = scipy.signal.chirp(t, start * rate, length / rate, end * rate, phi=-90)
    torch.testing.assert_close(x, torch.from_numpy(theirs), rtol=0, atol=1e-9)


@given(
    length=st.integers(1, 100),
    rate=st.floats(0.5, 500),
    frequency=st.floats(0, 50),
    decay=st.floats(0, 5),
)
def test_damped_oscillation_is_a_pair_of_modes(length, rate, frequency, decay):
    x, sampling_rate = damped_oscillation(length, rate, frequency, decay)
    assert sampling_rate == rate
    mode = np.exp(complex(-decay, 2 * np.pi * frequency) * np.arange(length) / rate)
    torch.testing.assert_close(x, torch.from_numpy(mode.real), rtol=0, atol=1e-9)


def test_defaults():
    assert chirp(10).x.dtype == damped_oscillation(10).x.dtype == F64
    assert chirp(10).x.shape == damped_oscillation(10).x.shape == (10,)
    # the default chirp ends at a quarter of the sampling rate: 4 samples a cycle
    x = chirp(4000).x
    assert x[-1].item() == pytest.approx(-x[-3].item(), abs=0.01)
    # the default oscillation: 20 samples a cycle, and it falls by e in 100
    y = damped_oscillation(101).x
    assert y[20].item() == pytest.approx(math.exp(-0.2))
    assert y[100].item() == pytest.approx(math.exp(-1))


@pytest.mark.bad_input
def test_bad_input_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pywt.data", None)
    monkeypatch.setitem(sys.modules, "pywt", None)
    with pytest.raises(ImportError, match=r"^ecg: .*PyWavelets.*pip install PyWavelets"):
        ecg()


@pytest.mark.bad_input
@pytest.mark.parametrize("other", ["value", "shape"])
def test_bad_input_changed_data(monkeypatch, other):
    data = pywt.data.ecg().copy()
    data = np.where(np.arange(1024) == 500, 0, data) if other == "value" else data[:1000]
    monkeypatch.setattr(pywt.data, "ecg", lambda: data)
    with pytest.raises(ValueError, match=r"^ecg: expected 1024 samples with SHA-256 96b58a5df18f"):
        ecg()


@pytest.mark.bad_input
@pytest.mark.parametrize("build", [chirp, damped_oscillation])
@pytest.mark.parametrize(
    ("length", "kind"), [(0, ValueError), (-1, ValueError), (8.0, TypeError), ("8", TypeError)]
)
def test_bad_input_length(build, length, kind):
    with pytest.raises(kind, match=r"^length: expected a whole number >= 1, got"):
        build(length)


@pytest.mark.bad_input
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "1", torch.ones(2)])
@pytest.mark.parametrize(
    ("build", "name"),
    [
        (chirp, "sampling_rate"),
        (chirp, "start_hz"),
        (chirp, "end_hz"),
        (damped_oscillation, "sampling_rate"),
        (damped_oscillation, "frequency_hz"),
        (damped_oscillation, "decay"),
    ],
)
def test_bad_input_numbers(build, name, value):
    kind = ValueError if isinstance(value, float) else TypeError
    with pytest.raises(kind, match=f"^{name}: expected a finite number >=? 0, got"):
        build(8, **{name: value})
    if name == "sampling_rate":
        with pytest.raises(
            ValueError, match=r"^sampling_rate: expected a finite number > 0, got 0"
        ):
            build(8, sampling_rate=0)
