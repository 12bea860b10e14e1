"""A submission's own process: its answer cells run here, and the grader calls what they define.

    python answers.py READER WRITER    two file descriptors that lead to the grader

It is told the imports, the cells of each exercise and the name of each answer; it executes an
exercise's cells when that exercise is asked for. Nothing that it prints or binds is looked at. A
socket, another program and other notebooks are refused by an audit hook, which Python code cannot
take off again.
"""

from __future__ import annotations

import ast
import contextlib
import os
import resource
import sys
import threading
import time
from importlib import import_module
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from wire import Ended, Wire

REFUSED = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.")


def refuse(event: str, args: tuple) -> None:
    """The audit hook."""
    if event.startswith(REFUSED):
        raise PermissionError(f"{event} is not for an answer")
    if event == "open" and str(args[0]).endswith((".ipynb", ".jsonl", ".secret")):
        raise PermissionError("other notebooks are not for an answer")


class Submission(Wire):
    """The end that holds a submission's answers."""

    def begin(self, imports: list[str], cells: dict, expressions: dict) -> None:
        """Execute the imports; each cell for itself, so that one that fails costs no other."""
        self.cells, self.expressions = cells, expressions
        self.names: dict[str, Any] = {"__name__": "student"}
        for source in imports:
            with contextlib.suppress(Exception, SystemExit):
                self.execute(source)

    def execute(self, source: str) -> None:
        exec(compile(python(source), "answer", "exec"), self.names)

    def find(self, name: str) -> Any:
        """Execute an exercise's cells; its answer, as the check is to get it."""
        for source in self.cells[name]:
            self.execute(source)
        return eval(self.expressions[name], self.names)

    def answer(self, what: str, *parts: Any) -> Any:
        try:
            if what == "begin":
                return self.begin(*parts)
            if what == "find":
                return self.find(*parts)
            if what == "watched":
                return self.watched(*parts)
            return super().answer(what, *parts)
        except SystemExit as error:  # serve() catches Exception alone
            raise RuntimeError(f"SystemExit: {error}") from None

    def watched(
        self, number: int, args: list, kwargs: dict, grad: bool, instruments: list
    ) -> list[Any]:
        """A call under the instruments of the grader: its value, and what they have found."""
        with contextlib.ExitStack() as stack:
            if grad is None:
                stack.enter_context(torch.inference_mode())
            elif not grad:
                stack.enter_context(torch.no_grad())
            states = []
            for made in instruments:
                if made == "flops":
                    made = FlopCounterMode(display=False)
                elif isinstance(made, tuple):
                    module, name, given, settings = made
                    made = getattr(import_module(module), name)(*given, **settings)
                states.append(stack.enter_context(made))
            value = self.objects[number](*args, **kwargs)
        return [value, [found(state) for state in states]]


def found(state: Any) -> Any:
    """What an instrument has counted, as data."""
    if isinstance(state, FlopCounterMode):
        return {"flops": state.get_total_flops()}
    data = (bool, int, float, str, list, tuple, dict, set, torch.Tensor)
    return {k: v for k, v in vars(state).items() if isinstance(v, data)} if state else {}


def python(source: str) -> ast.Module:
    """A cell without magics and without its calls of `check`, which is the grader's to make."""
    lines = ["" if line.lstrip()[:1] in ("%", "!") else line for line in source.split("\n")]
    tree = ast.parse("\n".join(lines))
    tree.body = [node for node in tree.body if checked(node) is None]
    return tree


def checked(node: ast.stmt) -> str | None:
    """The exercise that a statement checks."""
    call = node.value if isinstance(node, ast.Expr) else getattr(node, "test", None)
    match call:
        case ast.Call(func=ast.Name(id="check"), args=[ast.Constant(value=str(name)), *_]):
            return name
    return None


def end_with_parent() -> None:
    """Leave when the grader is killed, an endless answer too."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    end_with_parent()
    reader, writer = map(int, sys.argv[1:])
    for limit, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 2**26)):
        resource.setrlimit(limit, (most, most))
    wire = Submission(reader, writer, trusting=True)
    sys.addaudithook(refuse)
    with contextlib.suppress(Ended):
        while True:
            wire.serve(wire.receive())
    os._exit(0)


if __name__ == "__main__":
    main()
