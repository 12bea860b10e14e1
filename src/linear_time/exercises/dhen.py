"""Checks of chapter 07."""

import math

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
    expect_parts,
    instrument,
    plain,
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


@instrument
def counting():
    """Inside, torch's operations are counted, and their results measured."""
    with _Work() as work:
        yield work


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
def fm(answer, cases):
    many = cases.integer(180, 220)
    for n, k in ((cases.integer(4, 8), 3), (1, 2), (9, 1), (many, 2)):
        w0 = cases.uniform(0.5, 1.5)
        w, V, z = cases.randn(n), cases.randn(n, k), cases.randn(4, n)
        gram = (V @ V.T).triu(1)
        pairs = ((z @ gram) * z).sum(1)
        squares = (z**2 * (V**2).sum(1)).sum(1)
        with counting() as work:
            got = answer(w0, w.clone(), V.clone(), z.clone())
        given = f"n = {n} features, d = {k}"
        expect_close(
            got,
            w0 + z @ w + pairs,
            given,
            slips={
                "every pair is counted twice": w0 + z @ w + 2 * pairs,
                "the squares are no pairs": w0 + z @ w + pairs + squares / 2,
                "the constant is missing": z @ w + pairs,
            },
        )
        if n == many:
            in_linear_time(work, n, given)


@exercise("07-triples")
def triples(answer, cases):
    many = cases.integer(180, 220)
    for n in (1, 2, 3, cases.integer(5, 9), many):
        x = cases.randn(2, n, 3)
        first = second = third = torch.zeros(2, 3, dtype=F64)
        for one in x.unbind(1):  # elementary symmetric sums, one by one
            third, second = third + one * second, second + one * first
            first = first + one
        with counting() as work:
            got = answer(x.clone())
        expect_close(
            got,
            third,
            f"{n} embeddings",
            atol=1e-8,
            slips={"every triple is counted six times": 6 * third},
        )
        if n == many:
            in_linear_time(work, n, f"{n} embeddings")


@exercise("07-degree")
def degree(answer, cases):
    deep = cases.integer(10, 20)
    few = cases.integer(2, 4)
    shallow = cases.integer(1, 4)
    for layers, want in (
        ([["fm", "lce"]], 2),
        ([["fm", "lce"], ["lce", "fm"], ["fm"]], 8),
        ([["lce", "convolution"], ["lce"]], 1),
        ([["cross3", "fm"]], 4),
        ([[f"cross{shallow}"], ["lce"], ["cross1", "fm"]], 2 * (shallow + 1)),
        ([["cross2", "fm"], ["cross2"]], 9),
        ([[f"cross{deep}"]], deep + 1),
        ([["lce"]] * few + [["fm"]], 2),
        ([["fm"]] * few, 2**few),
        ([["fm"], ["fm", "attention"]], None),
        ([["relu"], ["fm"]], None),
    ):
        for_attention = want is None
        expect_equal(
            answer([list(modules) for modules in layers]),
            want,
            f"{layers}",
            slips={
                "a softmax or a ReLU is no polynomial": (
                    2 ** len(layers) if for_attention else -1
                ),
                "degrees of layers multiply": (
                    -1
                    if for_attention
                    else sum(_highest(modules) for modules in layers)
                ),
            },
        )


def _highest(modules):
    """The largest degree of a layer's modules; attention's and ReLU's count 1."""
    return max(
        2 if m == "fm" else int(m[5:]) + 1 if m.startswith("cross") else 1
        for m in modules
    )


@exercise("07-entropy")
def entropy(answer, cases):
    tried = []
    for rows in (cases.integer(20, 40), 8):
        z, label = cases.randn(rows), cases.randn(rows) > 0.3
        label[0], label[1] = True, False
        rate = float(label.double().mean())
        loss, rest = (
            sklearn.metrics.log_loss(label.numpy(), p)
            for p in (torch.sigmoid(z).numpy(), [rate] * rows)
        )
        slips = {
            "divide by the loss of the constant rate": loss,
            "that is upside down": rest / loss,
            "the rows that were not liked have an entropy too": loss
            / -(rate * math.log(rate)),
        }
        tried.append((z, label, loss / rest, f"{rows} rows", slips))
    label = torch.tensor([True, False])
    far = float(cases.integer(900, 1100))
    for sign in (-1, 1):
        sure = torch.full((2,), far * sign, dtype=F64)
        given = f"two logits of {far * sign:g}, one of the rows liked"
        tried.append((sure, label, far / 2 / math.log(2), given, {}))
    for z, label, want, given, slips in tried:
        expect_close(answer(z.clone(), label.clone()), want, given, slips=slips)


