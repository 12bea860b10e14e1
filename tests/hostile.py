"""Hostile answers: their own ``==`` says that they are right, or they are no values at all."""

import math

import numpy as np
import sympy as sp
import torch


class Same:
    """Equal to everything, and larger, and true."""

    def __eq__(self, other):
        return True

    __ge__ = __gt__ = __le__ = __lt__ = __eq__
    __hash__ = object.__hash__

    def __float__(self):
        return 4.0

    def __getattr__(self, name):
        return self

    def __call__(self, *_, **__):
        return self

    def tolist(self):
        return self


def sure(base):
    """A subclass whose values equal everything."""

    class Sure(base):
        def __eq__(self, other):
            return True

        __hash__ = base.__hash__

        def __sub__(self, other):
            return base(0)

        __rsub__ = __sub__

        def __float__(self):
            return 4.0

        __int__ = __complex__ = __float__

    return Sure


class Agrees(torch.Tensor):
    """Whatever is asked of it is 0, and so within every bound."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return torch.zeros(())


class Sly(sp.Symbol):
    def __complex__(self):
        return 4 + 0j

    def __eq__(self, other):
        return True

    __hash__ = sp.Symbol.__hash__


HOSTILE = [
    Same(), sure(float)(9), sure(int)(9), sure(str)("9"), sure(complex)(9), sure(list)([9]),
    sure(tuple)((9,)), sure(dict)({9: 9}), torch.tensor(9.0).as_subclass(Agrees), Sly("x"),
    np.array([None], dtype=object), np.array([9.0]).view(sure(np.ndarray)), [Same()], (Same(),),
    10**50_000, -(10**50_000), math.nan, math.inf, (n for n in iter(int, 1)), iter(int, 1), type,
    object(), sp.nan, sp.zoo, "right", True, None, b"4", torch.zeros(0), torch.tensor(math.nan),
]  # fmt: skip
