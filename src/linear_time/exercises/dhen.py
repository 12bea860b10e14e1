"""Checks of chapter 07."""

import itertools

import sklearn.metrics
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from linear_time.exercises import (
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    randn,
)

F64 = torch.float64


class _Work(TorchDispatchMode):
    """Counts torch's operations, and the numbers of the largest result."""

    def __init__(self):
        super().__init__()
        self.calls, self.largest = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.calls += 1
        if isinstance(made, Tensor):
            self.largest = max(self.largest, made.numel())
        return made


def in_linear_time(work, n, given):
    """No loop over the features, and no number for each pair of them."""
    expect(
        work.largest < n * n,
        f"For {given}: the sum is right, but a tensor of {work.largest:,} "
        f"numbers was made; n² is {n * n:,}.",
    )
    expect(
        work.calls < n,
        f"For {given}: the sum is right, but it took {work.calls} operations "
        "of torch, as a loop over the features does.",
    )


@exercise("07-fm")
def fm(answer):
    for n, k in ((6, 3), (1, 2), (9, 1)):
        w, V, z = randn(n), randn(n, k, seed=1), randn(4, n, seed=2)
        want = 0.7 + z @ w
        for i, j in itertools.combinations(range(n), 2):
            want = want + V[i] @ V[j] * z[:, i] * z[:, j]
        got = answer(0.7, w.clone(), V.clone(), z.clone())
        expect_close(got, want, f"n = {n} features, d = {k}")
    n, w, V, z = 200, randn(200), randn(200, 2, seed=1), randn(3, 200, seed=2)
    with _Work() as work:
        got = answer(0.7, w, V, z)
    gram = (V @ V.T).triu(1)
    want = 0.7 + z @ w + ((z @ gram) * z).sum(1)
    expect_close(got, want, f"n = {n} features, d = 2")
    in_linear_time(work, n, f"n = {n} features, d = 2")


@exercise("07-triples")
def triples(answer):
    for n in (1, 2, 3, 7):
        x = randn(2, n, 3)
        want = torch.zeros(2, 3, dtype=F64)
        for i, j, k in itertools.combinations(range(n), 3):
            want = want + x[:, i] * x[:, j] * x[:, k]
        expect_close(answer(x.clone()), want, f"{n} embeddings", atol=1e-9)
    x = randn(2, 200, 3)
    with _Work() as work:
        got = answer(x)
    first = second = third = torch.zeros(2, 3, dtype=F64)
    for one in x.unbind(1):  # elementary symmetric sums, one after the other
        third, second = third + one * second, second + one * first
        first = first + one
    expect_close(got, third, "200 embeddings", atol=1e-8)
    in_linear_time(work, 200, "200 embeddings")


@exercise("07-degree")
def degree(answer):
    for layers, want in (
        ([["fm", "lce"]], 2),
        ([["fm", "lce"], ["lce", "fm"], ["fm"]], 8),
        ([["lce", "convolution"], ["lce"]], 1),
        ([["cross3", "fm"]], 4),
        ([["cross3"], ["lce"], ["cross1", "fm"]], 8),
        ([["cross2", "fm"], ["cross2"]], 9),
        ([["cross12"]], 13),
        ([["lce"]] * 3 + [["fm"]], 2),
        ([["fm"], ["fm", "attention"]], None),
        ([["relu"], ["fm"]], None),
    ):
        expect_equal(answer(layers), want, f"{layers}")


@exercise("07-entropy")
def entropy(answer):
    for seed, rows in ((0, 30), (3, 8)):
        z, label = randn(rows, seed=seed), randn(rows, seed=seed + 1) > 0.3
        label[0], label[1] = True, False
        rate = float(label.double().mean())
        constant = [rate] * rows
        loss = [
            sklearn.metrics.log_loss(label.numpy(), p)
            for p in (torch.sigmoid(z).numpy(), constant)
        ]
        expect_close(answer(z, label), loss[0] / loss[1], f"{rows} rows")
    label = torch.tensor([True, False])
    want = 500 / torch.tensor(2.0, dtype=F64).log()
    for sign in (-1, 1):
        sure = torch.full((2,), 1000.0 * sign, dtype=F64)
        given = f"two logits of {1000 * sign}, one of the rows liked"
        expect_close(answer(sure, label), want, given)


