"""Two processes that call one another's functions and trust one another's data alone.

A message is a line of JSON. Numbers, texts, containers, tensors and sympy's expressions travel by
value and arrive as exactly these types; functions and layers stay where they are and travel as a
number, by which the other end can call them. The end that trusts (the submission's) also takes
pickles; the other one (the grader's) never does: whatever is sent to it becomes data, or an error.
"""

from __future__ import annotations

import base64
import builtins
import contextlib
import dataclasses
import importlib
import inspect
import io
import json
import os
import select
import sys
import time
from collections.abc import Iterator
from typing import Any

import cloudpickle
import numpy as np
import sympy as sp
import torch
from torch import nn
from torch.utils._mode_utils import no_dispatch

from linear_time.exercises import Wrong
from linear_time.exercises.labs import Implementation, inside

LONGEST = 2**28  # bytes of a message


class Late(BaseException):
    """The other end took longer than it had."""


class Ended(BaseException):
    """The other end is no more."""


class Remote:
    """A function or layer of the other end."""

    def __init__(self, wire: Wire, number: int) -> None:
        self._wire, self._number = wire, number

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._wire.call(self._number, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._wire.ask("get", self._number, name)


class Layer(nn.Module):
    """A layer of the other end that has its parameters and buffers here.

    They can be read and set as any layer's; each call of a method takes them to the other end.
    """

    def __init__(self, wire: Wire, number: int, path: str, tensors: dict, top: Any = None) -> None:
        super().__init__()
        vars(self).update(_wire=wire, _number=number, _path=path, _top=[top or self])
        for name, tensor in tensors.items():
            first, _, rest = name.partition(".")
            if rest:
                if first not in self._modules:
                    start = f"{first}."
                    within = {
                        k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)
                    }
                    inner = f"{path}.{first}".lstrip(".")
                    self._modules[first] = Layer(wire, number, inner, within, self._top[0])
            elif tensor.requires_grad:
                self._parameters[name] = nn.Parameter(tensor)
            else:
                self._buffers[name] = tensor

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.method("forward", args, kwargs)

    def method(self, name: str, args: tuple, kwargs: dict) -> Any:
        top = self._top[0]
        given = [self._number, self._path, name, list(args), kwargs, tensors_of(top), top.training]
        return self._wire.ask("method", *given)

    def __getattr__(self, name: str) -> Any:
        with contextlib.suppress(AttributeError):
            return super().__getattr__(name)
        if name.startswith("_"):
            raise AttributeError(name)
        is_method, value = self._wire.ask("attribute", self._number, self._path, name)
        if not is_method:
            return value
        return lambda *args, **kwargs: self.method(name, args, kwargs)

    def __deepcopy__(self, memo: dict) -> Layer:
        tensors = {k: v.detach().clone().requires_grad_(v.requires_grad)
                   for k, v in tensors_of(self).items()}  # fmt: skip
        return Layer(self._wire, self._number, self._path, tensors)


