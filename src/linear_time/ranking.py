"""Chapter 07: how a ranking is learned: splits, features, baselines, models.

A rating may be held out by its user or by its date, and the two ask different
questions. In both, ratings with the same timestamp stay on one side, and all
that a model is told of a row was counted in training rows only.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from linear_time import _validate
from linear_time.datasets import MovieLens
from linear_time.ranking_scores import scores
from linear_time.training import Config, History, train


class Split(NamedTuple):
    """Row numbers of three parts, rising; together every row, once."""

    train: Int[Tensor, " train"]
    validation: Int[Tensor, " validation"]
    test: Int[Tensor, " test"]


def per_user_split(
    user: Int[Tensor, " rows"],
    timestamp: Int[Tensor, " rows"],
    validation: float = 0.1,
    test: float = 0.1,
) -> Split:
    """The last part of every user's own history is held out.

    Of a user's n rows let r be those strictly earlier than a row. The row is
    for training if r < (1 − validation − test) n, else for validation if
    r < (1 − test) n, else for testing. Equal timestamps have equal r, so
    they stay together, on the earlier side of a cut.

    Every user's first rows are for training: no user is cold. But the cut
    falls on another date for each: a model may train on what one user did
    long after the rows of another that it is tested on.

    Args:
        user: a number ≥ 0 for each row's user, (rows,).
        timestamp: of each row, (rows,), in any unit.
        validation, test: the fractions held out, each in (0, 1), together
            below 1.

    Returns:
        Split.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    _check_index("user", user)
    _check_index("timestamp", timestamp, len(user), negative=True)
    return _split(user, timestamp, validation, test)


def global_time_split(
    timestamp: Int[Tensor, " rows"],
    validation: float = 0.1,
    test: float = 0.1,
) -> Split:
    """All rows before a date train; the last ones are held out.

    The rule of ``per_user_split`` with one history for all. Nothing of the
    future is known, as in use; most held-out users may then be new: see
    ``seen``.

    Args, Returns, Raises: as ``per_user_split``.
    """
    _check_index("timestamp", timestamp, negative=True)
    return _split(torch.zeros_like(timestamp), timestamp, validation, test)


def _split(
    group: Tensor, timestamp: Tensor, validation: float, test: float
) -> Split:
    _validate.number("validation", validation)
    _validate.number("test", test)
    if validation + test >= 1:
        raise ValueError(
            "validation, test: expected fractions of together below 1, got "
            f"{validation} and {test}"
        )
    device = timestamp.device
    group, timestamp = group.cpu(), timestamp.cpu()  # for float64
    moment = torch.unique(timestamp, return_inverse=True)[1]
    n_moments = int(moment.max()) + 1
    key = group * n_moments + moment  # sorts by group, then by time
    ordered = key.sort().values
    first = torch.searchsorted(ordered, group * n_moments)
    earlier = torch.searchsorted(ordered, key) - first
    n = torch.bincount(group)[group].double()
    # A fraction such as 0.1 is not exact: a row on the cut is held out.
    is_train = earlier < (1 - validation - test) * n - 1e-6
    is_test = earlier >= (1 - test) * n - 1e-6
    parts = (is_train, ~is_train & ~is_test, is_test)
    return Split(*(part.nonzero()[:, 0].to(device) for part in parts))


def seen(
    value: Int[Tensor, " rows"], train: Int[Tensor, " train"]
) -> Bool[Tensor, " rows"]:
    """Whether a row's user (or movie …) occurs in a training row: is warm."""
    _check_index("value", value, negative=True)
    _check_rows(train, len(value))
    return torch.isin(value, value[train])


class Fields(NamedTuple):
    """What a model is told of each rating.

    ``codes`` count from 1 in the order of the values in training; 0 is a
    value that no training row has.
    """

    names: tuple[str, ...]
    codes: Int[Tensor, "rows fields"]
    sizes: tuple[int, ...]  # of each field: its values in training, and 0
    genres: Float[Tensor, "rows genres"]  # rows of sum 1, or 0 where unknown