@exercise("07-within")
def within(answer):
    for rows, users, seed in ((12, 3, 0), (40, 6, 4), (9, 1, 7)):
        z = (2 * randn(rows, seed=seed)).round()  # with ties
        label = randn(rows, seed=seed + 1) > 0
        user = torch.arange(rows) % users + 5
        label[user == 5], label[0] = False, True  # a like, the others not
        if users > 1:
            label[user == 6] = True  # no order of theirs is better
        each = []
        for one in user.unique():
            own = user == one
            if 0 < int(label[own].sum()) < int(own.sum()):
                y, s = label[own].numpy(), z[own].numpy()
                each.append(float(sklearn.metrics.roc_auc_score(y, s)))
        want = sum(each) / len(each)
        given = f"{rows} rows of {users} user{'s' * (users > 1)}, with ties"
        got = answer(z.clone(), label.clone(), user.clone())
        expect_close(got, want, given)


@exercise("07-leak")
def leak(answer):
    user = torch.tensor([0, 0, 0, 1, 1, 1, 2, 0, 1])
    # Times before 1970 are times.
    timestamp = torch.tensor([1, 2, 9, 5, 7, 6, 8, 2, 9]) - 20
    for train, test, want in (
        ([0, 1, 3, 5], [2, 4, 6], (0.0, 0.0)),
        ([0, 2, 3], [1, 4, 5, 6], (1.0, 0.25)),
        ([1, 4], [0, 2, 3, 5, 6], (0.6, 0.6)),
        ([0, 4], [1, 2, 3], (2 / 3, 1 / 3)),
        # As old as the newest training row is not older.
        ([0, 1, 2], [7, 8], (0.5, 0.5)),
        ([1, 5], [7, 3], (1.0, 0.5)),
    ):
        got = answer(
            user.clone(),
            timestamp.clone(),
            torch.tensor(train),
            torch.tensor(test),
        )
        given = f"users {user.tolist()}, times {timestamp.tolist()}, "
        given += f"train {train}, test {test}"
        expect_close(got[0], want[0], f"{given}, the share by anybody")
        expect_close(got[1], want[1], f"{given}, the share by their own user")


@exercise("07-bug")
def bug(answer):
    def cross(x, weights, biases):
        x_l = x
        for W, b in zip(weights, biases, strict=True):
            x_l = x * (x_l @ W.T + b) + x_l
        return x_l

    def bias_outside(x, weights, biases):
        x_l = x
        for W, b in zip(weights, biases, strict=True):
            x_l = x * (x_l @ W.T) + b + x_l
        return x_l

    def squares(x, weights, biases):
        x_l = x
        for W, b in zip(weights, biases, strict=True):
            x_l = x_l * (x_l @ W.T + b) + x_l
        return x_l

    def no_residual(x, weights, biases):
        x_l = x
        for W, b in zip(weights, biases, strict=True):
            x_l = x * (x_l @ W.T + b)
        return x_l

    def transposed(x, weights, biases):
        return cross(x, [W.T for W in weights], biases)

    def always_from_the_input(x, weights, biases):
        x_l = x
        for W, b in zip(weights, biases, strict=True):
            x_l = x * (x @ W.T + b) + x_l
        return x_l

    bugs = {
        "the bias is outside the product": bias_outside,
        "it multiplies by x_l and not by x_0": squares,
        "it forgets to add x_l": no_residual,
        "the matrix is transposed": transposed,
        "each step reads x_0 and not x_l": always_from_the_input,
    }
    expect_finds_bug(answer, cross, bugs, "cross network")