class Wire:
    """One end.

    Args:
        reader: a file descriptor to read from.
        writer: one to write to.
        trusting: whether this end takes pickles, and gives out what its objects have.
    """

    def __init__(self, reader: int, writer: int, trusting: bool) -> None:
        self.reader, self.writer, self.trusting = reader, writer, trusting
        self.buffer = bytearray()
        self.objects: list[Any] = []
        self.deadline: float | None = None

    # -- values

    def pack(self, value: Any) -> Any:
        """A value in JSON's terms. Instruments that are on do not see what this takes."""
        with unseen():
            return self.packed(value)

    def packed(self, value: Any) -> Any:
        """The same, for parts of a value."""
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if isinstance(value, (np.generic, np.ndarray)):
            array = np.array(value, subok=False)
            value = torch.from_numpy(array) if array.ndim else array.item()
            return self.packed(value)
        if isinstance(value, torch.Tensor):
            return pack_tensor(value)
        if kind is int:
            return ["int", hex(value)]
        if kind is float:
            return ["float", value.hex()]
        if kind is complex:
            return ["complex", value.real.hex(), value.imag.hex()]
        if kind is torch.dtype:
            return ["dtype", str(value).removeprefix("torch.")]
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            name = [kind.__module__, kind.__name__] if own(kind) else []
            return ["tuple", [self.packed(v) for v in value], *name]
        if isinstance(value, (list, tuple, set, frozenset)):
            base = next(b for b in (list, tuple, set, frozenset) if isinstance(value, b))
            return [base.__name__, [self.packed(v) for v in base.__iter__(value)]]
        if isinstance(value, dict):
            return ["dict", [[self.packed(k), self.packed(v)] for k, v in dict.items(value)]]
        for base in (int, float, complex):
            if isinstance(value, base):
                return self.packed(getattr(base, f"__{base.__name__}__")(value))
        if isinstance(value, str):
            return "".join(str.__iter__(value))
        if isinstance(value, (sp.Basic, sp.MatrixBase)):
            return self.pack_expression(value)
        if isinstance(value, Remote) and value._wire is self:
            return ["yours", value._number]
        if dataclasses.is_dataclass(value) and own(kind):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
            return ["record", self.packed(fields), kind.__module__, kind.__name__]
        if isinstance(value, Implementation):
            self.objects.append(value)
            return ["layer", len(self.objects) - 1, self.packed(tensors_of(value))]
        if isinstance(value, torch.Generator):
            return ["generator", pack_tensor(value.get_state())]
        if isinstance(value, nn.Module) and self.trusting and own(kind):
            return ["saved", saved(value), kind.__module__, kind.__name__]
        if not self.trusting and (isinstance(value, nn.Module) or not callable(value)):
            return ["pickle", base64.b64encode(cloudpickle.dumps(value)).decode()]
        self.objects.append(value)
        return ["mine", len(self.objects) - 1]

    def pack_expression(self, value: Any) -> Any:
        if isinstance(value, sp.logic.boolalg.BooleanAtom):
            return bool(value)
        if isinstance(value, sp.MatrixBase):
            value = value.as_immutable()
        if isinstance(value, sp.Symbol):
            return ["symbol", value.name, dict(value._assumptions_orig)]
        if isinstance(value, sp.Float):
            sign, mantissa, exponent, _ = value._mpf_
            parts = int(sign), int(mantissa), int(exponent), int(value._prec)
            return ["decimal", *map(str, parts)]
        if isinstance(value, sp.Rational):
            return ["sympy", "Rational", [["int", hex(value.p)], ["int", hex(value.q)]]]
        name = type(value).__name__
        if isinstance(value, sp.core.function.AppliedUndef):
            return ["applied", value.func.__name__, [self.packed(a) for a in value.args]]
        return ["sympy", name, [self.packed(a) for a in value.args]]

    def unpack(self, sent: Any) -> Any:
        """The value that JSON's terms say.

        Raises:
            Wrong: they say none.
        """
        try:
            with unseen():
                return self.unpacked(sent)
        except Wrong:
            raise
        except Exception as error:
            raise Wrong(f"Expected a value, got what is none ({type(error).__name__}).") from None

    def unpacked(self, sent: Any) -> Any:
        if sent is None or type(sent) in (bool, str):
            return sent
        tag, *rest = sent
        match tag:
            case "int":
                return int(rest[0], 16)
            case "float":
                return float.fromhex(rest[0])
            case "complex":
                return complex(float.fromhex(rest[0]), float.fromhex(rest[1]))
            case "dtype":
                made = getattr(torch, rest[0])
                if not isinstance(made, torch.dtype):
                    raise Wrong("Expected a type of numbers.")
                return made
            case "tensor":
                return unpack_tensor(*rest)
            case "list" | "tuple" | "set" | "frozenset" if len(rest) == 1:
                return getattr(builtins, tag)(self.unpacked(v) for v in rest[0])
            case "tuple":
                kind = library(rest[1], rest[2])
                if not own(kind) or not hasattr(kind, "_fields"):
                    raise Wrong("Expected a tuple of the library's.")
                return kind(*map(self.unpacked, rest[0]))
            case "dict":
                return {self.unpacked(k): self.unpacked(v) for k, v in rest[0]}
            case "symbol":
                return sp.Symbol(str(rest[0]), **{str(k): bool(v) for k, v in rest[1].items()})
            case "applied":
                return sp.Function(str(rest[0]))(*map(self.unpacked, rest[1]))
            case "decimal":
                sign, mantissa, exponent, bits = map(int, rest)
                return sp.Float((sign, mantissa, exponent), precision=bits)
            case "sympy":
                kind = getattr(sp, rest[0], None) or getattr(sp.core.numbers, rest[0])
                parts = [self.unpacked(part) for part in rest[1]]
                # sympy evaluates texts as Python
                safe = all(isinstance(part, (int, sp.Basic)) for part in parts)
                if not isinstance(kind, type) or not issubclass(kind, sp.Basic) or not safe:
                    raise Wrong("Expected sympy's terms.")
                return kind(*parts)
            case "record":
                kind = library(rest[1], rest[2])
                if not own(kind) or not dataclasses.is_dataclass(kind):
                    raise Wrong("Expected an object of the library's.")
                return kind(**self.unpacked(rest[0]))
            case "generator":
                made = torch.Generator()
                made.set_state(self.unpacked(rest[0]))
                return made
            case "saved":
                library(rest[1], rest[2])  # imports what it is made of
                return loaded(rest[0])
            case "layer":
                return Layer(self, int(rest[0]), "", self.unpacked(rest[1]))
            case "mine":
                return Remote(self, int(rest[0]))
            case "yours":
                return self.objects[int(rest[0])]
            case "pickle" if self.trusting:
                return cloudpickle.loads(base64.b64decode(rest[0]))
        raise Wrong("Expected a value, got what is none.")

    # -- messages

    def send(self, message: Any) -> None:
        data = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while data:  # so little that a pipe which is ready takes it whole, and none waits for
                self.wait(self.writer, write=True)  # an end that reads no more
                data = data[os.write(self.writer, data[: select.PIPE_BUF]) :]
        except OSError:
            raise Ended from None

    def receive(self) -> Any:
        while b"\n" not in self.buffer[-(2**16) :]:
            self.wait(self.reader)
            try:
                more = os.read(self.reader, 2**16)
            except OSError:
                more = b""
            if not more or len(self.buffer) > LONGEST:
                raise Ended
            self.buffer += more
        line, _, rest = bytes(self.buffer).partition(b"\n")
        self.buffer = bytearray(rest)
        try:
            return json.loads(line)
        except ValueError:
            raise Ended from None

    def wait(self, descriptor: int, write: bool = False) -> None:
        """Until the descriptor is ready."""
        if self.deadline is None:
            return
        left = self.deadline - time.monotonic()
        sets = ([], [descriptor]) if write else ([descriptor], [])
        if left <= 0 or not any(select.select(*sets, [], left)):
            raise Late

    def call(self, number: int, args: Any, kwargs: Any) -> Any:
        """Call a function of the other end."""
        return self.ask("call", number, list(args), kwargs)

    def ask(self, what: str, *parts: Any) -> Any:
        """Ask the other end, answer what it asks in between, and return its reply."""
        self.send([what, *map(self.pack, parts)])
        while True:
            message = self.receive()
            if not isinstance(message, list) or not message:
                raise Ended
            if message[0] == "reply":
                return self.unpack(message[1])
            if message[0] == "error":
                raise self.error(*message[1:])
            self.serve(message)

    def error(self, kind: Any = "", text: Any = "", *_: Any) -> BaseException:
        """The exception that the other end tells of, one of Python's own."""
        if kind == "Wrong":
            return Wrong(str(text)[:300])
        made = getattr(builtins, str(kind), RuntimeError)
        if not isinstance(made, type) or not issubclass(made, Exception):
            made = RuntimeError
        return made(str(text)[:300]) if text else made()

    def serve(self, message: list) -> None:
        """Do what the other end asks, and reply."""
        try:
            made = self.pack(self.answer(message[0], *map(self.unpack, message[1:])))
            reply = ["reply", made]
        except Exception as error:
            reply = told(error)
        self.send(reply)

    def answer(self, what: str, *parts: Any) -> Any:
        if what == "call":
            number, args, kwargs = parts
            return self.objects[number](*args, **kwargs)
        if what == "method":
            number, path, name, args, kwargs, state, training = parts
            layer = self.layer(number)
            put_tensors(layer, state)
            layer.train(training)
            return getattr(layer.get_submodule(path), name)(*args, **kwargs)
        if what == "attribute":
            number, path, name = parts
            value = getattr(self.layer(number).get_submodule(path), public(name))
            return [True, None] if inspect.ismethod(value) else [False, value]
        if what == "get":
            number, name = parts
            thing = self.objects[number]
            if not self.trusting:
                raise AttributeError(name)
            return getattr(thing, public(name))
        raise ValueError(what)

    def layer(self, number: int) -> nn.Module:
        """A layer that was given to the other end, itself."""
        thing = self.objects[number]
        if not isinstance(thing, Implementation):
            raise TypeError("no layer")
        return inside(thing)


