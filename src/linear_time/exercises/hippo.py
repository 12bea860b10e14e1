"""Checks of chapter 14."""

import math
from functools import cache

import numpy as np
import torch

from linear_time.datasets import chirp, ecg
from linear_time.exercises import (
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    plain,
)
from linear_time.exercises.estimate import expect_reading
from linear_time.hippo import (
    basis,
    legs,
    normal_plus_low_rank,
    project,
    reconstruct,
    sample_ages,
    stored,
)

F64 = torch.float64


def signal(cases, length):
    """A smooth signal without a symmetry."""
    return 1 + cases.randn(length).cumsum(0) / math.sqrt(length)


class _Eigenvalues:
    """Which eigenvalue routines, torch's or numpy's, are called inside."""

    def __enter__(self):
        self.names, self._before = set(), []
        for module in (torch.linalg, np.linalg, torch):
            for name in dir(module):
                if name.startswith(("eig", "svd", "lobpcg", "symeig")):
                    self._before.append((module, name, getattr(module, name)))
                    setattr(module, name, self._counted(module, name))
        return self

    def __exit__(self, *_):
        for module, name, own in self._before:
            setattr(module, name, own)

    def _counted(self, module, name):
        own = getattr(module, name)

        def call(*args, **kwargs):
            self.names.add(name)
            return own(*args, **kwargs)

        return call


@exercise("14-decode")
def decode(answer, cases):
    for N in (1, 2, cases.integer(5, 12)):
        c = project(signal(cases, 60), N)[-1]
        for length in (1, cases.integer(4, 9)):
            age = sample_ages(length)
            want = reconstruct(c, age)
            roots = torch.sqrt(2 * torch.arange(N, dtype=F64) + 1)
            slips = {
                "age 0 is now, and that is the other end": reconstruct(
                    c, 1 - age
                ),
                "the functions are not normalised": basis(N, age) @ (c / roots),
            }
            got = answer(c.clone(), age.clone())
            given = f"{N} coefficients at {length} ages"
            expect_close(got, want, given, slips=slips)


def powers(N):
    """Row n: the coefficients of g_n = √(2n+1) P_n(1 − 2r), in powers of r."""
    rows = [
        [(-1) ** k * math.comb(n, k) * math.comb(n + k, k) for k in range(N)]
        for n in range(N)
    ]
    roots = torch.sqrt(2 * torch.arange(N, dtype=F64) + 1)
    return roots[:, None] * torch.tensor(rows, dtype=F64)


@exercise("14-derive")
def derive(answer, cases):
    for N in (1, 2, cases.integer(3, 4), 5):
        Q = torch.linalg.qr(cases.randn(N, N))[0]
        A, B = legs(N)
        want = Q @ A @ Q.T, Q @ B
        got = plain(answer(Q @ powers(N)))
        given = f"{N} orthonormal polynomials of degree below {N}"
        expect(
            isinstance(got, tuple | list) and len(got) == 2,
            f"For {given}: expected a pair (A, B).",
        )
        slips = {
            "that is LegS itself; other functions have another matrix": A,
            "that is without the factor 1 − r": Q @ (A + _lost(N)) @ Q.T,
        }
        expect_close(got[0], want[0], f"{given}, A", slips=slips)
        slips = {"that is LegS' own": B}
        expect_close(got[1], want[1], f"{given}, B", slips=slips)


def _lost(N):
    """What the entries ∫ g_k g_n′ have more than ∫ g_k ((1 − r) g_n)′."""
    G, i = powers(N), torch.arange(N, dtype=F64)
    return G @ torch.diag(i + 1) @ (1 / (i[:, None] + i + 1)) @ G.T


@exercise("14-audit")
def audit(answer, cases):
    def rescaled(A, B):
        return A * B / B[:, None], B / B

    kinds = {
        "book": lambda A, B: (A, B),
        "paper": lambda A, B: (-A, B),
        "not normalised": rescaled,
    }
    for kind in cases.shuffled([*kinds, *kinds, "none", "none"]):
        N = cases.integer(2, 9)
        A, B = legs(N)
        if kind == "none":
            pair = cases.choice([(A.mT.contiguous(), B), (A, -B), (2 * A, B)])
        else:
            pair = kinds[kind](A, B)
        found = plain(answer(*(v.clone() for v in pair)))
        if kind == "none":
            told = f"For a pair of {N} states that is none of the three"
            expect(found is None, f"{told}: that is taken for one of them.")
            continue
        told = f"For LegS with {N} states in one of the three scales and signs"
        expect(
            found == kind,
            f"{told}: that is not the one. Compare A and B entry by entry.",
        )


