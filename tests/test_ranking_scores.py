"""Scores over all rows, within users, and of users drawn again: by scikit-learn and by hand."""

import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from helpers import close, draw
from linear_time.ranking_scores import (
    bootstrap_users,
    calibration,
    scores,
    standard_error,
    within_users,
)

F64 = torch.float64


def some_rows(rows, users, seed):
    """Logits with ties, labels of both kinds, users."""
    g = torch.Generator().manual_seed(seed)
    logit = draw(rows, seed=seed).mul(3).round()
    label = draw(rows, seed=seed + 1) > 0
    label[0], label[1] = True, False
    user = torch.randint(users, (rows,), generator=g)
    user[0] = user[1] = 0  # a user with both kinds
    return logit, label, user


@given(rows=st.integers(2, 50), seed=st.integers(0, 99))
def test_scores_are_scikit_learns(rows, seed):
    logit, label, _ = some_rows(rows, 1, seed)
    made = scores(logit, label)
    p = torch.sigmoid(logit).numpy()
    assert made.rows == rows
    assert made.auc == pytest.approx(sklearn.metrics.roc_auc_score(label.numpy(), p))
    loss = sklearn.metrics.log_loss(label.numpy(), p)
    assert made.log_loss == pytest.approx(loss, rel=1e-9)
    base = label.double().mean().item()
    entropy = -(base * math.log(base) + (1 - base) * math.log(1 - base))
    assert made.normalised_entropy == pytest.approx(loss / entropy, rel=1e-9)


@given(rows=st.integers(2, 30), seed=st.integers(0, 99))
def test_what_scores_do_not_see(rows, seed):
    """AUC sees the order alone; no score sees a copy of all rows, or their order."""
    logit, label = draw(rows, seed=seed), draw(rows, seed=seed + 1) > 0
    label[0], label[1] = True, False
    made = scores(logit, label)
    assert scores(logit.exp(), label).auc == made.auc
    assert scores(-logit, label).auc == pytest.approx(1 - made.auc)
    twice = scores(logit.repeat(2), label.repeat(2))
    assert twice[1:] == pytest.approx(made[1:])
    assert scores(logit.flip(0), label.flip(0))[1:] == pytest.approx(made[1:])
    constant = torch.logit(label.double().mean()).expand(rows).clone()
    assert scores(constant, label)[1:] == pytest.approx((0.5, made.log_loss / made[3], 1.0))


def test_scores_at_their_ends():
    label = torch.tensor([True, True, False, False])
    perfect = scores(torch.where(label, 30.0, -30.0), label)
    assert perfect.auc == 1 and perfect.normalised_entropy < 1e-9
    coin = scores(torch.zeros(4), label)
    assert coin[1:] == pytest.approx((0.5, math.log(2), 1.0))
    sure = scores(torch.where(label, -900.0, 900.0), label)  # no overflow
    assert sure.auc == 0 and sure.log_loss == pytest.approx(900)


# --- within users --------------------------------------------------------------------------------


@given(rows=st.integers(2, 40), users=st.integers(1, 5), seed=st.integers(0, 99))
def test_within_users_is_scikit_learns_of_each_alone(rows, users, seed):
    """Its ndcg_score averages over ties, too."""
    logit, label, user = some_rows(rows, users, seed)
    made = within_users(logit, label, user)
    kept = [one for one in user.unique() if 0 < label[user == one].sum() < (user == one).sum()]
    assert made.user.tolist() == [int(one) for one in kept]
    for one, auc, ndcg in zip(kept, made.auc, made.ndcg, strict=True):
        y, z = label[user == one].numpy(), logit[user == one].numpy()
        assert float(auc) == pytest.approx(sklearn.metrics.roc_auc_score(y, z))
        assert float(ndcg) == pytest.approx(sklearn.metrics.ndcg_score(y[None], z[None]))


@given(seed=st.integers(0, 99))
def test_within_users_does_not_see_who_is_generous(seed):
    """A number added to all of a user's logits changes the pooled AUC alone."""
    logit, label, user = some_rows(40, 4, seed)
    shifted = logit + 7 * draw(4, seed=seed + 2)[user]
    one, other = within_users(logit, label, user), within_users(shifted, label, user)
    close(one.auc, other.auc, 1e-12)
    close(one.ndcg, other.ndcg, 1e-12)
    alone = within_users(draw(4, seed=seed)[user], label, user)
    close(alone.auc, torch.full_like(alone.auc, 0.5), 1e-12)


def test_within_users_by_hand():
    label = torch.tensor([True, False, True, True, True])
    user = torch.tensor([5, 5, 5, 3, 3])  # user 3 liked all: any order is as good
    made = within_users(torch.tensor([3.0, 2.0, 1.0, 0.0, 9.0]), label, user)
    assert made.user.tolist() == [5] and made.auc.tolist() == [0.5]
    ideal = 1 + 1 / math.log2(3)
    assert made.ndcg.tolist() == pytest.approx([(1 + 1 / 2) / ideal])


# --- calibration ---------------------------------------------------------------------------------