def encode(
    value: Int[Tensor, " rows"], train: Int[Tensor, " train"]
) -> tuple[Int[Tensor, " rows"], int]:
    """Number the values that training has, from 1; the others are 0.

    Returns:
        The numbers, (rows,), and how many there are, 0 included.
    """
    warm = seen(value, train)
    known = value[train].unique()  # sorted
    position = torch.searchsorted(known, value) + 1
    return torch.where(warm, position, 0), len(known) + 1


def movielens_fields(data: MovieLens, train: Int[Tensor, " train"]) -> Fields:
    """Fields of the ratings: user, movie, release, age, hour, and genres.

    ``release`` is the movie's year in steps of five; ``age`` the years from
    release to rating; ``hour`` that of the day in UTC. A genre that no
    training row has is left out.

    Args:
        data: the ratings.
        train: rows that the fields may be learned from.

    Returns:
        Fields.

    Raises:
        TypeError, ValueError: train are not row numbers.
    """
    _check_rows(train, len(data.user))
    year = data.year[data.movie]
    # A year of 31,556,952 s is off by less than a day in this century.
    rated_in = 1970 + data.timestamp // 31_556_952
    unknown = -1_000_000
    values = {
        "user": data.user,
        "movie": data.movie,
        "release": torch.where(year > 0, year // 5, unknown),
        "age": torch.where(year > 0, (rated_in - year).clamp(min=-1), unknown),
        "hour": data.timestamp // 3600 % 24,
    }
    encoded = [encode(value, train) for value in values.values()]
    genres = data.genres[data.movie]
    genres = genres[:, genres[train].any(0)].float()
    return Fields(
        tuple(values),
        torch.stack([codes for codes, _ in encoded], dim=1),
        tuple(size for _, size in encoded),
        genres / genres.sum(1, keepdim=True).clamp(min=1),
    )


def smoothed_rate(
    value: Int[Tensor, " rows"],
    label: Bool[Tensor, " rows"],
    train: Int[Tensor, " train"],
    strength: float | int = 5,
) -> Float[Tensor, " rows"]:
    """A baseline: how often training liked this movie (or this user likes).

    (likes + s p)/(ratings + s), with p the rate of all training rows: what is
    not in training gets p.

    Args:
        value: a number ≥ 0 for each row's movie or user, (rows,).
        label: what is predicted, (rows,).
        train: the rows to count.
        strength: s > 0, in ratings.

    Returns:
        Probabilities, float64 on the CPU, (rows,).

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    _check_index("value", value)
    _check_label(label, len(value))
    _check_rows(train, len(value))
    _validate.number("strength", strength)
    value, label, train = value.cpu(), label.cpu(), train.cpu()
    own, liked = value[train], label[train].double()
    size = int(value.max()) + 1
    ratings = torch.bincount(own, minlength=size)
    likes = torch.bincount(own, weights=liked, minlength=size)
    rate = (likes + strength * liked.mean()) / (ratings + strength)
    return rate[value]


def logistic_regression(
    fields: Fields,
    label: Bool[Tensor, " rows"],
    train: Int[Tensor, " train"],
    strength: float | int = 5,
) -> "Ranker":
    """A baseline: one weight a value, the exact optimum of a convex problem.

        min  Σ log loss of the training rows + ½ strength Σ weights²

    The constant is free. Nothing is left to chance: no rate, no seed.

    Args:
        fields: of all rows, learned from the training rows.
        label: of all rows.
        train: the rows to fit.
        strength: > 0; a weight is pulled to 0 as by 4 · strength rows of
            even odds.

    Returns:
        Ranker, float64, on the CPU.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    _check_label(label, len(fields.codes))
    _check_rows(train, len(label))
    _validate.number("strength", strength)
    model = Ranker(fields, linear=True).double()
    weights = [p for p in model.parameters() if p is not model.bias]
    codes, genres = fields.codes[train].cpu(), fields.genres[train].cpu()
    y = label[train].cpu().double()
    with torch.no_grad():
        for weight in weights:
            weight.zero_()
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=500,
        tolerance_grad=1e-7,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logit = model(codes, genres.double())
        loss = functional.binary_cross_entropy_with_logits(logit, y)
        penalty = sum(weight.square().sum() for weight in weights)
        total = loss + strength / (2 * len(y)) * penalty
        total.backward()
        return total

    optimizer.step(closure)
    return model


def similarity_evidence(
    user: Int[Tensor, " rows"],
    movie: Int[Tensor, " rows"],
    residual: Float[Tensor, " rows"],
    train: Int[Tensor, " train"],
    shrink: float | int = 20,
) -> Float[Tensor, " rows"]:
    """What a user's other movies say of one, beyond what a model has said.

    With r the residuals label − p of the training rows, of user u and movie
    i, and n_ij the users who rated both i and j,

        s_ij = cos(r_i, r_j) · n_ij / (n_ij + shrink),
        e_ui = Σ_{j≠i} s_ij r_uj,

    sums over training rows; r_i has a 0 for a user who did not rate i. Two
    movies that the same people liked more than expected are similar; a pair
    that few people saw, hardly.

    Args:
        user, movie: numbers ≥ 0 for each row.
        residual: of all rows; those that are not in training are not read.
        train: the rows that are.
        shrink: > 0, in users.

    Returns:
        The evidence e_ui, (rows,), float64.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Source: Bell & Koren (2007), "Improved Neighborhood-based Collaborative
        Filtering", for the shrinking.
    """
    _check_index("user", user)
    _check_index("movie", movie, len(user))
    _check_rows(train, len(user))
    _validate.layout("residual", residual, len(user))
    _validate.number("shrink", shrink)
    sizes = int(user.max()) + 1, int(movie.max()) + 1
    table = torch.zeros(sizes, dtype=torch.float32)
    rated = torch.zeros(sizes, dtype=torch.float32)
    table[user[train], movie[train]] = residual[train].float()
    rated[user[train], movie[train]] = 1
    unit = table / table.norm(dim=0).clamp(min=1e-6)
    both = rated.T @ rated
    similar = (unit.T @ unit) * both / (both + shrink)
    similar.fill_diagonal_(0)
    return (table @ similar)[user, movie].double()


class FieldEmbedding(nn.Module):
    """Tokens of a rating: one a field, and the mean of the movie's genres.

    A value that training does not have is a zero, and stays one. All others
    start with a standard deviation of 0.1.

    Args:
        fields: whose sizes count.
        d: the width of a token.

    Raises:
        TypeError, ValueError: d is not a whole number ≥ 1.
    """

    def __init__(self, fields: Fields, d: int) -> None:
        super().__init__()
        d = _validate.count("d", d)
        self.tables = nn.ModuleList(
            nn.Embedding(n, d, padding_idx=0) for n in fields.sizes
        )
        self.genres = nn.Linear(fields.genres.shape[1], d, bias=False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(0.1 / parameter.std())

    def forward(
        self,
        codes: Int[Tensor, "batch fields"],
        genres: Float[Tensor, "batch genres"],
    ) -> Float[Tensor, "batch tokens d"]:
        columns = zip(self.tables, codes.unbind(1), strict=True)
        tokens = [table(code) for table, code in columns]
        return torch.stack([*tokens, self.genres(genres)], dim=1)


class Ranker(nn.Module):
    """The log-odds that a row is liked, from its fields.

        logit = bias + Σ weights of the fields + network(scale · tokens)

    The weights alone are logistic regression. In training each number of the
    tokens is dropped with a chance, and the others grow by as much.

    Args:
        fields: what a row is told by.
        network: makes the module (batch, tokens, d) → (batch, 1); None: none.
        d: the width of a token.
        linear: whether each value of a field has a weight of its own.
        scale: of the tokens that the network is given; they start at 0.1,
            and 10 is the unit scale that most networks expect.
        dropout: the chance that a number is dropped, in [0, 1).

    Raises:
        TypeError, ValueError: d is not a whole number ≥ 1, dropout is no
            such chance, or neither network nor linear is given.
    """

    def __init__(
        self,
        fields: Fields,
        network: Callable[[], nn.Module] | None = None,
        d: int = 16,
        linear: bool = False,
        scale: float | int = 10,
        dropout: float | int = 0,
    ) -> None:
        super().__init__()
        if network is None and not linear:
            raise ValueError("network: expected one where linear is False")
        _validate.number("dropout", dropout, or_equal=True)
        if dropout >= 1:
            raise ValueError(f"dropout: expected a chance < 1, got {dropout}")
        self.linear = FieldEmbedding(fields, 1) if linear else None
        self.embedding = FieldEmbedding(fields, d) if network else None
        self.network = network() if network else None
        self.bias = nn.Parameter(torch.zeros(()))
        self.scale = scale
        # A buffer, so that a stack of models may have one chance each.
        self.dropout: Tensor
        self.register_buffer(
            "dropout", torch.tensor(float(dropout)), persistent=False
        )

    def forward(
        self,
        codes: Int[Tensor, "batch fields"],
        genres: Float[Tensor, "batch genres"],
    ) -> Float[Tensor, " batch"]:
        logit = self.bias.expand(len(codes))
        if self.linear is not None:
            logit = logit + self.linear(codes, genres).sum((1, 2))
        if self.embedding is not None and self.network is not None:
            tokens = self.scale * self.embedding(codes, genres)
            if self.training:
                kept = torch.rand_like(tokens) >= self.dropout
                tokens = tokens * kept / (1 - self.dropout)
            logit = logit + self.network(tokens)[:, 0]
        return logit

    def logits(
        self, fields: Fields, rows: Int[Tensor, " rows"]
    ) -> Float[Tensor, " rows"]:
        """``forward`` of these rows, in parts of 16,384."""
        parts = [
            self(fields.codes[at], fields.genres[at])
            for at in rows.split(16_384)
        ]
        return torch.cat(parts)


def fit(
    model: Ranker,
    fields: Fields,
    label: Bool[Tensor, " rows"],
    split: Split,
    config: Config,
    batch: int = 1024,
) -> History:
    """Train on the training rows; keep what is best on the validation rows.

    By the cross entropy of the label, in batches at random, every row once an
    epoch. The log loss on the validation rows is taken every
    ``config.eval_every`` steps, and the parameters at its lowest are those
    that the model is left with (early stopping).

    Args:
        model: on the device of fields, label and split.
        fields: of all rows, learned from the training rows.
        label: of all rows.
        split: its test rows are not used.
        config: of ``train``.
        batch: rows a step.

    Returns:
        The history; its metric is the log loss on the validation rows.
    """
    _check_label(label, len(fields.codes))
    batch = _validate.count("batch", batch)
    rows, held_out = split.train, split.validation

    def batches(generator: torch.Generator) -> Iterator[tuple[Tensor]]:
        while True:
            order = torch.randperm(len(rows), generator=generator)
            for i in order.to(rows.device).split(batch):
                yield (rows[i],)

    def loss(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        (at,) = batch
        logit = model(fields.codes[at], fields.genres[at])
        return functional.binary_cross_entropy_with_logits(
            logit, label[at].to(logit.dtype), reduction="none"
        )

    least, best = math.inf, {}

    def evaluate(_: nn.Module) -> float:
        nonlocal least, best
        found = scores(model.logits(fields, held_out), label[held_out])
        if found.log_loss < least:
            least = found.log_loss
            best = {k: v.clone() for k, v in model.state_dict().items()}
        return found.log_loss

    history = train(model, batches, loss, config, evaluate)
    model.load_state_dict(best)
    return history


def _check_index(
    name: str, value: Tensor, rows: int | None = None, negative: bool = False
) -> None:
    """An int64 tensor (rows,), not empty, ≥ 0 unless negative."""
    if not isinstance(value, Tensor) or value.dtype != torch.int64:
        raise TypeError(
            f"{name}: expected an int64 tensor, got {_validate.describe(value)}"
        )
    _validate.layout(name, value, rows or "rows", kind="whole")
    if not negative and value.min() < 0:
        raise ValueError(
            f"{name}: expected numbers >= 0, got {int(value.min())}"
        )


def _check_rows(train: Tensor, rows: int) -> None:
    """Row numbers."""
    _check_index("train", train)
    if train.max() >= rows:
        raise ValueError(
            f"train: expected rows below {rows}, got {int(train.max())}"
        )


def _check_label(label: Tensor, rows: int) -> None:
    _validate.layout("label", label, rows, kind="bool")
