"""Checks of chapter 07."""

import itertools

import sklearn.metrics
import torch

from linear_time.exercises import (
    exercise,
    expect_close,
    expect_equal,
    expect_finds_bug,
    randn,
)

F64 = torch.float64


@exercise("07-fm")
def fm(answer):
    for n, k in ((6, 3), (1, 2), (9, 1)):
        w, V, z = randn(n), randn(n, k, seed=1), randn(4, n, seed=2)
        want = 0.7 + z @ w
        for i, j in itertools.combinations(range(n), 2):
            want = want + V[i] @ V[j] * z[:, i] * z[:, j]
        got = answer(0.7, w.clone(), V.clone(), z.clone())
        expect_close(got, want, f"n = {n} features, k = {k}")


@exercise("07-triples")
def triples(answer):
    for n in (1, 2, 3, 7):
        x = randn(2, n, 3)
        want = torch.zeros(2, 3, dtype=F64)
        for i, j, k in itertools.combinations(range(n), 3):
            want = want + x[:, i] * x[:, j] * x[:, k]
        expect_close(answer(x.clone()), want, f"{n} embeddings", atol=1e-9)


@exercise("07-degree")
def degree(answer):
    for layers, want in (
        ([["fm", "lce"]], 2),
        ([["fm", "lce"], ["lce", "fm"], ["fm"]], 8),
        ([["lce", "convolution"], ["lce"]], 1),
        ([["cross3", "fm"]], 4),
        ([["cross3"], ["lce"], ["cross1", "fm"]], 8),
        ([["cross2", "fm"], ["cross2"]], 9),
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
    sure = torch.tensor([-1000.0, -1000.0], dtype=F64)
    want = 500 / torch.tensor(2.0, dtype=F64).log()
    expect_close(answer(sure, label), want, "two logits of −1000, one liked")


@exercise("07-leak")
def leak(answer):
    user = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    timestamp = torch.tensor([1, 2, 9, 5, 7, 6, 8])
    for train, test, want in (
        ([0, 1, 3, 5], [2, 4, 6], (0.0, 0.0)),
        ([0, 2, 3], [1, 4, 5, 6], (1.0, 0.25)),
        ([1, 4], [0, 2, 3, 5, 6], (0.6, 0.6)),
        ([0, 4], [1, 2, 3], (2 / 3, 1 / 3)),
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