@exercise("07-within")
def within(answer, cases):
    sizes = [(12, 3), (cases.integer(30, 50), cases.integer(4, 7)), (9, 1)]
    for rows, users in sizes:
        label = cases.randn(rows) > 0
        user = torch.arange(rows) % users + 5
        label[user == 5], label[0] = False, True  # a like, the others not
        if users > 1:
            label[user == 6] = True  # no order of theirs is better
        z = (2 * cases.randn(rows) + 3 * label).round()  # with ties
        each = []
        for one in user.unique():
            own = user == one
            if 0 < int(label[own].sum()) < int(own.sum()):
                y, s = label[own].numpy(), z[own].numpy()
                each.append(float(sklearn.metrics.roc_auc_score(y, s)))
        want = sum(each) / len(each)
        pooled = sklearn.metrics.roc_auc_score(label.numpy(), z.numpy())
        expect_close(
            answer(z.clone(), label.clone(), user.clone()),
            want,
            f"{rows} rows of {users} user{'s' * (users > 1)}, with ties",
            slips={"pairs of rows of different users do not count": pooled},
        )


@exercise("07-sure")
def sure(answer, cases):
    for users in (2, cases.integer(5, 9), cases.integer(100, 300)):
        level = cases.randn(users)
        a = 0.7 + 0.1 * level + 0.02 * cases.randn(users)
        b = 0.7 + 0.1 * level + 0.02 * cases.randn(users)
        given = f"{users} users"
        words = f"three numbers for {given}: a difference and two errors"
        got = expect_parts(answer(a.clone(), b.clone()), 3, words)
        root = math.sqrt(users)
        paired = (a - b).std() / root
        apart = (a.var() + b.var()).sqrt() / root
        expect_close(
            got[0],
            (a - b).mean(),
            f"{given}, the difference",
            slips={"the first minus the second": (b - a).mean()},
        )
        for name, have, want in (
            ("its error, on the same users", got[1], paired),
            ("its error, had the users been others", got[2], apart),
        ):
            expect_close(
                have,
                want,
                f"{given}, {name}",
                slips={
                    "that is the spread of users, not of a mean": root * want,
                    "one less than the users stands below the variance": (
                        want * math.sqrt((users - 1) / users)
                    ),
                    "the users are the same": apart,
                    "here the users are others": paired,
                },
            )


@exercise("07-leak")
def leak(answer, cases):
    words = "a pair: the function and a word"
    leaks, avoided = expect_parts(answer, 2, words)
    # Times before 1970 are times.
    start = cases.integer(-40, -10)
    user = torch.tensor([0, 0, 0, 1, 1, 1, 2, 0, 1])
    timestamp = torch.tensor([1, 2, 9, 5, 7, 6, 8, 2, 9]) + start
    tried = [
        (user, timestamp, train, test)
        for train, test in (
            ([0, 1, 3, 5], [2, 4, 6]),
            ([0, 2, 3], [1, 4, 5, 6]),
            ([1, 4], [0, 2, 3, 5, 6]),
            ([0, 4], [1, 2, 3]),
            # As old as the newest training row is not older.
            ([0, 1, 2], [7, 8]),
            ([1, 5], [7, 3]),
        )
    ]
    rows = cases.integer(15, 25)
    users = torch.tensor([cases.integer(0, 3) for _ in range(rows)])
    times = torch.tensor([cases.integer(-9, 9) for _ in range(rows)])
    order = cases.shuffled(list(range(rows)))
    tried.append((users, times, order[: rows // 2], order[rows // 2 :]))
    for user, timestamp, train, test in tried:
        newest = max(int(timestamp[i]) for i in train)
        older, own = 0, 0
        for i in test:
            same = [int(timestamp[k]) for k in train if user[k] == user[i]]
            older += int(timestamp[i]) < newest
            own += bool(same) and int(timestamp[i]) < max(same)
        given = f"users {user.tolist()}, times {timestamp.tolist()}, "
        given += f"train {train}, test {test}"
        got = leaks(
            user.clone(),
            timestamp.clone(),
            torch.tensor(train),
            torch.tensor(test),
        )
        got = expect_parts(got, 2, "two shares")
        expect_close(
            got[0], older / len(test), f"{given}, the share by anybody"
        )
        expect_close(
            got[1], own / len(test), f"{given}, the share by their own"
        )
    expect(
        plain(avoided) == "own",
        'Which of the two can a split by user avoid, "anybody" or "own"? Not '
        "that one: what others did later is in the training rows still.",
    )


@exercise("07-bug")
def bug(answer, cases):
    def cross(x, weights, biases):
        x_l = x
        for W, b in zip(weights, biases, strict=True):
            x_l = x * (x_l @ W.T + b) + x_l
        return x_l

    def by_entries(x, weights, biases):
        x_l = x
        for W, b in zip(weights, biases, strict=True):
            rows = [
                x[:, i] * ((x_l * W[i]).sum(1) + b[i]) + x_l[:, i]
                for i in range(x.shape[1])
            ]
            x_l = torch.stack(rows, 1)
        return x_l

    def by_maps(x, weights, biases):
        x_l = x
        for W, b in zip(weights, biases, strict=True):
            x_l = torch.addcmul(x_l, x, torch.nn.functional.linear(x_l, W, b))
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
    right = [cross, by_entries, by_maps]
    expect_finds_bug(answer, right, bugs, "cross network", cases=cases)