@given(seed=st.integers(0, 99))
def test_calibration_is_scikit_learns_regression(seed):
    logit = draw(200, seed=seed)
    label = draw(200, seed=seed + 1) < 0.7 * logit - 0.2
    label[0], label[1] = ~label[0], ~label[1]
    line = calibration(logit, label)
    theirs = LogisticRegression(C=1e10, tol=1e-10).fit(logit[:, None].numpy(), label.numpy())
    assert line == pytest.approx((theirs.intercept_[0], theirs.coef_[0, 0]), rel=1e-4, abs=1e-4)


def test_a_line_needs_both_kinds_on_both_sides():
    """Labels that one threshold parts have none, whichever kind is above; touching ones neither."""
    logit = torch.tensor([0.0, 1.0, 2.0, 3.0])
    for label in ([0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]):
        with pytest.raises(ValueError, match="one threshold parts"):
            calibration(logit, torch.tensor(label).bool())
    touching = torch.tensor([0.0, 1.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="one threshold parts"):
        calibration(touching, torch.tensor([False, False, True, True]))
    assert calibration(logit, torch.tensor([False, True, False, True])).slope > 0
    assert calibration(logit, torch.tensor([True, False, True, False])).slope < 0


def test_calibration_of_right_odds():
    """Slope 1 and intercept 0 where labels are drawn with the odds that are said."""
    logit = 2 * draw(100_000)
    label = torch.rand(len(logit), generator=torch.Generator().manual_seed(3)) < logit.sigmoid()
    assert calibration(logit, label) == pytest.approx((0, 1), abs=0.03)
    assert calibration(3 * logit + 1, label) == pytest.approx((-1 / 3, 1 / 3), abs=0.03)


# --- users drawn again ---------------------------------------------------------------------------


def test_bootstrap_by_repeating_rows():
    """Each draw: the rows of the drawn users, one copy for each time a user was drawn."""
    logits = torch.stack([some_rows(60, 6, seed)[0] for seed in (3, 4)])
    _, label, user = some_rows(60, 6, 3)
    user = user * 2 + 1  # numbers need not be dense
    drawn = bootstrap_users(logits, label, user, draws=20, seed=5)
    g = torch.Generator().manual_seed(5)
    users = user.unique()
    picked = users[torch.randint(len(users), (20, len(users)), generator=g)]
    for i, own in enumerate(picked):
        rows = torch.cat([(user == one).nonzero()[:, 0] for one in own])
        copy = torch.cat([torch.full((int((user == one).sum()),), k) for k, one in enumerate(own)])
        for j, logit in enumerate(logits):
            y, z = label[rows], logit[rows]
            expected = sklearn.metrics.roc_auc_score(y.numpy(), z.numpy())
            assert float(drawn.auc[i, j]) == pytest.approx(expected)
            within = within_users(z, y, copy)
            assert float(drawn.within_auc[i, j]) == pytest.approx(float(within.auc.mean()))
            assert float(drawn.within_ndcg[i, j]) == pytest.approx(float(within.ndcg.mean()))


def test_bootstrap_of_a_difference():
    """A model differs from itself by nothing; draws are the seed's."""
    logit, label, user = some_rows(300, 30, 0)
    better = logit + label.double() / 2
    drawn = bootstrap_users(torch.stack([logit, logit, better]), label, user, draws=200)
    assert torch.equal(drawn.auc[:, 0], drawn.auc[:, 1])
    change = drawn.auc[:, 2] - drawn.auc[:, 0]
    assert change.min() > 0 and change.std() < drawn.auc[:, 0].std()
    again = bootstrap_users(logit[None], label, user, draws=200)
    assert torch.equal(again.auc[:, 0], drawn.auc[:, 0])
    other = bootstrap_users(logit[None], label, user, draws=200, seed=1)
    assert not torch.equal(other.auc, again.auc)


def test_standard_error():
    values = draw(9)
    assert standard_error(values) == pytest.approx(np.std(values.numpy(), ddof=1) / 3)
    assert math.isnan(standard_error(values[:1]))


@pytest.mark.bad_input
def test_bad_input():
    label, two = torch.tensor([True, False]), torch.zeros(2)
    with pytest.raises(ValueError, match=r"^label: expected rows of both kinds, got 2 of one"):
        scores(two, torch.tensor([True, True]))
    with pytest.raises(ValueError, match=r"^label: expected shape \(3,\) .*got .*\(2,\)"):
        scores(torch.zeros(3), label)
    with pytest.raises(TypeError, match=r"^label: expected a bool tensor, got an int64"):
        scores(two, label.long())
    with pytest.raises(ValueError, match=r"^logit: expected finite values"):
        scores(torch.tensor([0.0, math.nan]), label)
    with pytest.raises(ValueError, match=r"^user: expected shape \(2,\)"):
        within_users(two, label, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^label: expected a user with rows of both kinds"):
        within_users(two, label, torch.tensor([0, 1]))
    for parted in (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])):
        with pytest.raises(ValueError, match=r"^logit: expected liked rows and others on both"):
            calibration(parted, label)
    with pytest.raises(TypeError, match=r"^draws: expected a whole number >= 1"):
        bootstrap_users(two[None], label, torch.zeros(2, dtype=torch.int64), draws=0.5)
    with pytest.raises(ValueError, match=r"^logits: expected shape \(models, rows\)"):
        bootstrap_users(two, label, torch.zeros(2, dtype=torch.int64))