@exercise("14-update")
def update(answer, cases):
    x = signal(cases, 30)
    for N in (1, 3, cases.integer(4, 10)):
        c = project(x, N)
        A, B = legs(N)
        for k in (1, 2, cases.integer(3, 29)):
            before, value = c[k - 1], float(x[k])
            slips = {
                "that is a step of Euler, and not exact": before
                + (A @ before + B * value) / (k + 1),
            }
            got = answer(before.clone(), value, k)
            expect_close(got, c[k], f"N = {N}, k = {k}", slips=slips)


@exercise("14-energy")
def energy(answer, cases):
    for N in (2, 3, cases.integer(4, 20), cases.integer(21, 90)):
        A, B = legs(N)
        values = torch.linalg.eigvalsh(A + A.T)
        with _Eigenvalues() as used:
            got = plain(answer(N))
        expect(
            not used.names,
            "Expected no eigenvalue routine, got "
            f"{', '.join(sorted(used.names))}.",
        )
        size = float(B @ B)
        slips = {
            "B Bᵀ is subtracted: mind its sign": size - 1,
            "the square of the length of B is N², a sum of 2n + 1": -1.0 - N,
            "the identity is missing": -size,
        }
        expect_close(got[0], values[0], f"N = {N}, the smallest", slips=slips)
        slips = {"that is for vectors along B": values[0]}
        expect_close(got[1], values[-1], f"N = {N}, the largest", slips=slips)


@exercise("14-periods")
def periods(answer, cases):
    drawn = [cases.uniform(0.5, 8) for _ in range(2)]
    age = sample_ages(1000)
    for p in (1, 3, 8, cases.integer(1, 7) + 0.5, *drawn):
        x = torch.sin(2 * math.pi * p * age)
        c = project(x, 48)[-1]  # LegS is triangular: the first N are those of N
        N = 1
        while (reconstruct(c[:N], age) - x).norm() >= 0.01 * x.norm():
            N += 1
        slips = {
            "π numbers a period hold for many periods": math.ceil(math.pi * p),
            "two numbers a period are the limit of samples": math.ceil(2 * p),
        }
        expect_equal(answer(p), N, f"{p:.4g} periods", slips=slips)


@cache
def contest():
    """Three points of the figure, computed once more."""
    heart, past = ecg().x - ecg().x.mean(), sample_ages(1024)
    sweep = chirp(1024, sampling_rate=1024, start_hz=0, end_hz=12).x

    def by_legs(x, N):
        own = reconstruct(stored(project(x, N)[-1]), past)
        return float((own - x).norm() / x.norm())

    means = sweep.reshape(64, -1).mean(1).repeat_interleave(16)
    return {
        "LegS, heartbeat, 128": by_legs(heart, 128),
        "means, chirp, 64": float((means - sweep).norm() / sweep.norm()),
        "fall": by_legs(sweep, 16) / by_legs(sweep, 32),
    }


@exercise("14-read")
def read(answer, cases):
    factors = {
        "LegS, heartbeat, 128": 1.12,
        "means, chirp, 64": 1.3,
        "fall": 1.8,
    }
    got = plain(answer())
    expect(
        isinstance(got, dict) and set(got) == set(factors),
        f"Expected a dictionary with the keys {'; '.join(factors)}.",
    )
    right = contest()  # seconds: only where there is something to compare
    for name, factor in factors.items():
        expect_reading(got[name], right[name], name, factor=factor)


def by_entries(N):
    """Right, entry by entry."""
    A = torch.zeros(N, N, dtype=F64)
    for n in range(N):
        A[n, n] = -(n + 1)
        for k in range(n):
            A[n, k] = -math.sqrt((2 * n + 1) * (2 * k + 1))
    return A, torch.tensor([math.sqrt(2 * n + 1) for n in range(N)], dtype=F64)


def from_its_parts(N):
    """Right to thirteen digits: the normal part minus the rank-one part."""
    split = normal_plus_low_rank(N)
    normal = split.V @ torch.diag(split.eigenvalues) @ split.V.mH
    return normal.real - torch.outer(split.P, split.P), math.sqrt(2) * split.P


@exercise("14-bug")
def bug(answer, cases):
    def changed(change):
        def made(N):
            A, B = legs(N)
            return change(A, B)

        return made

    bugs = {
        "A is transposed": changed(lambda A, B: (A.T.contiguous(), B)),
        "the diagonal is −n instead of −(n+1)": changed(
            lambda A, B: (A + torch.eye(len(A), dtype=A.dtype), B)
        ),
        "B lacks its square root": changed(lambda A, B: (A, B**2)),
        "A has the wrong sign": changed(lambda A, B: (-A, B)),
        "A lacks the square roots": changed(
            lambda A, B: (A / torch.outer(B, B) * (2 * B[:, None] - 1), B)
        ),
    }
    right = [legs, by_entries, from_its_parts]
    expect_finds_bug(answer, right=right, bugs=bugs, cases=cases)
