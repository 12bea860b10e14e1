"""The tasks: each answer follows from its sequence; what is random is spread as it should."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn

from helpers import NoFloat64
from linear_time.attention import CausalSelfAttention
from linear_time.mamba import Mamba
from linear_time.mixer import LanguageModel, Residual
from linear_time.s4 import S4D
from linear_time.tasks import (
    NO_ANSWER,
    accuracy,
    answer_loss,
    associative_recall,
    finest,
    induction_heads,
    read_in_pieces,
    selective_copying,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def solve_copying(tokens, vocab_size):
    """The answers of one sequence, found by reading it."""
    marker = vocab_size - 1
    data = [t for t in tokens if 0 < t < marker]
    answers = iter(data)
    return [next(answers) if t == marker else NO_ANSWER for t in tokens]


def solve_induction(tokens, vocab_size):
    first = tokens.index(vocab_size - 1)
    return [NO_ANSWER] * (len(tokens) - 1) + [tokens[first + 1]]


def solve_recall(tokens, n_pairs):
    """Without filler: every token after the pairs is 0 or a key."""
    value = dict(zip(tokens[: 2 * n_pairs : 2], tokens[1 : 2 * n_pairs : 2], strict=True))
    assert len(value) == n_pairs
    later = tokens[2 * n_pairs :]
    return [NO_ANSWER] * (2 * n_pairs) + [value[t] if t else NO_ANSWER for t in later]


# --- the answers follow from the sequence --------------------------------------------------------


@given(st.integers(1, 8), st.integers(1, 40), st.integers(3, 20), st.integers(0, 99), st.data())
def test_selective_copying(batch_size, length, vocab_size, seed, data):
    n_tokens = data.draw(st.integers(1, length))
    tokens, targets = selective_copying(
        batch_size, length, n_tokens, vocab_size, generator=seeded(seed)
    )
    assert tokens.dtype == targets.dtype == torch.int64
    assert tokens.shape == targets.shape == (batch_size, length + n_tokens)
    body, end = tokens[:, :length], tokens[:, length:]
    assert (end == vocab_size - 1).all()
    assert ((body > 0).sum(1) == n_tokens).all()
    assert body.min() >= 0 and body.max() <= vocab_size - 2
    for row, wanted in zip(tokens.tolist(), targets.tolist(), strict=True):
        assert solve_copying(row, vocab_size) == wanted


@given(st.integers(1, 8), st.integers(3, 40), st.integers(2, 20), st.integers(0, 99))
def test_induction_heads(batch_size, length, vocab_size, seed):
    tokens, targets = induction_heads(batch_size, length, vocab_size, generator=seeded(seed))
    assert tokens.shape == targets.shape == (batch_size, length)
    assert ((tokens == vocab_size - 1).sum(1) == 2).all()
    assert tokens.min() >= 0 and (tokens[:, -1] == vocab_size - 1).all()
    assert targets[:, -1].max() < vocab_size - 1
    for row, wanted in zip(tokens.tolist(), targets.tolist(), strict=True):
        assert solve_induction(row, vocab_size) == wanted


@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 20), st.integers(0, 99), st.data())
def test_associative_recall(batch_size, n_pairs, more, seed, data):
    length = 4 * n_pairs + 2 * more
    vocab_size = 2 * (n_pairs + 1 + data.draw(st.integers(0, 20)))
    sizes = batch_size, length, n_pairs, vocab_size
    tokens, targets = associative_recall(*sizes, random_filler=False, generator=seeded(seed))
    assert tokens.shape == targets.shape == (batch_size, length)
    keys, values = tokens[:, : 2 * n_pairs : 2], tokens[:, 1 : 2 * n_pairs : 2]
    assert keys.min() >= 1 and keys.max() < vocab_size // 2 <= values.min()
    assert values.max() < vocab_size
    assert ((targets != NO_ANSWER).sum(1) == n_pairs).all()
    for row, wanted in zip(tokens.tolist(), targets.tolist(), strict=True):
        assert solve_recall(row, n_pairs) == wanted
        assert all(
            len(set(x)) == n_pairs for x in (row[0 : 2 * n_pairs : 2], row[1 : 2 * n_pairs : 2])
        )
        assert all(t == NO_ANSWER for t in wanted[1::2])  # queries stand where keys do


def test_random_filler_leaves_pairs_queries_and_answers():
    tokens, targets = associative_recall(50, 64, 4, 100, generator=seeded())
    keys, values = tokens[:, :8:2], tokens[:, 1:8:2]
    for row in range(50):
        table = dict(zip(keys[row].tolist(), values[row].tolist(), strict=True))
        asked = targets[row] != NO_ANSWER
        assert sorted(tokens[row, asked].tolist()) == sorted(table)
        assert [table[t] for t in tokens[row, asked].tolist()] == targets[row, asked].tolist()
    filler = tokens[:, 8:][targets[:, 8:] == NO_ANSWER]
    assert chisquare(torch.bincount(filler, minlength=100)).pvalue > 1e-3


# --- what is random ------------------------------------------------------------------------------


def test_copying_is_uniform_over_values_and_sets_of_places():
    tokens, _ = selective_copying(6000, 6, 2, 6, generator=seeded())
    body = tokens[:, :6]
    values = body[body > 0].view(-1, 2)
    assert chisquare(torch.bincount(values[:, 0] * 4 + values[:, 1] - 5)).pvalue > 1e-3
    places = (body > 0).nonzero()[:, 1].view(-1, 2).tolist()
    pairs = list(itertools.combinations(range(6), 2))
    assert chisquare([places.count(list(p)) for p in pairs]).pvalue > 1e-3


def test_induction_is_uniform():
    tokens, targets = induction_heads(6000, 10, 5, generator=seeded())
    first = (tokens == 4).double().argmax(1)
    assert chisquare(torch.bincount(first, minlength=8)).pvalue > 1e-3  # not the last two
    assert chisquare(torch.bincount(targets[:, -1], minlength=4)).pvalue > 1e-3


@pytest.mark.parametrize("power", [0.01, 0.5, 1])
def test_recall_asks_by_a_power_law(power):
    _, targets = associative_recall(9000, 42, 1, 8, power, generator=seeded())
    gap = (targets != NO_ANSWER).double().argmax(1) // 2  # 1 … 20
    weight = torch.arange(1, 21).double() ** (power - 1)
    expected = 9000 * weight / weight.sum()
    assert chisquare(torch.bincount(gap, minlength=21)[1:], expected).pvalue > 1e-3


def test_recall_pairs_are_uniform():
    tokens, _ = associative_recall(9000, 8, 2, 8, generator=seeded())
    keys, values = tokens[:, 0:4:2], tokens[:, 1:4:2] - 4
    for pair, n in ((keys - 1, 3), (values, 4)):
        seen = torch.bincount(pair[:, 0] * n + pair[:, 1], minlength=n * n)
        different = [i * n + j for i in range(n) for j in range(n) if i != j]
        assert chisquare(seen[different]).pvalue > 1e-3


@pytest.mark.parametrize(
    "make",
    [
        lambda g: selective_copying(4, 20, 3, generator=g),
        lambda g: induction_heads(4, 20, generator=g),
        lambda g: associative_recall(4, 20, 3, generator=g),
    ],
)
def test_the_seed_decides(make):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one, two, other = make(seeded(1)), make(seeded(1)), make(seeded(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], other[0])
    assert torch.equal(torch.get_rng_state(), state)  # the global one is untouched
    generator = seeded(1)
    assert not torch.equal(make(generator)[0], make(generator)[0])


# --- loss and accuracy ---------------------------------------------------------------------------


class Table(nn.Module):
    """Logits that were written down beforehand."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, tokens):
        return self.logits


