"""Splits by their definition, fields that training decides, baselines by scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OrdinalEncoder, TargetEncoder
from torch.nn import functional

from helpers import close, draw
from linear_time.datasets import movielens
from linear_time.ranking import (
    FieldEmbedding,
    Fields,
    Ranker,
    Split,
    encode,
    fit,
    global_time_split,
    logistic_regression,
    movielens_fields,
    per_user_split,
    seen,
    similarity_evidence,
    smoothed_rate,
)
from linear_time.ranking_scores import scores
from linear_time.training import Config

F64 = torch.float64


# --- splits --------------------------------------------------------------------------------------


def histories(data):
    rows = data.draw(st.integers(1, 40))
    numbers = [st.lists(st.integers(0, top), min_size=rows, max_size=rows) for top in (4, 9)]
    return [torch.tensor(data.draw(one)) for one in numbers]


@given(data=st.data())
def test_per_user_split_by_its_definition(data):
    user, timestamp = histories(data)
    split = per_user_split(user, timestamp)
    part = {int(row): k for k, rows in enumerate(split) for row in rows}
    assert sum(map(len, split)) == len(part) == len(user)
    for row in range(len(user)):
        own = timestamp[user == user[row]]
        earlier, n = int((own < timestamp[row]).sum()), len(own)
        expected = 0 if 10 * earlier < 8 * n else 1 if 10 * earlier < 9 * n else 2
        assert part[row] == expected
    assert seen(user, split.train).all()  # nobody is cold
    for rows in split:
        assert torch.equal(rows, rows.sort().values)


@given(data=st.data())
def test_global_split_by_its_definition(data):
    _, timestamp = histories(data)
    split = global_time_split(timestamp, 0.2, 0.3)
    n = len(timestamp)
    for rows, low, high in zip(split, (0, 5, 7), (5, 7, 10), strict=True):
        for row in rows:
            assert low * n <= 10 * int((timestamp < timestamp[row]).sum()) < high * n
    times = [set(timestamp[rows].tolist()) for rows in split]
    assert not times[0] & times[1] and not times[1] & times[2] and not times[0] & times[2]


@given(data=st.data(), shift=st.integers(-(10**9), 10**9), seed=st.integers(0, 99))
def test_splits_ask_for_order_alone(data, shift, seed):
    """Not for the order of the rows, nor for the unit or the zero of the clock."""
    user, timestamp = histories(data)
    order = torch.randperm(len(user), generator=torch.Generator().manual_seed(seed))
    for split in (per_user_split, lambda _, time: global_time_split(time)):
        one = split(user, timestamp)
        moved = split(user, 60 * timestamp + shift)
        shuffled = split(user[order], timestamp[order])
        for rows, other, third in zip(one, moved, shuffled, strict=True):
            assert torch.equal(rows, other)
            assert set(rows.tolist()) == set(order[third].tolist())


@given(data=st.data())
def test_a_user_alone_is_split_as_among_others(data):
    user, timestamp = histories(data)
    whole = per_user_split(user, timestamp)
    for one in user.unique():
        own = (user == one).nonzero()[:, 0]
        alone = global_time_split(timestamp[own])
        for rows, of_all in zip(alone, whole, strict=True):
            assert torch.equal(own[rows], of_all[user[of_all] == one])


def test_splits_by_hand():
    ten = torch.arange(10).flip(0)  # row 0 is the latest
    assert [rows.tolist() for rows in global_time_split(ten)] == [list(range(2, 10)), [1], [0]]
    tied = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 8, 8])  # the tie begins before the cut
    assert [len(rows) for rows in global_time_split(tied)] == [10, 0, 0]
    user = torch.tensor([7] * 10 + [2] * 10)
    both = per_user_split(user, torch.cat([torch.arange(10), torch.arange(10) + 100]))
    assert both.test.tolist() == [9, 19] and both.validation.tolist() == [8, 18]


def test_splits_of_movielens():
    """The counts that the chapter states."""
    data = movielens()
    per_user, by_time = per_user_split(data.user, data.timestamp), global_time_split(data.timestamp)
    assert [len(rows) for rows in per_user] == [80_537, 10_117, 9_350]
    assert [len(rows) for rows in by_time] == [80_004, 10_000, 10_000]
    latest = data.timestamp[per_user.train].max()
    assert (data.timestamp[per_user.test] < latest).double().mean() > 0.998
    warm_user, warm_movie = (seen(v, by_time.train)[by_time.test] for v in (data.user, data.movie))
    assert (~warm_user).sum() == 8_982 and (~warm_movie).sum() == 2_300
    assert (warm_user & warm_movie).sum() == 424
    users = data.user[by_time.test]
    assert (len(users.unique()), len(users[warm_user].unique())) == (82, 10)


@pytest.mark.bad_input
def test_bad_input_splits():
    ten, float_ten = torch.arange(10), torch.arange(10.0)
    for value in (0.0, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"^validation: expected a finite number > 0"):
            global_time_split(ten, value)
        with pytest.raises(ValueError, match=r"^test: expected a finite number > 0"):
            per_user_split(ten, ten, 0.1, value)
    with pytest.raises(ValueError, match=r"^validation, test: .* got 0\.5 and 0\.5"):
        global_time_split(ten, 0.5, 0.5)
    with pytest.raises(TypeError, match=r"^timestamp: expected an int64 tensor, got a float32"):
        global_time_split(float_ten)
    with pytest.raises(TypeError, match=r"^user: expected an int64 tensor, got a list"):
        per_user_split([1], ten)
    with pytest.raises(ValueError, match=r"^user: expected numbers >= 0, got -1"):
        per_user_split(ten - 1, ten)
    with pytest.raises(ValueError, match=r"^timestamp: expected shape \(10,\) .*\(9,\)"):
        per_user_split(ten, ten[1:])
    with pytest.raises(ValueError, match=r"^timestamp: expected shape \(rows,\) .*\(0,\)"):
        global_time_split(ten[:0])
    assert len(global_time_split(ten - 99).test) == 1  # a time before 1970 is a time


# --- features ------------------------------------------------------------------------------------


def test_encode_knows_training_only():
    value, train = torch.tensor([30, 10, 99, 10, -5, 20]), torch.tensor([0, 1, 3, 5])
    codes, size = encode(value, train)
    assert codes.tolist() == [3, 1, 0, 1, 0, 2] and size == 4
    assert seen(value, train).tolist() == [True, True, False, True, False, True]


@given(rows=st.integers(2, 40), seed=st.integers(0, 99))
def test_encode_is_scikit_learns(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    value = torch.randint(-9, 9, (rows,), generator=generator)
    train = torch.randperm(rows, generator=generator)[: rows // 2]
    codes, size = encode(value, train)
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    encoder.fit(value[train, None].numpy())
    expected = encoder.transform(value[:, None].numpy())[:, 0] + 1
    assert np.array_equal(codes.numpy(), expected)
    assert size == len(encoder.categories_[0]) + 1
    assert torch.equal(codes > 0, seen(value, train))


def test_fields_of_movielens():
    data = movielens()
    train = global_time_split(data.timestamp).train
    fields = movielens_fields(data, train)
    assert fields.names == ("user", "movie", "release", "age", "hour")
    assert fields.codes.shape == (100_004, 5) and fields.codes.min() == 0
    top = fields.codes.max(0).values
    assert (top == torch.tensor(fields.sizes) - 1).all()
    assert (fields.codes[train] > 0).all()
    for column, value in ((0, data.user), (1, data.movie)):
        assert torch.equal(fields.codes[:, column] > 0, seen(value, train))
    sums = fields.genres.sum(1)
    assert ((sums - 1).abs() < 1e-6).logical_or(sums == 0).all()
    row = int((data.movie == data.titles.index("Toy Story")).nonzero()[0])
    assert torch.equal(fields.genres[row] > 0, data.genres[data.movie[row]])
    # Row 0: rated on 2009-12-14 at 02:52 UTC, a film of 1995.
    by = dict(zip(fields.names, fields.codes.T, strict=True))
    assert data.timestamp[0] == 1_260_759_144 and data.year[data.movie[0]] == 1995
    assert (data.timestamp[by["hour"] == by["hour"][0]] // 3600 % 24 == 2).all()
    assert (data.year[data.movie][by["release"] == by["release"][0]] // 5 == 399).all()
    year = 1970 + data.timestamp // 31_556_952
    same_age = by["age"] == by["age"][0]
    assert ((year - data.year[data.movie])[same_age] == 14).all() and same_age.sum() > 1000
    unknown = data.year[data.movie] == 0
    assert len(by["release"][unknown].unique()) == len(by["age"][unknown].unique()) == 1


def test_the_future_does_not_change_the_fields_of_training():
    """Rows after the cut may be anything: what training is told stays the same."""
    data = movielens()
    split = global_time_split(data.timestamp)
    held_out = torch.cat([split.validation, split.test])
    movie, user = data.movie.clone(), data.user.clone()
    movie[held_out], user[held_out] = 17, 5
    changed = movielens_fields(data._replace(movie=movie, user=user), split.train)
    fields = movielens_fields(data, split.train)
    assert torch.equal(changed.codes[split.train], fields.codes[split.train])
    assert torch.equal(changed.genres[split.train], fields.genres[split.train])
    assert changed.sizes == fields.sizes
    label = data.liked.clone()
    label[held_out] = ~label[held_out]
    one, other = (smoothed_rate(data.movie, y, split.train) for y in (data.liked, label))
    assert torch.equal(one, other)


def test_genres_that_training_lacks_are_left_out():
    data = movielens()
    documentary = data.genre_names.index("Documentary")
    train = (~data.genres[data.movie, documentary]).nonzero()[:, 0]
    fields = movielens_fields(data, train)
    assert fields.genres.shape == (100_004, 18)


# --- baselines and scores ------------------------------------------------------------------------


def test_smoothed_rate_by_hand():
    value = torch.tensor([0, 0, 1, 3, 0])
    label = torch.tensor([True, False, True, False, True])
    rate = smoothed_rate(value, label, torch.tensor([0, 1, 2]), strength=2)
    p = 2 / 3
    a, b = (1 + 2 * p) / 4, (1 + 2 * p) / 3
    close(rate, torch.tensor([a, a, b, p, a], dtype=F64))
    default = smoothed_rate(value, label, torch.tensor([0, 1, 2]))
    close(default[0], torch.tensor((1 + 5 * p) / 7, dtype=F64))


@given(rows=st.integers(4, 50), seed=st.integers(0, 99), strength=st.sampled_from([0.5, 5, 20]))
def test_smoothed_rate_is_scikit_learns_target_encoder(rows, seed, strength):
    generator = torch.Generator().manual_seed(seed)
    value = torch.randint(0, 6, (rows,), generator=generator)
    label = torch.rand(rows, generator=generator) < 0.4
    train = torch.randperm(rows, generator=generator)[: rows // 2]
    label[train[0]], label[train[1]] = True, False  # the encoder wants both kinds
    encoder = TargetEncoder(smooth=strength, target_type="binary")
    encoder.fit(value[train, None].numpy(), label[train].numpy())
    expected = encoder.transform(value[:, None].numpy())[:, 0]
    close(smoothed_rate(value, label, train, strength), torch.from_numpy(expected))


@given(seed=st.integers(0, 99), strength=st.sampled_from([0.5, 3, 20]))
@settings(max_examples=20)
def test_logistic_regression_is_scikit_learns(seed, strength):
    """One column a value and one a genre; the constant is free, and test rows are not read."""
    fields, label = some_fields(80), draw(80, seed=seed) > 0
    train = torch.arange(60)
    label[0], label[1] = True, False
    fields_of = zip(fields.codes.T, (4, 3), strict=True)
    columns = [functional.one_hot(codes, n)[:, 1:] for codes, n in fields_of]
    X = torch.cat([*columns, fields.genres], dim=1).double().numpy()
    theirs = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=1000)
    theirs.fit(X[:60], label[:60].numpy())
    made = logistic_regression(fields, label, train, strength)
    with torch.no_grad():
        logit = made.logits(fields._replace(genres=fields.genres.double()), torch.arange(80))
    close(logit, torch.from_numpy(theirs.decision_function(X)), 1e-4)


def test_similarity_evidence_by_loops():
    g = torch.Generator().manual_seed(0)
    pairs = torch.randperm(20, generator=g)[:14]  # 4 users, 5 movies, each pair once
    user, movie = pairs // 5, pairs % 5
    residual, train = draw(14), torch.arange(10)
    made = similarity_evidence(user, movie, residual, train, shrink=3)
    table = {(int(user[k]), int(movie[k])): float(residual[k]) for k in range(10)}
    for row in range(14):
        u, i, total = int(user[row]), int(movie[row]), 0.0
        for j in range(5):
            if j != i and (u, j) in table:
                both = [v for v in range(4) if (v, i) in table and (v, j) in table]
                length = [sum(r**2 for (_, m), r in table.items() if m == k) for k in (i, j)]
                cosine = sum(table[v, i] * table[v, j] for v in both)
                cosine /= max(length[0] * length[1], 1e-9) ** 0.5
                total += cosine * len(both) / (len(both) + 3) * table[u, j]
        assert float(made[row]) == pytest.approx(total, abs=1e-6)
    residual[10:] = 9  # what is not in training is not read
    assert torch.equal(similarity_evidence(user, movie, residual, train, 3), made)


@pytest.mark.bad_input
def test_bad_input_baselines():
    label, one = torch.tensor([True, False]), torch.tensor([0])
    for strength in (0, math.inf):
        with pytest.raises(ValueError, match=r"^strength: expected a finite number > 0"):
            logistic_regression(some_fields(2), label, one, strength)
    with pytest.raises(ValueError, match=r"^label: expected shape \(60,\)"):
        logistic_regression(some_fields(), label, one)
    two = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"^shrink: expected a finite number > 0, got 0"):
        similarity_evidence(two, two, torch.zeros(2), one, 0)
    with pytest.raises(ValueError, match=r"^residual: expected shape \(2,\)"):
        similarity_evidence(two, two, torch.zeros(3), one)
    with pytest.raises(ValueError, match=r"^movie: expected shape \(2,\)"):
        similarity_evidence(two, one, torch.zeros(2), one)
    with pytest.raises(ValueError, match=r"^train: expected rows below 2, got 2"):
        smoothed_rate(torch.tensor([0, 0]), label, torch.tensor([2]))
    with pytest.raises(ValueError, match=r"^strength: expected a finite number > 0, got 0"):
        smoothed_rate(torch.tensor([0, 0]), label, one, 0)
    with pytest.raises(ValueError, match=r"^value: expected numbers >= 0, got -1"):
        smoothed_rate(torch.tensor([0, -1]), label, one)
    with pytest.raises(ValueError, match=r"^label: expected shape \(3,\)"):
        smoothed_rate(torch.tensor([0, 0, 0]), label, one)
    with pytest.raises(TypeError, match=r"^train: expected an int64 tensor"):
        encode(torch.tensor([0, 0]), label)
    with pytest.raises(ValueError, match=r"^train: expected rows below 100004"):
        movielens_fields(movielens(), torch.tensor([100_004]))


# --- a model --------------------------------------------------------------------------------------


def some_fields(rows=60, sizes=(4, 3)):
    """Two fields and three genres of random rows; code 0 is a value that training lacks."""
    g = torch.Generator().manual_seed(0)
    codes = torch.stack([torch.randint(n, (rows,), generator=g) for n in sizes], 1)
    return Fields(("a", "b"), codes, sizes, torch.rand(rows, 3, generator=g))


def test_the_logit_by_hand():
    """bias + the weights of a row's values and genres + network(scale · tokens)."""
    torch.manual_seed(0)
    fields = some_fields()
    ranker = Ranker(fields, lambda: torch.nn.Linear(5, 1), d=5, linear=True, scale=3)
    ranker.bias.data += 0.5
    network, ranker.network = ranker.network, torch.nn.Flatten()
    ranker.network.forward = lambda tokens: network(tokens).sum(1)  # (batch, 3, 5) → (batch, 1)
    for row in range(5):
        (a, b), genres = fields.codes[row], fields.genres[row]
        hand = ranker.bias.clone()
        weights, tokens = ranker.linear, ranker.embedding
        hand += weights.tables[0].weight[a, 0] + weights.tables[1].weight[b, 0]
        hand += (weights.genres.weight[0] * genres).sum()
        three = [tokens.tables[0].weight[a], tokens.tables[1].weight[b]]
        three += [tokens.genres.weight @ genres]
        hand += sum(network(3 * token)[0] for token in three)
        at = torch.tensor([row])
        close(ranker(fields.codes[at], fields.genres[at])[0], hand, 1e-6)
        close(ranker.logits(fields, at)[0], hand, 1e-6)


