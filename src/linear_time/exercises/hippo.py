"""Checks of chapter 14."""

import math

import numpy as np
import torch

from linear_time.exercises import (
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
)
from linear_time.hippo import (
    legs,
    legt,
    project,
    reconstruct,
    sample_ages,
)

F64 = torch.float64


def signal(length=60, seed=0):
    """A smooth signal without a symmetry."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(length, generator=generator, dtype=F64)
    return 1 + steps.cumsum(0) / math.sqrt(length)


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
def decode(answer):
    for N in (1, 2, 9):
        c = project(signal(), N)[-1]
        for length in (1, 7):
            age = sample_ages(length)
            got = answer(c.clone(), age.clone())
            given = f"{N} coefficients at ages {age.tolist()}"
            expect_close(got, reconstruct(c, age), given)


@exercise("14-window")
def window(answer):
    for N, theta in ((1, 1.0), (4, 2.0), (5, 0.25)):
        A, B = legt(N)
        got = answer(N, theta)
        given = f"N = {N}, window = {theta:g} s"
        expect_close(got[0], A / theta, f"{given}, A")
        expect_close(got[1], B / theta, f"{given}, B")


@exercise("14-update")
def update(answer):
    x = signal(30)
    for N in (1, 3, 8):
        c = project(x, N)
        for k in (1, 2, 29):
            got = answer(c[k - 1].clone(), float(x[k]), k)
            expect_close(got, c[k], f"N = {N}, k = {k}")


@exercise("14-energy")
def energy(answer):
    for N in (2, 3, 7, 64):
        A, _ = legs(N)
        values = torch.linalg.eigvalsh(A + A.T)
        with _Eigenvalues() as used:
            got = answer(N)
        expect(
            not used.names,
            "Expected no eigenvalue routine, got "
            f"{', '.join(sorted(used.names))}.",
        )
        expect_close(got[0], values[0], f"N = {N}, the smallest")
        expect_close(got[1], values[-1], f"N = {N}, the largest")


@exercise("14-periods")
def periods(answer):
    for p in (1, 3, 6, 8, 2, 0.5, 4.5):
        x = torch.sin(2 * math.pi * p * sample_ages(1000))
        N = 1
        while True:
            past = reconstruct(project(x, N)[-1], sample_ages(1000))
            if (past - x).norm() < 0.01 * x.norm():
                break
            N += 1
        expect_equal(answer(p), N, f"{p:g} periods")


@exercise("14-bug")
def bug(answer):
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
    expect_finds_bug(answer, legs, bugs, "implementation")