def test_loss_and_accuracy_by_hand():
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    targets = torch.tensor([[NO_ANSWER, 1, 0], [0, NO_ANSWER, 2]])
    says = torch.tensor([[2, 1, 0], [0, 1, 1]])  # one answer of four is wrong
    logits = torch.log(torch.full((2, 3, 3), 0.1)).scatter(2, says[..., None], math.log(0.8))
    terms = answer_loss(Table(logits), (tokens, targets))
    wanted = -torch.log(torch.tensor([0.8, 0.8, 0.8, 0.1]))
    torch.testing.assert_close(terms, wanted)
    with NoFloat64("cpu"):
        assert accuracy(Table(logits), (tokens, targets)) == (0.75, 0.5)
    wrong = Table(logits.flip(2).requires_grad_())
    assert accuracy(wrong, (tokens, targets)) == (0.25, 0.0)
    with pytest.raises(ValueError, match=r"^batch: expected a target to answer, got none"):
        accuracy(Table(logits), (tokens, torch.full_like(targets, NO_ANSWER)))


def test_accuracy_keeps_no_graph():
    seen = []

    class Watched(nn.Linear):
        def forward(self, tokens):
            y = super().forward(tokens[..., None].float())
            seen.append(y.requires_grad)
            return y

    accuracy(Watched(1, 5), (torch.ones(1, 2).long(), torch.ones(1, 2).long()))
    assert seen == [False]


@pytest.mark.bad_input
def test_sizes_may_be_numpys():
    for make, sizes in (
        (selective_copying, (3, 8, 2, 7)),
        (induction_heads, (3, 8, 7)),
        (associative_recall, (3, 12, 2, 8)),
    ):
        ours, theirs = (make(*s, generator=seeded()) for s in (sizes, map(np.int64, sizes)))
        assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("mixer", [Mamba, S4D, lambda d: CausalSelfAttention(d, 2)])
