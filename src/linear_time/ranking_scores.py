"""Chapter 07: how a ranking is judged: over all rows, within users, and paired.

A pooled AUC compares rows of different users, too: it pays for knowing who is
generous. What a user sees is a list of his own, which the scores within users
look at. Two models are compared on the same users, drawn again and again.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from linear_time import _validate


class Scores(NamedTuple):
    """How good predictions are, on ``rows`` rows."""

    rows: int
    auc: float  # ½ for a coin, 1 is perfect
    log_loss: float  # nats a row
    normalised_entropy: float  # 1 for the constant rate, 0 is perfect


class Within(NamedTuple):
    """One number a user, of the users who have rows of both kinds."""

    user: Int[Tensor, " users"]
    auc: Float[Tensor, " users"]
    ndcg: Float[Tensor, " users"]


class Calibration(NamedTuple):
    """The line log-odds = intercept + slope · logit that fits best."""

    intercept: float
    slope: float


def scores(
    logit: Float[Tensor, " rows"], label: Bool[Tensor, " rows"]
) -> Scores:
    """AUC, log loss and normalised entropy of predicted log-odds.

    AUC: the chance that a liked row is ranked above one that is not.
    Log loss: −mean(y log p + (1 − y) log(1 − p)), p = σ(logit).
    Normalised entropy: log loss over the entropy of the rate p̄ of these
    rows, −(p̄ log p̄ + (1 − p̄) log(1 − p̄)).

    Args:
        logit: (rows,).
        label: (rows,), of both kinds.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Source: He et al. (2014), "Practical Lessons from Predicting Clicks on
        Ads at Facebook", section 3, for the normalised entropy.
    """
    y, z = _both_kinds(logit, label)
    loss = functional.binary_cross_entropy_with_logits(z, y).item()
    constant = torch.logit(y.mean()).expand_as(z)
    entropy = functional.binary_cross_entropy_with_logits(constant, y).item()
    auc = float(_weighted_auc(z, y, torch.ones_like(y)[None]))
    return Scores(len(y), auc, loss, loss / entropy)


def within_users(
    logit: Float[Tensor, " rows"],
    label: Bool[Tensor, " rows"],
    user: Int[Tensor, " rows"],
) -> Within:
    """AUC and NDCG of each user's own rows.

    NDCG: Σ_k liked_k / log₂(1 + k) over the ranks k = 1, 2, …, divided by the
    same sum with all liked rows first. Rows with equal logits share their
    likes: it is the mean over their orders.

    Args:
        logit: (rows,).
        label: (rows,).
        user: of each row.

    Returns:
        Within, users rising; those whose rows are all of one kind are left
        out, since no order of theirs is better than another.

    Raises:
        TypeError, ValueError: an argument is not as above, or no user has
            rows of both kinds.

    Source: Järvelin & Kekäläinen (2002), "Cumulated Gain-Based Evaluation of
        IR Techniques"; McSherry & Najork (2008) for ties.
    """
    y, z = _both_kinds(logit, label)
    _validate.layout("user", user, len(y), kind="whole")
    kept, aucs, ndcgs = [], [], []
    for one in user.cpu().unique():
        own = user.cpu() == one
        own_y, own_z = y[own], z[own]
        if own_y.min() == own_y.max():
            continue
        above = own_z[own_y == 1][:, None] - own_z[own_y == 0]
        aucs.append(((above > 0).double() + (above == 0).double() / 2).mean())
        discount = 1 / torch.arange(2, len(own_y) + 2).double().log2()
        ndcgs.append(
            (_shared(own_y, own_z) @ discount)
            / discount[: int(own_y.sum())].sum()
        )
        kept.append(one)
    if not kept:
        raise ValueError("label: expected a user with rows of both kinds")
    return Within(torch.stack(kept), torch.stack(aucs), torch.stack(ndcgs))


def _shared(y: Tensor, z: Tensor) -> Tensor:
    """Labels by falling logit; rows of one logit get their mean."""
    group = torch.unique(-z, return_inverse=True)[1]  # 0: the largest logit
    mean = torch.bincount(group, weights=y) / torch.bincount(group)
    return mean[group.sort().values]


def calibration(
    logit: Float[Tensor, " rows"], label: Bool[Tensor, " rows"]
) -> Calibration:
    """Whether the predicted odds are right: intercept 0 and slope 1 if so.

    Logistic regression on the one feature ``logit``, by Newton's steps. A
    slope below 1: the predictions are too sure.

    Args:
        logit: (rows,), not all equal.
        label: (rows,), of both kinds.

    Raises:
        TypeError, ValueError: an argument is not as above, or the labels are
            parted by a threshold, so that no line fits best.

    Source: Cox (1958), "Two Further Applications of a Model for Binary
        Regression".
    """
    y, z = _both_kinds(logit, label)
    liked, other = z[y == 1], z[y == 0]
    if liked.min() >= other.max() or other.min() >= liked.max():
        raise ValueError(
            "logit: expected liked rows and others on both sides of every "
            "threshold, got labels that one threshold parts"
        )
    X = torch.stack([torch.ones_like(z), z], dim=1)
    line = torch.zeros(2, dtype=z.dtype)
    for _ in range(100):
        p = torch.sigmoid(X @ line)
        curvature = (X * (p * (1 - p))[:, None]).T @ X
        step = torch.linalg.solve(curvature, X.T @ (y - p))
        line = line + step / step.norm().clamp(min=1)  # no step beyond 1
        if step.norm() < 1e-10:
            break
    return Calibration(*line.tolist())


class Draws(NamedTuple):
    """Scores of models on users drawn again; a difference of two columns
    is a draw of that difference."""

    auc: Float[Tensor, "draws models"]  # over all rows
    within_auc: Float[Tensor, "draws models"]  # mean over the users
    within_ndcg: Float[Tensor, "draws models"]


def bootstrap_users(
    logits: Float[Tensor, "models rows"],
    label: Bool[Tensor, " rows"],
    user: Int[Tensor, " rows"],
    draws: int = 2000,
    seed: int = 0,
) -> Draws:
    """What other users would have said: each draw takes as many, with repeats.

    A drawn user comes with all his rows, and every model is scored on the
    same drawn users.

    Args:
        logits: one row a model.
        label, user: of each row.
        draws: how many.
        seed: of the draws.

    Returns:
        Draws, float64.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Source: Efron & Tibshirani (1993), "An Introduction to the Bootstrap".
    """
    _, rows = _validate.layout("logits", logits, "models", "rows")
    _validate.layout("user", user, rows, kind="whole")
    draws = _validate.count("draws", draws)
    seed = _validate.seed("seed", seed)
    users, own = torch.unique(user.cpu(), return_inverse=True)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(users), (draws, len(users)), generator=generator)
    times = torch.zeros(draws, len(users), dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones_like(times))
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for logit in logits:
        y, z = _both_kinds(logit, label)
        pooled = [
            _weighted_auc(z, y, part[:, own]) for part in times.split(100)
        ]
        within = within_users(logit, label, user)
        weight = times[:, torch.searchsorted(users, within.user)]
        weight = weight / weight.sum(1, keepdim=True)
        columns.append(
            (torch.cat(pooled), weight @ within.auc, weight @ within.ndcg)
        )
    return Draws(*(torch.stack(one, 1) for one in zip(*columns, strict=True)))


def _weighted_auc(z: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """AUC where rows count ``weight`` times, (draws, rows) → (draws,)."""
    order = z.argsort()
    group = torch.unique(z, return_inverse=True)[1][order]
    last = torch.cat([group[1:] != group[:-1], torch.tensor([True])])

    def upto(part: Tensor) -> Tensor:
        """Weight of a kind at each value of z or below, (draws, values)."""
        return (weight * part)[:, order].cumsum(1)[:, last]

    liked, other = upto(y), upto(1 - y)
    own = liked.diff(dim=1, prepend=torch.zeros_like(liked[:, :1]))
    below = other - other.diff(dim=1, prepend=torch.zeros_like(own[:, :1])) / 2
    return (own * below).sum(1) / (liked[:, -1] * other[:, -1])


def standard_error(values: Float[Tensor, " values"]) -> float:
    """Of a mean: standard deviation over √n, nan where there is one value."""
    n = len(values)
    return float(values.std()) / math.sqrt(n) if n > 1 else math.nan


def _both_kinds(logit: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and logits in float64 on the CPU, checked."""
    _validate.layout("logit", logit, "rows")
    _validate.layout("label", label, len(logit), kind="bool")
    y, z = label.cpu().double(), logit.detach().cpu().double()
    if y.mean() in (0, 1):
        raise ValueError(
            f"label: expected rows of both kinds, got {len(label)} of one kind"
        )
    return y, z