def library(module: str, name: str) -> Any:
    """What a module of the library's has under a name."""
    if not module.startswith("linear_time."):
        raise Wrong("Expected an object of the library's.")
    return getattr(importlib.import_module(module), name)


def public(name: str) -> str:
    if name.startswith("_"):
        raise AttributeError(name)
    return name


def tensors_of(layer: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name; those that are not saved too."""
    return {**dict(layer.named_parameters()), **dict(layer.named_buffers())}


def put_tensors(layer: nn.Module, tensors: dict) -> None:
    """Set parameters and buffers by name."""
    for name, mine in tensors_of(layer).items():
        mine.data = tensors[name].detach()


def saved(layer: nn.Module) -> str:
    """A layer of the library's in torch's format."""
    file = io.BytesIO()
    torch.save(layer, file)
    return base64.b64encode(file.getvalue()).decode()


def loaded(text: str) -> nn.Module:
    """A layer of the library's; torch's loader makes no other objects than those named here."""
    known = [
        thing
        for name, module in list(sys.modules.items())
        if name.startswith(("linear_time.", "torch.nn.modules.")) and "exercises" not in name
        for thing in vars(module).values()
        if isinstance(thing, type)
        and thing.__module__ == name
        and issubclass(thing, (nn.Module, tuple))
    ]
    with torch.serialization.safe_globals([*known, frozenset]):
        return torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True)


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """Inside, no mode of torch is told of anything."""
    with torch._C.DisableTorchFunction(), no_dispatch():
        yield


def told(error: BaseException) -> list:
    """An exception in a message: the first of its kinds that is Python's own, and its text."""
    if isinstance(error, Wrong):
        return ["error", "Wrong", str(error)]
    kind = next(k for k in type(error).__mro__ if k.__module__ == "builtins")
    try:
        text = str(error) if error.args else ""
    except Exception:
        text = "?"
    return ["error", kind.__name__, text]


def own(kind: type) -> bool:
    """Whether a class is one of the package's modules' own."""
    home = sys.modules.get(str(kind.__module__))
    inside = str(kind.__module__).startswith("linear_time.")
    return inside and getattr(home, kind.__name__, None) is kind


def pack_tensor(value: torch.Tensor) -> list:
    with torch._C.DisableTorchFunctionSubclass():
        made = torch.Tensor.detach(value).as_subclass(torch.Tensor)
        made = made.cpu().resolve_conj().resolve_neg().contiguous()
        data = made.flatten().view(torch.uint8).numpy().tobytes() if made.numel() else b""
        kind = str(made.dtype).removeprefix("torch.")
        text = base64.b64encode(data).decode()
        return ["tensor", kind, list(made.shape), text, bool(value.requires_grad)]


def unpack_tensor(kind: str, shape: list, text: str, grad: bool) -> torch.Tensor:
    dtype, data = getattr(torch, kind), bytearray(base64.b64decode(text))
    if not isinstance(dtype, torch.dtype):
        raise ValueError
    sizes = [int(size) for size in shape]
    made = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return made.reshape(sizes).requires_grad_(bool(grad))