def test_dropout_drops_numbers_in_training_only():
    torch.manual_seed(0)
    fields = some_fields()
    given = []
    sums = torch.nn.Flatten()
    sums.forward = lambda tokens: given.append(tokens) or tokens.sum((1, 2))[:, None]
    ranker = Ranker(fields, lambda: sums, d=200, dropout=0.25)
    ranker(fields.codes, fields.genres)
    ranker.eval()
    ranker(fields.codes, fields.genres)
    dropped, whole = given
    there = whole != 0
    kept = (dropped != 0) & there
    assert kept.sum() / there.sum() == pytest.approx(0.75, abs=0.01)
    close(dropped[kept], (whole / 0.75)[kept], 1e-6)
    assert not torch.equal(kept[0], kept[1])
    assert "dropout" not in ranker.state_dict()
    for chance in (1, -0.1):
        with pytest.raises(ValueError, match=r"^dropout: expected"):
            Ranker(fields, lambda: sums, dropout=chance)


def test_a_value_that_training_lacks_is_zero_and_stays_zero():
    torch.manual_seed(0)
    embedding = FieldEmbedding(some_fields(), 50)
    for parameter in embedding.parameters():
        assert parameter.std().item() == pytest.approx(0.1, rel=1e-5)
    tokens = embedding(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 3))
    assert tokens.shape == (1, 3, 50) and not tokens.any()
    (embedding(torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 3)).square().sum()).backward()
    assert not embedding.tables[0].weight.grad.any() and embedding.genres.weight.grad.any()


