"""Wrong answers to the exercises of chapter 19: each is a plausible slip."""

import math

import torch
from torch import nn

from linear_time.exercises.tasks import flaws
from linear_time.mixer import LanguageModel, Residual
from linear_time.recurrent import ElmanRNN
from linear_time.tasks import NO_ANSWER


def _solve(tokens, n_pairs, answer, blank=NO_ANSWER, known=True):
    out = torch.full_like(tokens, blank)
    for row, said in zip(tokens.tolist(), out, strict=True):
        table = dict(zip(row[: 2 * n_pairs : 2], row[1 : 2 * n_pairs : 2], strict=True))
        for t in range(2 * n_pairs, len(row)):
            if row[t] in table if known else row[t]:
                said[t] = answer(row, t, table)
    return out


def says_the_key(tokens, n_pairs):
    return _solve(tokens, n_pairs, lambda row, t, table: row[t])


def one_late(tokens, n_pairs):
    return _solve(tokens, n_pairs, lambda row, t, table: table[row[t]]).roll(1, 1)


def zero_for_nothing(tokens, n_pairs):
    return _solve(tokens, n_pairs, lambda row, t, table: table[row[t]], 0)


def first_value_for_all(tokens, n_pairs):
    return _solve(tokens, n_pairs, lambda row, t, table: row[1])


def one_row_only(tokens, n_pairs):
    return _solve(tokens[:1], n_pairs, lambda row, t, table: table[row[t]])


def what_stood_behind(tokens, n_pairs):
    """Also inside the pairs: a key's value is no question there."""
    out = _solve(tokens, n_pairs, lambda row, t, table: table[row[t]])
    out[:, : 2 * n_pairs : 2] = tokens[:, 1 : 2 * n_pairs : 2]
    return out


def no_key_but_zero(tokens, n_pairs):
    """As the chapter's `recalled`: it expects no filler but 0."""
    return _solve(tokens, n_pairs, lambda row, t, table: table[row[t]], known=False)


def one_question_a_key(tokens, n_pairs):
    """A key that comes by chance, after its question, is left out."""

    def answer(row, t, table):
        return NO_ANSWER if row[t] in row[2 * n_pairs : t] else table[row[t]]

    return _solve(tokens, n_pairs, answer)


def _copying(n, kinds):
    return n * math.log2(kinds)


def _bits(copying, recall):
    return lambda: (copying, recall)


def _tables(n, keys, values):
    return math.log2(math.comb(keys, n)) + math.log2(math.perm(values, n))


def per_token(right):
    p = right.double().mean()
    return math.sqrt(p * (1 - p) / right.numel())


def spread(right):
    return right.double().mean(1).std()


def without_correction(right):
    return right.double().mean(1).std(correction=0) / math.sqrt(len(right))


def whole_sequences(right):
    return right.all(1).double().std() / math.sqrt(len(right))


def each_alone(model, tokens, piece):
    for part in tokens.split(piece, dim=1):
        logits, _ = model.prefill(part)
    return logits


def whole(model, tokens, piece):
    return model(tokens)[:, -1]


def at_once(model, tokens, piece):
    return model.prefill(tokens)[0]


def token_by_token(model, tokens, piece):
    state = None
    for part in tokens.split(1, dim=1):
        logits, state = model.prefill(part, state)
    return logits


def by_steps(model, tokens, piece):
    state = model.initial_state(len(tokens))
    for token in tokens.unbind(1):
        logits, state = model.step(token, state)
    return logits


def drops_the_rest(model, tokens, piece):
    state = None
    for k in range(tokens.shape[1] // piece):
        logits, state = model.prefill(tokens[:, k * piece : (k + 1) * piece], state)
    return logits


def by_generate(model, tokens, piece):
    return model.generate(tokens, 1)


def _batch(make, seed=0, batch=400, length=6, n_tokens=2, vocab_size=5):
    generator = torch.Generator().manual_seed(seed)
    return make(batch, length, n_tokens, vocab_size, generator=generator)


def only_shapes(make):
    tokens, targets = _batch(make)
    assert tokens.shape == targets.shape == (400, 8)
    assert (tokens[:, 6:] == 4).all()


def only_the_oracle(make):
    tokens, targets = _batch(make)
    body = tokens[:, :6]
    assert (body[body > 0].view(400, 2) == targets[:, 6:]).all()


def only_one_sequence(make):
    tokens, targets = _batch(make, batch=1)
    body = tokens[:, :6]
    assert (body[body > 0] == targets[0, 6:]).all()


def one_way_of_drawing(make):
    """What the library draws from a seed: another right generator draws otherwise."""
    from linear_time.tasks import selective_copying

    generator = torch.Generator().manual_seed(0)
    tokens, targets = selective_copying(400, 6, 2, 5, generator=generator)
    got = _batch(make)
    assert torch.equal(got[0], tokens) and torch.equal(got[1], targets)


def all_but(flaw):
    def audit(rows, claim):
        return flaws(rows, claim) - {flaw}

    return audit


def no_flaw(rows, claim):
    return set()


def every_flaw(rows, claim):
    return {"budget", "edge", "test", "overlap"}


def by_the_means(rows, claim):
    """Overlap by the means, not by the seeds."""
    found = flaws(rows, claim) - {"overlap"}
    means = {
        m: [r["test"] for r in rows if r["model"] == m and r["lr"] == lr]
        for m, lr in claim["rates"].items()
    }
    if sum(means[claim["better"]]) < sum(means[claim["worse"]]):
        found.add("overlap")
    return found


def a_word_too_many(rows, claim):
    return {*flaws(rows, claim), "seeds"}


def untrained():
    torch.manual_seed(0)
    return LanguageModel(lambda: Residual(ElmanRNN(16)), 8, 16, 2)


class _Program(nn.Module):
    """It answers by a rule, and has a parameter for show."""

    def __init__(self, width=1):
        super().__init__()
        self.parameter = nn.Parameter(torch.ones(width))

    def forward(self, tokens):
        first = (tokens == 7).double().argmax(1)
        says = tokens.gather(1, first[:, None] + 1)
        logits = nn.functional.one_hot(says, 8).float()
        return logits.expand(-1, tokens.shape[1], -1)


def a_program():
    return _Program()


def too_large():
    return _Program(40_001)


def no_model():
    return lambda tokens: tokens


WRONG = {
    "19-oracle": [
        says_the_key, one_late, zero_for_nothing, first_value_for_all, one_row_only,
        what_stood_behind, no_key_but_zero, one_question_a_key,
    ],
    "19-bits": [
        _bits(_copying, lambda n, k, v: math.log2(math.perm(k, n) * math.perm(v, n))),
        _bits(_copying, lambda n, k, v: math.log2(math.comb(k, n)) + n * math.log2(v)),
        _bits(_copying, lambda n, k, v: math.log2(math.perm(v, n))),
        _bits(lambda n, kinds: math.log2(math.comb(kinds + n - 1, n)), _tables),
        _bits(lambda n, kinds: n * math.log(kinds), _tables),
        lambda: _copying,
    ],
    "19-error": [per_token, spread, without_correction, whole_sequences],
    "19-pieces": [
        each_alone, whole, at_once, token_by_token, by_steps, drops_the_rest, by_generate,
    ],
    "19-bug": [only_shapes, only_the_oracle, only_one_sequence, one_way_of_drawing],
    "19-audit": [
        *map(all_but, ("budget", "edge", "test", "overlap")),
        *(no_flaw, every_flaw, by_the_means, a_word_too_many),
    ],
    "19-train": [untrained, a_program, too_large, no_model],
}  # fmt: skip