@pytest.mark.parametrize("piece", [1, 4, 5, 13, 99])
def test_pieces_are_one_reading(mixer, piece):
    torch.manual_seed(0)
    model = LanguageModel(lambda: Residual(mixer(8)), 11, 8, 2).double()
    tokens = torch.randint(11, (3, 13), generator=seeded())
    read = []
    prefill = model.prefill
    model.prefill = lambda part, state: read.append(part.shape[1]) or prefill(part, state)
    with torch.no_grad():
        torch.testing.assert_close(read_in_pieces(model, tokens, piece), model(tokens)[:, -1])
    assert max(read) <= piece and sum(read) == 13 and len(read) == -(-13 // piece)


def test_finest_numbers_of_a_device():
    """The weights of the queries' places are drawn with them."""
    names = {"cpu": torch.float64, "cuda": torch.float64, "mps": torch.float32}
    assert {name: finest(torch.device(name)) for name in names} == names


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("make", "arguments", "kind", "message"),
    [
        (selective_copying, (0, 8, 2), ValueError, "^batch_size: expected a whole number >= 1"),
        (selective_copying, (2.0, 8, 2), TypeError, "^batch_size: .*got 2.0"),
        (selective_copying, (2, 8, 0), ValueError, "^n_tokens: .*got 0"),
        (
            selective_copying,
            (2, 2, 3),
            ValueError,
            "^length: expected at least n_tokens = 3, got 2",
        ),
        (selective_copying, (2, 8, 2, 2), ValueError, "^vocab_size: expected at least 3, got 2"),
        (induction_heads, (2, 2), ValueError, "^length: expected at least 3, got 2"),
        (induction_heads, (2, 8, 1), ValueError, "^vocab_size: expected at least 2, got 1"),
        (associative_recall, (2, 8, 0), ValueError, "^n_pairs: "),
        (associative_recall, (2, 10, 3), ValueError, "^length: .*4 n_pairs = 12, got 10"),
        (associative_recall, (2, 13, 3), ValueError, "^length: expected an even number, got 13"),
        (
            associative_recall,
            (2, 12, 3, 6),
            ValueError,
            r"^vocab_size: .*2 n_pairs \+ 2 = 8, got 6",
        ),
        (associative_recall, (2, 12, 3, 9), ValueError, "^vocab_size: expected an even number"),
        (associative_recall, (2, 12, 3, 10, 0), ValueError, "^power: expected a finite number > 0"),
    ],
)
def test_bad_input(make, arguments, kind, message):
    with pytest.raises(kind, match=message):
        make(*arguments, generator=seeded())
    with pytest.raises(TypeError, match=r"^generator: expected a torch\.Generator, got 0"):
        make(2, 12, *((2,) if make is not induction_heads else ()), generator=0)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("piece", "kind", "message"),
    [
        (0, ValueError, "^piece: expected a whole number >= 1, got 0"),
        (2.0, TypeError, "^piece: .*got 2.0"),
    ],
)
def test_pieces_have_a_token_or_more(piece, kind, message):
    model = LanguageModel(lambda: Residual(Mamba(8)), 11, 8, 1)
    with pytest.raises(kind, match=message):
        read_in_pieces(model, torch.zeros(1, 4, dtype=torch.int64), piece)


# --- what the text of chapter 19 says of the tasks -----------------------------------------------


def test_most_queries_of_mqar_follow_the_pairs():
    """At the largest released size: by the power law, the last two thirds are seldom asked."""
    _, targets = associative_recall(2000, 256, 16, 8192, 0.01, False, generator=seeded())
    place = (targets != NO_ANSWER).nonzero()[:, 1]
    gap = (place - 32) // 2 + 1  # 1 … 112
    assert gap.min() == 1 and gap.max() == 112
    assert 15 <= gap.median() <= 20
    assert (gap <= 112 // 3).double().mean() == pytest.approx(0.7, abs=0.03)


def test_random_filler_repeats_a_key_in_a_third_of_the_sequences():
    """16 of 8192 tokens are keys of a sequence, and 208 of its places are filler."""
    tokens, targets = associative_recall(4000, 256, 16, 8192, generator=seeded())
    keys = tokens[:, 0:32:2]
    filler = tokens[:, 32:].masked_fill(targets[:, 32:] != NO_ANSWER, -1)
    repeats = (filler[:, :, None] == keys[:, None]).any(2).any(1).double().mean()
    assert repeats == pytest.approx(1 - (1 - 16 / 8192) ** 208, abs=0.03)
    assert repeats == pytest.approx(1 / 3, abs=0.03)


def test_the_first_pair_of_mqar_is_asked_about_early():
    """Who knows the values and goes by a question's place alone does better than a guess."""
    shares = []
    for length, n_pairs in ((64, 4), (128, 8), (256, 16)):
        tokens, targets = associative_recall(
            20_000, length, n_pairs, 8192, 0.01, False, generator=seeded()
        )
        row, place = (targets != NO_ANSWER).nonzero().unbind(1)
        values = tokens[row, 1 : 2 * n_pairs : 2]
        pair = (values == targets[row, place][:, None]).double().argmax(1)
        asked = torch.zeros(length, n_pairs)
        asked.index_put_((place, pair), torch.tensor(1.0), accumulate=True)
        shares.append((asked.max(1).values.sum() / len(row)).item())
        assert asked[2 * n_pairs].argmax() == 0
    assert shares == pytest.approx([0.29, 0.156, 0.085], abs=0.004)
