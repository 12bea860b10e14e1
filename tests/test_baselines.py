"""n-grams against a dictionary that is counted in the open, and compressors."""

import bz2
import collections
import lzma
import math
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linear_time.baselines import COMPRESSORS, compressed_bits, n_gram
from linear_time.datasets import text

seeds = st.integers(0, 2**31 - 1)


def repeating(n, vocab_size, seed):
    """Tokens with some order in them: each repeats the one three before it half of the time."""
    generator = torch.Generator().manual_seed(seed)
    fresh = torch.randint(vocab_size, (n,), generator=generator).tolist()
    repeat = (torch.rand(n, generator=generator) < 0.5).tolist()
    for i in range(3, n):
        if repeat[i]:
            fresh[i] = fresh[i - 3]
    return torch.tensor(fresh)


def by_dictionary(training, new, vocab_size, order):
    """Interpolated Kneser–Ney, one gram after the other."""
    training, new = training.tolist(), new.tolist()

    def occurrences(k):
        return collections.Counter(tuple(training[i : i + k]) for i in range(len(training) - k + 1))

    def kinds_before(k):
        return collections.Counter(gram[1:] for gram in occurrences(k + 1))

    def probability(gram, at_the_top):
        k = len(gram)
        if k == 0:
            return 1 / vocab_size
        m = occurrences(k) if at_the_top else kinds_before(k)
        below = probability(gram[1:], False)
        total = sum(count for g, count in m.items() if g[:-1] == gram[:-1])
        if total == 0:
            return below
        once = sum(count == 1 for count in m.values())
        twice = sum(count == 2 for count in m.values())
        delta = once / (once + 2 * twice) if once and twice else 0.5
        kinds = sum(g[:-1] == gram[:-1] for g in m)
        return (max(m[gram] - delta, 0) + delta * kinds * below) / total

    result = []
    for i in range(len(new)):
        k = min(order, i + 1)
        result.append(probability(tuple(new[i - k + 1 : i + 1]), k == order))
    return torch.tensor(result, dtype=torch.float64)


@given(seed=seeds, vocab_size=st.integers(1, 5), n=st.integers(6, 60))
def test_n_grams_are_those_of_a_dictionary(seed, vocab_size, n):
    training, new = repeating(n, vocab_size, seed), repeating(9, vocab_size, seed + 1)
    found = n_gram(training, new, vocab_size, (1, 2, 4))
    for order in (1, 2, 4):
        wanted = by_dictionary(training, new, vocab_size, order)
        torch.testing.assert_close(found[order], wanted, rtol=1e-12, atol=1e-12)


@given(seed=seeds, order=st.integers(1, 6))
def test_probabilities_sum_to_one(seed, order):
    training, start = repeating(300, 4, seed), repeating(6, 4, seed + 1)
    total = 0.0
    for last in range(4):
        new = torch.cat([start, torch.tensor([last])])
        total += float(n_gram(training, new, 4, (order,))[order][-1])
    assert total == pytest.approx(1, abs=1e-12)


def test_an_n_gram_learns_what_a_shorter_one_cannot_see():
    """Each token is the sum of the last two, modulo 3: trigrams know it, bigrams do not."""
    tokens = [1, 1]
    for i in range(400):
        tokens.append((tokens[-1] + tokens[-2] + (i % 50 == 7)) % 3)
    tokens = torch.tensor(tokens)
    p = n_gram(tokens[:300], tokens[300:], 3, (2, 3))
    assert p[3].log2().mean() > -0.35 > -1.2 > p[2].log2().mean()


def test_what_a_compressor_adds():
    training, new = repeating(4000, 20, 0), repeating(500, 20, 1)
    both, first = bytes([*training.tolist(), *new.tolist()]), bytes(training.tolist())
    for name, size in (
        ("gzip", lambda b: len(zlib.compress(b, 9))),
        ("bzip2", lambda b: len(bz2.compress(b, 9))),
        ("xz", lambda b: len(lzma.compress(b, preset=9))),
    ):
        wanted = 8 * (size(both) - size(first)) / 500
        assert compressed_bits(training, new, name) == pytest.approx(wanted)
        assert COMPRESSORS[name]
    again = torch.cat([training, new])
    assert compressed_bits(again, new, "xz") < 0.5 < compressed_bits(training, new, "xz")


def test_a_five_gram_on_real_text():
    book = text()
    training, _, test = book.parts()
    bits = -float(n_gram(training, test, len(book.alphabet), (5,))[5].log2().mean())
    assert bits == pytest.approx(1.880, abs=0.002)
    assert math.log2(len(book.alphabet)) > 6


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(5), torch.zeros(3).long(), 4, (2,)), "training: expected int64 or int32"),
        ((torch.zeros(2).long(), torch.zeros(3).long(), 4, (2,)), "training: .*at least 3"),
        ((torch.zeros(5).long(), torch.zeros(0).long(), 4, (2,)), "new: expected .*not empty"),
        ((torch.zeros(5).long(), torch.full((3,), 4), 4, (2,)), "new: expected .*in 0 … 3"),
        ((torch.zeros(99).long(), torch.zeros(3).long(), 66, (11,)), "orders: .*got n = 11"),
        ((torch.zeros(5).long(), torch.zeros(3).long(), 4, (0,)), "orders: .*got 0"),
        ((torch.zeros(5).long(), torch.zeros(3).long(), 4, ()), "orders: .*got none"),
        (([0, 1, 2], torch.zeros(3).long(), 4, (1,)), "training: expected int64 .*got a list"),
        ((torch.zeros(5).long(), torch.zeros(3).long(), 0, (1,)), "vocab_size: .*got 0"),
    ],
)
def test_bad_input_n_gram(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        n_gram(*arguments)


@pytest.mark.bad_input
def test_orders_may_be_numpys():
    tokens = repeating(40, 3, 0)
    ours = n_gram(tokens, tokens, 3, (1, 2))
    theirs = n_gram(tokens, tokens, np.int64(3), np.array([1, 2]))
    assert ours.keys() == theirs.keys() and {type(n) for n in theirs} == {int}
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.bad_input
def test_bad_input_compressor():
    one = torch.ones(3, dtype=torch.int64)
    with pytest.raises(
        ValueError, match=r"^compressor: expected one of gzip, bzip2, xz, got 'zip'"
    ):
        compressed_bits(one, one, "zip")
    with pytest.raises(ValueError, match=r"^new: expected .*in 0 … 255"):
        compressed_bits(one, 256 * one, "gzip")
    with pytest.raises(ValueError, match=r"^training: expected .*in 0 … 255"):
        compressed_bits(one[:0], one, "gzip")