def test_fit_learns_and_keeps_the_best_on_validation():
    torch.manual_seed(0)
    fields = some_fields(400)
    label = (fields.codes[:, 0] == 2) ^ (torch.rand(400) < 0.03)
    split = Split(*torch.arange(400).split([240, 80, 80]))

    def fitted(lr, steps, **options):
        torch.manual_seed(1)
        ranker = Ranker(fields, linear=True)
        config = Config(steps=steps, lr=lr, eval_every=1, progress=False, **options)
        history = fit(ranker, fields, label, split, config, batch=40)
        with torch.no_grad():
            return history, ranker.logits(fields, split.validation), ranker

    history, logit, ranker = fitted(0.1, 60)
    made = scores(logit, label[split.validation])
    assert made.auc > 0.85 and made.log_loss == pytest.approx(history.metric.min())
    with torch.no_grad():
        assert scores(ranker.logits(fields, split.test), label[split.test]).auc > 0.85
    history, logit, _ = fitted(100.0, 12, clip=None)  # it only gets worse after its best
    assert history.metric.argmin() < 11 and history.metric[-1] > history.metric.min() + 0.05
    assert scores(logit, label[split.validation]).log_loss == pytest.approx(history.metric.min())
    (again, _, _), (other, _, _) = fitted(0.1, 5), fitted(0.1, 5, seed=2)
    assert (again.loss == fitted(0.1, 5)[0].loss).all() and (again.loss != other.loss).any()


