"""What a check puts to an answer: cases drawn from a seed, and counters of what an answer may not use."""

import functools
import math
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from linear_time.exercises.verdicts import Wrong

#: The seed of practice: always the same, so that a notebook's outputs are.
PRACTICE = 2024


class Cases:
    """The random things of one check: the same for the same seed, and others for another.

    Args:
        seed: a whole number; None for the seed of practice.

    Attributes:
        seed: the number that was used.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = PRACTICE if seed is None else int(seed)
        self._numbers = random.Random(self.seed)
        self._tensors = torch.Generator().manual_seed(self.seed % 2**63)

    def randn(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Normal numbers of a shape, of mean 0 and variance 1."""
        return torch.randn(*shape, generator=self._tensors, dtype=dtype)

    def uniform(self, low: float | int, high: float | int) -> float:
        """A number between two others."""
        return self._numbers.uniform(low, high)

    def integer(self, low: int, high: int) -> int:
        """A whole number, of which both ends are possible."""
        return self._numbers.randint(low, high)

    def choice(self, things: Sequence[Any]) -> Any:
        """One of several things."""
        return self._numbers.choice(things)

    def shuffled(self, things: Sequence[Any]) -> list[Any]:
        """The things in a drawn order; what came stays as it is."""
        return self._numbers.sample(list(things), len(things))


def draws(
    seed: int = 0, dtype: torch.dtype = torch.float64
) -> Callable[..., Tensor]:
    """Random tensors of the shapes it is called with, one after the other."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)


def randn(
    *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """One random tensor of a shape."""
    drawn: Tensor = draws(seed, dtype)(*shape)
    return drawn


#: Instruments that are on: where a maker is found, what it was given, and what it yielded.
INSTRUMENTS: list[tuple[tuple[str, str, Any, Any], Any]] = []


def instrument(maker: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function that yields once a context manager that watches an answer.

    A grader that runs the answer in another process enters it there, and copies what it found to the fields of what was
    yielded here. It must stand at a module's top level.
    """
    manager = contextmanager(maker)

    @functools.wraps(maker)
    @contextmanager
    def entered(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with manager(*args, **kwargs) as state:
            where = maker.__module__, maker.__qualname__, args, kwargs
            INSTRUMENTS.append((where, state))
            try:
                yield state
            finally:
                INSTRUMENTS.pop()

    return entered


#: By these functions numbers leave a tensor, and what is then done with them is no call to torch.
DOORS = frozenset(
    [
        "tolist",
        "item",
        "numpy",
        "__array__",
        "__int__",
        "__float__",
        "__index__",
        "__complex__",
        "__dlpack__",
        "data_ptr",
        "storage",
        "untyped_storage",
        "_typed_storage",
        "__reduce_ex__",
    ]
)


class Calls(TorchFunctionMode):
    """The names of the functions of torch that are called inside, in order.

    By their number at two sizes a check tells a loop from a few large calls, and by a name a method that was
    forbidden.

    Args:
        most: so many calls are allowed; one more is wrong, so that a loop that does not end is ended.
        closed: whether it is wrong to take numbers out of a tensor.
    """

    def __init__(
        self, most: float | int = math.inf, closed: bool = False
    ) -> None:
        super().__init__()
        self.most = most
        self.closed = closed
        self.names: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.names.append(getattr(func, "__name__", str(func)))
        if self.closed and self.names[-1] in DOORS:
            raise Wrong(
                f"Expected numbers that stay in tensors: {self.names[-1]} takes them out, where nobody counts."
            )
        if len(self.names) > self.most:
            raise Wrong(
                f"Expected at most {self.most:,} calls to torch: does it end?"
            )
        return func(*args, **(kwargs or {}))


class Late(BaseException):
    """An answer did not end in its time."""


@contextmanager
def limit(seconds: float | int | None) -> Iterator[None]:
    """Raise :class:`Late` inside after so many seconds, where the system has alarms, in a main thread."""
    main = threading.current_thread() is threading.main_thread()
    if seconds is None or not main or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _NoTransforms(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if any(map(is_functorch_wrapped_tensor, filter(_is_tensor, args))):
            raise Wrong("Expected no derivative by torch.func.")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_derivatives() -> Iterator[None]:
    """Inside, autograd keeps nothing, and torch.func is wrong."""
    with torch.inference_mode(), _NoTransforms():
        yield


class Operations(TorchDispatchMode):
    """How many operations on tensors run inside, those that one call makes as well: a product of many matrices, say.

    Args:
        most: so many are allowed; one more is wrong.
    """

    def __init__(self, most: float | int = math.inf) -> None:
        super().__init__()
        self.most = most
        self.number = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.number += 1
        if self.number > self.most:
            raise Wrong(
                f"Expected at most {self.most:,} operations of torch, got more: a loop?"
            )
        return func(*args, **(kwargs or {}))


class Largest(TorchDispatchMode):
    """The most numbers that a tensor made inside has."""

    numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.numbers = max(self.numbers, made.numel())
        return made


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
