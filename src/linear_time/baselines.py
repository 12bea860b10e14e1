"""Chapter 18: what a language model must beat: n-grams, and compressors.

Both need no gradient and no GPU, and both are hard to beat on a little text.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from linear_time import _validate

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: zlib.compress(data, 9),
    "bzip2": lambda data: bz2.compress(data, 9),
    "xz": lambda data: lzma.compress(data, preset=9),
}


def n_gram(
    training: Int[Tensor, " known"],
    new: Int[Tensor, " asked"],
    vocab_size: int,
    orders: Sequence[int],
) -> dict[int, Float[Tensor, " asked"]]:
    """The probability of every token of a text, by n-grams of each order.

    Interpolated Kneser–Ney. With w the n − 1 tokens before c, and w′ without
    the oldest of them,

        P(c | w) = (max(m(w c) − δ, 0) + δ k(w) P(c | w′)) / m(w),

    where m(w) = Σ_c m(w c), k(w) is how many kinds of tokens followed w, and
    δ = m₁/(m₁ + 2 m₂), from how many grams have m = 1 and m = 2. At the
    order asked for, m counts occurrences; below it, how many kinds of tokens
    stood before the gram. Where w never occurred, P(c | w) = P(c | w′); below
    order 1 all tokens are equally likely. The first tokens of the text, which
    have no n − 1 before them, are taken by lower orders.

    Args:
        training: the tokens to count, (known,), more than the largest order.
        new: the tokens to predict, (asked,).
        vocab_size: number of tokens.
        orders: n ≥ 1, such that vocab_size ** n fits 63 bits.

    Returns:
        Order → P, float64, (asked,).

    Raises:
        TypeError, ValueError: an argument is not as above.

    Source: Kneser & Ney (1995), "Improved Backing-Off for m-gram Language
        Modeling", interpolated; for a comparison with other ways, Chen &
        Goodman (1996), "An Empirical Study of Smoothing Techniques for
        Language Modeling".
    """
    vocab_size = _validate.count("vocab_size", vocab_size)
    if not isinstance(orders, (Sequence, np.ndarray)):
        raise TypeError(
            "orders: expected a list of whole numbers, "
            f"got {_validate.describe(orders)}"
        )
    orders = [_validate.count("orders", order) for order in orders]
    highest = max(orders, default=0)
    if highest == 0:
        raise ValueError("orders: expected at least one, got none")
    if vocab_size**highest >= 2**63:
        raise ValueError(
            f"orders: expected vocab_size ** n below 2 ** 63, got n = {highest}"
        )
    for name, value, least in (
        ("training", training, highest + 1),
        ("new", new, 1),
    ):
        _validate.tokens(name, value, ("tokens",), vocab_size)
        if len(value) < least:
            raise ValueError(
                f"{name}: expected at least {least} tokens, got {len(value)}"
            )
    known = _codes(training, highest, vocab_size)
    asked = _codes(new, highest, vocab_size)
    whole = {
        k: np.unique(known[k][k - 1 :], return_counts=True)
        for k in range(1, highest + 1)
    }
    result: dict[int, Tensor] = {}
    below = np.full(len(new), 1 / vocab_size)
    for k in range(1, highest + 1):
        if k in orders:
            p = _refined(k, *whole[k], asked[k], below, vocab_size)
            result[k] = torch.from_numpy(p)
        if k < highest:
            # How many kinds of tokens stood before each gram of length k.
            before = whole[k + 1][0] % vocab_size**k
            grams, counts = np.unique(before, return_counts=True)
            below = _refined(k, grams, counts, asked[k], below, vocab_size)
    return result


def compressed_bits(
    training: Int[Tensor, " known"],
    new: Int[Tensor, " asked"],
    compressor: str,
) -> float:
    """Bits a token that a text adds to a file with the training text.

    A token is one byte: there must be at most 256 of them.

    Args:
        training, new: the tokens, (known,) and (asked,).
        compressor: "gzip", "bzip2" or "xz", of Python's standard library.

    Raises:
        ValueError: the compressor is unknown, or a token is not a byte.
    """
    _validate.one_of("compressor", compressor, COMPRESSORS)
    _validate.tokens("training", training, ("tokens",), 256)
    _validate.tokens("new", new, ("tokens",), 256)
    compress = COMPRESSORS[compressor]
    first = bytes(training.tolist())
    both = first + bytes(new.tolist())
    return 8 * (len(compress(both)) - len(compress(first))) / len(new)


def _codes(tokens: Tensor, highest: int, base: int) -> dict[int, np.ndarray]:
    """For each k, the number of the gram of length k that ends at a place.

    Its newest token is the last digit. The first k − 1 places are too near
    the beginning, and not to be used.
    """
    values = tokens.cpu().numpy().astype(np.int64)
    codes = {0: np.zeros(len(values), dtype=np.int64)}
    for k in range(1, highest + 1):
        oldest = np.zeros_like(values)
        oldest[k - 1 :] = values[: max(len(values) - k + 1, 0)]
        codes[k] = codes[k - 1] + oldest * base ** (k - 1)
    return codes


def _refined(
    k: int,
    grams: np.ndarray,
    counts: np.ndarray,
    asked: np.ndarray,
    below: np.ndarray,
    base: int,
) -> np.ndarray:
    """P of order k from that of order k − 1, for the grams asked."""
    contexts, first = np.unique(grams // base, return_index=True)
    totals = np.add.reduceat(counts, first)
    kinds = np.diff(np.append(first, len(grams)))
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    # Single tokens never occur once in a long text: then no discount but ½.
    delta = once / (once + 2 * twice) if once and twice else 0.5
    place, seen = _find(grams, asked)
    count = np.where(seen, np.maximum(counts[place] - delta, 0), 0)
    place, known = _find(contexts, asked // base)
    p = (count + delta * kinds[place] * below) / totals[place]
    usable = known & (np.arange(len(asked)) >= k - 1)
    return np.where(usable, p, below)


def _find(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, ...]:
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return place, keys[place] == wanted