def test_an_epoch_sees_every_row_once():
    fields, seen_rows = some_fields(50), []
    label = torch.arange(50) % 2 == 0
    split = Split(torch.arange(30), torch.arange(30, 40), torch.arange(40, 50))
    ranker = Ranker(fields, linear=True)
    fields = fields._replace(genres=torch.arange(50.0)[:, None].expand(50, 3))  # a row's number
    forward = ranker.forward

    def spy(codes, genres):
        if ranker.training:
            seen_rows.append(genres[:, 0].tolist())
        return forward(codes, genres)

    ranker.forward = spy
    fit(ranker, fields, label, split, Config(steps=6, progress=False), batch=10)
    for epoch in (seen_rows[:3], seen_rows[3:]):
        assert sorted(row for batch in epoch for row in batch) == list(range(30))
    assert seen_rows[0] != seen_rows[3] and seen_rows[0] != sorted(seen_rows[0])


@pytest.mark.bad_input
def test_bad_input_models():
    fields = some_fields()
    with pytest.raises(ValueError, match=r"^network: expected one where linear is False"):
        Ranker(fields)
    with pytest.raises(ValueError, match=r"^d: expected a whole number >= 1, got 0"):
        FieldEmbedding(fields, 0)
    split, config = Split(*torch.arange(60).split(20)), Config(steps=1, progress=False)
    ranker = Ranker(fields, linear=True)
    with pytest.raises(ValueError, match=r"^label: expected shape \(60,\) .*got .*\(59,\)"):
        fit(ranker, fields, torch.zeros(59, dtype=torch.bool), split, config)
    with pytest.raises(ValueError, match=r"^batch: expected a whole number >= 1, got 0"):
        fit(ranker, fields, torch.arange(60) > 30, split, config, batch=0)
