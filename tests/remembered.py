"""The runtime check of shapes, which does not look twice at what has passed.

jaxtyping and beartype look at all arguments before a call, and at them and the result after it: a
tenth of a millisecond, in a training loop as long as the rest. What they find is a matter of types,
shapes and plain values. So they are asked where arguments or a result are not like those that have
passed already; and their check of a function is made when it is first asked for.
"""

import functools
import inspect
import threading
import types
from collections.abc import Callable, Iterable
from typing import Any

import jaxtyping
import numpy as np
import torch
from torch import nn

jaxtyped, config = jaxtyping.jaxtyped, jaxtyping.config

#: Of these a check asks for the class alone.
PLAIN = (float, complex, types.NoneType, types.FunctionType, types.BuiltinFunctionType)
PLAIN += (types.MethodType, torch.dtype, torch.device, torch.Generator, nn.Module)
#: Of these, which a ``Literal`` may name, for the value as well.
NAMED = (bool, int, str)
ARRAYS = (torch.Tensor, nn.Parameter, np.ndarray)

unheard = torch._C.DisableTorchFunction  # who counts calls of torch is not told of these


@functools.cache
def kind(cls: type) -> str:
    """How much of a value of this class a check may ask for; "" where that is not known."""
    if cls in ARRAYS:
        return "array"
    if cls in NAMED:
        return "named"
    if issubclass(cls, tuple):
        return "tuple"
    if issubclass(cls, nn.Module) and cls.__getattribute__ is not object.__getattribute__:
        return ""  # it says itself what it has, and of which class it is
    return "plain" if issubclass(cls, PLAIN) else ""


def look(values: Iterable[Any], seen: list[Any]) -> bool:
    """Add to ``seen`` all that a check may ask for; False where that is not known."""
    for value in values:
        cls = type(value)
        what = kind(cls)
        if what == "array":
            seen += (cls, value.shape, value.dtype)
        elif what == "plain":
            seen.append(cls)
        elif what == "named":
            seen += (cls, value)
        elif what == "tuple":
            seen += (cls, len(value))
            if not look(value, seen):
                return False
        else:
            return False
    return True


class Calls(threading.local):
    """What the wrapper that jaxtyping has made is to call, innermost last."""

    def __init__(self) -> None:
        self.waiting: list[Callable] = []


class Signature:
    """jaxtyping's check of a function, and of which arguments which results have passed it.

    A function inside of another is made anew whenever that is called: all share one.
    """

    known: dict[tuple, "Signature"] = {}  # noqa: RUF012
    calls = Calls()

    def __init__(self, function: types.FunctionType, typechecker: Callable) -> None:
        self.function, self.typechecker = function, typechecker
        self.passed: dict[tuple, set[tuple]] = {}

    @classmethod
    def of(cls, function: types.FunctionType, typechecker: Callable) -> "Signature":
        code = (function.__module__, function.__qualname__, function.__code__)
        key = (*code, *function.__annotations__.items())
        try:
            return cls.known.setdefault(key, cls(function, typechecker))
        except TypeError:  # an annotation without a hash
            return cls(function, typechecker)

    @functools.cached_property
    def check(self) -> Callable:
        """jaxtyping's wrapper of what waits to be called; a name in quotes is the function's."""
        calls = self.calls

        def last(*given: Any, **named: Any) -> Any:
            return calls.waiting.pop()(*given, **named)

        there = types.FunctionType(
            last.__code__, self.function.__globals__, closure=last.__closure__
        )
        return jaxtyped(functools.wraps(self.function)(there), typechecker=self.typechecker)


def remembering(*, typechecker: Callable) -> Callable:
    """In the place of ``jaxtyped``, which makes a decorator, too."""
    return functools.partial(remember, typechecker)


def remember(typechecker: Callable, function: Any) -> Any:
    """The function with its check, of what is not like a call that has passed."""
    if not inspect.isfunction(function) or "{" in str([*function.__annotations__.values()]):
        return jaxtyped(function, typechecker=typechecker)  # "{n}" is the value of an argument
    signature = Signature.of(function, typechecker)
    passed, waiting_of = signature.passed, signature.calls

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        __tracebackhide__ = True
        if config.jaxtyping_disable:
            return function(*given, **named)
        todo: Callable = function
        arguments: list[Any] = []
        with unheard():
            known = look(given, arguments)
            for name in named if known else ():
                arguments.append(name)
                known = known and look((named[name],), arguments)
        if known and (results := passed.get(key := tuple(arguments))) is not None:
            made = function(*given, **named)
            result: list[Any] = []
            with unheard():
                known = look((made,), result)
            if known and tuple(result) in results:
                return made
            todo = lambda *_, **__: made  # noqa: E731
        waiting = waiting_of.waiting
        before = len(waiting)
        waiting.append(todo)
        try:
            made = signature.check(*given, **named)
        finally:
            del waiting[before:]
        with unheard():
            if known and look((made,), result := []):
                passed.setdefault(key, set()).add(tuple(result))
        return made

    return call
