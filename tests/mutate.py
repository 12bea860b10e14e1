"""Mutation testing: change the code in one place, and ask the tests whether they see it.

    python tests/mutate.py run [PATH ...] [--changed REF] [--sample N] [--seconds S] [--again]
    python tests/mutate.py run --area AREA --seed 1 --count N     (a sample that is new)
    python tests/mutate.py report

What can be changed is found and made by cosmic-ray; beside it stand the mutants of
``tests/mutants/``, written by hand after bugs that were made or nearly made. (mutmut, the other
maintained tool, mutates no decorated function, so no property and nothing under ``no_grad``, no
constant, and no file that is loaded by its path.) cosmic-ray itself rewrites a file and starts
pytest anew, which with torch is ten seconds a mutant. So its operators are used, and not its
runner: here one process has imported torch and collected the tests; for each mutant a fork of it
swaps the code of the changed function, and runs those tests of its module that call the function,
the fastest first, until one fails. That is half a second. What is not inside a function (a
constant, a default, a class's body) is read anew by a fork that has not imported the package.
jaxtyping's import hook decorates what is swapped, and stays: the changed code is checked, too.

The tests of a module are those of its name (``TESTS`` names exceptions); a mutant that these let
live meets the contract's tests of layers, too. Results are kept in ``_build/mutants``, so that what
is stopped goes on where it was; ``report`` writes ``tests/MUTANTS.md`` from them.

Who writes tests for what lived of a sample can no longer say from it how much the tests see.
Another seed draws another: of these the first verdict counts, and is reported apart.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import hashlib
import importlib
import itertools
import json
import math
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / "_build" / "mutants"
REPORT = ROOT / "tests" / "MUTANTS.md"
#: What the modules and the tests import, and is the same for all mutants.
SHARED = (
    *("torch", "numpy", "scipy.linalg", "scipy.signal", "hypothesis", "sympy", "beartype"),
    *("jaxtyping", "safetensors.torch", "torch.func", "torch.utils.flop_counter", "nbformat"),
)
RECIPES = ("experiment_jobs", "experiment_recipes", "experiment_edges")  # of all experiments
#: The tests of a file, where its name does not say them.
TESTS = {
    "src/linear_time/_validate.py": ("validate", "scan"),
    "src/linear_time/cache.py": ("attention", "decoder"),
    "src/linear_time/delta_rule.py": ("delta",),
    "src/linear_time/family.py": ("mamba3", "recurrences"),
    "src/linear_time/layer.py": ("recurrent", "s4", "training"),
    "src/linear_time/mamba2.py": ("duality",),
    "src/linear_time/mamba2_folders.py": ("duality",),
    "src/linear_time/measure.py": ("cost", "benchmarks"),
    "src/linear_time/panel.py": ("explorer",),
    "src/linear_time/ranks.py": ("distributed",),
    "src/linear_time/rotary.py": ("decoder",),
    "src/linear_time/s4_kernels.py": ("s4",),
    "src/linear_time/scan_function.py": ("scan",),
    "src/linear_time/trapezoid.py": ("mamba3",),
    "src/linear_time/exercises/": ("exercises", "harness", "verdicts"),
    "src/linear_time/pictures/": ("pictures",),
    "book/answers.py": ("wire", "grade", "build"),
    "book/handout.py": ("assignments",),
    "book/questions.py": ("bank",),
    "book/wire.py": ("grade",),
    "book/_ext/linear_time_api.py": ("api", "extensions"),
    "book/_ext/linear_time_editions.py": ("extensions", "build"),
    "book/_ext/linear_time_light.py": ("light", "extensions"),
    "book/_ext/": ("extensions", "layers", "course", "reader"),
    "experiments/runs.py": ("experiments", *RECIPES, "experiment_sweeps"),
    "experiments/side_by_side.py": ("paper_tables", "recall", "experiment_networks", *RECIPES),
    "experiments/stacked.py": ("sequential_digits", "recall", *RECIPES),
    "experiments/stacks.py": ("movielens", *RECIPES),
    "experiments/hybrids.py": ("hybrid", "experiment_sweeps", "experiment_networks", *RECIPES),
    "experiments/": ("experiment_sweeps", "experiment_networks", *RECIPES),
}
#: Called in processes that the tests start, which read a changed copy of the package.
STARTED = ("src/linear_time/distributed.py", "src/linear_time/ranks.py")
#: Of a file that has constants alone: what reads them.
READERS = {
    "src/linear_time/mamba2_folders.py": (
        "src/linear_time/mamba2.py",
        {"Mamba2LM.from_pretrained", "Mamba2LM.save_pretrained"},
    )
}
WIDER = ("contract", "arguments", "cost")  # for what the module's own tests let live
AREAS = {"src/linear_time/exercises": "checks", "src": "library", "book": "tools"}
SLOW = 12.0  # seconds: tests beyond are left out, and named in the report
#: Operators of cosmic-ray that are not used: they need arguments, or make of arithmetic what dies
#: by its type in any test (a sum becomes a shift), which would flatter the score.
UNASKED = ("Variable", "RemoveDecorator", "Invert")
UNASKED += tuple(f"_{name}" for name in ("RShift", "LShift", "BitOr", "BitAnd", "BitXor"))
#: Kinds of leaves that cosmic-ray changes nothing of.
QUIET = ("string", "newline", "endmarker", "fstring_start", "fstring_string", "fstring_end")
LEFT_OUT = ("gpu", "site", "alone", "drawing", "pages", "scan_triton", "gallery", "same", "kills")
LEFT_OUT += ("workflows", "fuzz", "heartbeat")
#: Fixtures of tests that work in other processes, which read the unchanged files.
ELSEWHERE = {"compilers", "chromium"}
#: The chapters whose exercises are asked about what all checks share.
SOME = ("00", "04", "11", "12")


# --- what is changed -----------------------------------------------------------------------------


class Mutant(NamedTuple):
    """A file whose characters from start to stop become another text."""

    file: str
    start: int
    stop: int
    new: str
    kind: str  # "hand", or the name of cosmic-ray's operator
    why: str = ""

    def text(self) -> str:
        source = read(self.file)
        return source[: self.start] + self.new + source[self.stop :]

    def parses(self) -> bool:
        try:
            ast.parse(self.text())
        except SyntaxError:
            return False
        return True

    def key(self) -> str:
        """Of what is changed and its surroundings: it stays while these do."""
        source = read(self.file)
        owner = owner_of(self.file, self.start)
        low, high = (owner.low, owner.high) if owner else (self.start - 200, self.stop + 200)
        around = source[max(0, low) : self.start], self.new, source[self.stop : high]
        return hashlib.sha1("\0".join((self.file, *around)).encode()).hexdigest()[:16]

    def shown(self) -> tuple[int, str, str]:
        """The line, and the lines before and after."""
        source = read(self.file)
        low = source.rfind("\n", 0, self.start) + 1
        high = source.find("\n", self.stop)
        before, after = (
            source[low:high],
            source[low : self.start] + self.new + source[self.stop : high],
        )
        return source.count("\n", 0, low) + 1, squeeze(before), squeeze(after)


class Owner(NamedTuple):
    """The outermost function that a place is in."""

    name: str  # qualified
    low: int
    high: int


def squeeze(text: str) -> str:
    return " ".join(text.split())


@cache
def read(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf8")


@cache
def _tree(file: str) -> tuple[ast.Module, list[int], list[str]]:
    source = read(file)
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    return ast.parse(source), starts, lines


def _place(file: str, line: int, column: int) -> int:
    """Characters before a line and a column of bytes, as ``ast`` counts."""
    _, starts, lines = _tree(file)
    return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())


def _span(file: str, node: ast.AST) -> tuple[int, int]:
    return (
        _place(file, node.lineno, node.col_offset),
        _place(file, node.end_lineno, node.end_col_offset),
    )


@cache
def owners(file: str) -> list[Owner]:
    """The outermost functions of a file, from their first statement on."""
    found = []

    def look(nodes: Sequence[ast.stmt], prefix: str) -> None:
        for node in nodes:
            if isinstance(node, ast.FunctionDef):
                found.append(
                    Owner(prefix + node.name, _span(file, node.body[0])[0], _span(file, node)[1])
                )
            elif isinstance(node, ast.ClassDef):
                look(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.If):
                look([*node.body, *node.orelse], prefix)

    look(_tree(file)[0].body, "")
    return found


def owner_of(file: str, at: int) -> Owner | None:
    return next((o for o in owners(file) if o.low <= at < o.high), None)


@cache
def unasked(file: str) -> list[tuple[int, int]]:
    """Spans that no test can or should see: annotations, docstrings, kernels of a GPU."""
    found = []
    for node in ast.walk(_tree(file)[0]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found += [_span(file, node.returns)] if node.returns else []
        if isinstance(node, (ast.arg, ast.AnnAssign)) and node.annotation:
            found.append(_span(file, node.annotation))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found.append(_span(file, node))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found += [_span(file, d) for d in node.decorator_list]
            if any("triton.jit" in ast.unparse(d) for d in node.decorator_list):
                found.append(_span(file, node))  # a GPU's, which a round has not
        if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
            found.append(_span(file, node))
    return found


def by_tool(file: str, sample: int | None, seed: int) -> list[Mutant]:
    """cosmic-ray's mutants: one of those that it makes at a place, and a sample of the places."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    names = [n for n in operator_names() if not any(word in n for word in UNASKED)]
    operators = {name: get_operator(name)() for name in names}
    source = read(file)
    _, starts, _ = _tree(file)
    places: dict[tuple[int, int], list[tuple[str, Any, int]]] = defaultdict(list)
    for node in ast_nodes(get_ast(source)):
        if node.type in QUIET or (node.type == "operator" and node.value in "()[]{},.:="):
            continue
        for name, operator in operators.items():
            for index, ((line, column), (_, _)) in enumerate(operator.mutation_positions(node)):
                start = starts[line - 1] + column
                if not any(low <= start < high for low, high in unasked(file)):
                    kind = "Number" if "Number" in name else "Not" if "AddNot" in name else "Other"
                    places[start, hash(kind)].append((name, node, index))
    order = sorted(places)
    random.Random(f"{file} {seed}").shuffle(order)
    found = []
    for place in order[:sample]:
        name, node, index = random.Random(f"{file} {place[0]} {seed}").choice(places[place])
        if hasattr(node, "value") and place[0] == starts[node.line - 1] + node.column:
            old = node.value
            new = operators[name].mutate(node, index)
            text, node.value = new.value.strip(), old
            stop = place[0] + len(old)
            mutant = Mutant(file, place[0], stop, text, name.split("/")[1])
        else:
            mutant = _made(file, source, operators[name], place[0], index, name)
        if mutant is not None and mutant.parses():
            found.append(mutant)
    return found


def _made(file: str, source: str, operator: Any, at: int, index: int, name: str) -> Mutant | None:
    """The change that the operator makes to the node that starts there."""
    from cosmic_ray.ast import Visitor, get_ast

    _, starts, _ = _tree(file)

    class One(Visitor):
        done = False

        def visit(self, node):
            if not self.done:
                positions = list(operator.mutation_positions(node))
                if index < len(positions):
                    (line, column), _ = positions[index]
                    if starts[line - 1] + column == at:
                        self.done = True
                        return operator.mutate(node, index)
            return node

    visitor, tree = One(), get_ast(source)
    mutated = visitor.walk(tree).get_code()
    if mutated == source:
        return None
    low = next(i for i, (a, b) in enumerate(zip(source, mutated + "\0", strict=False)) if a != b)
    back = 0
    while back < min(len(source), len(mutated)) - low and source[-1 - back] == mutated[-1 - back]:
        back += 1
    return Mutant(
        file, low, len(source) - back, mutated[low : len(mutated) - back], name.split("/")[1]
    )


def by_hand() -> list[Mutant]:
    """The tables of ``tests/mutants``; a text that is not there, or twice, is an error."""
    found, wrong = [], []
    sys.path.insert(0, str(ROOT / "tests"))
    for path in sorted((ROOT / "tests" / "mutants").glob("[a-z]*.py")):
        table = importlib.import_module(f"mutants.{path.stem}")
        for file, old, new, why in getattr(table, "MUTANTS", ()):
            count = read(file).count(old) if (ROOT / file).exists() else 0
            if count != 1:
                wrong.append(f"{path.name}: {file}: expected once, found {count} times: {old!r}")
                continue
            start = read(file).index(old)
            found.append(Mutant(file, start, start + len(old), new, "hand", why))
            try:
                compile(found[-1].text(), file, "exec")
            except SyntaxError as error:
                wrong.append(f"{path.name}: {file}: {new!r} is no Python: {error}")
    if wrong:
        raise ValueError("\n".join(wrong))
    return found


def files(paths: Sequence[str], changed: str | None) -> list[str]:
    """The files to change: those asked for, of these the ones that differ from a commit."""
    found = []
    for folder in ("src", "book", "experiments"):
        found += [p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*.py")]
    if paths:
        found = [f for f in found if any(f.startswith(p.rstrip("/")) for p in paths)]
    if changed:
        command = ["git", "diff", "--name-only", changed, "--"]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        found = [f for f in found if f in told.split()]
    return sorted(f for f in found if not f.endswith("__init__.py") or "exercises" in f)


def changed_lines(changed: str, file: str) -> set[int]:
    command = ["git", "diff", "-U0", changed, "--", file]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found: set[int] = set()
    for line in told.splitlines():
        if line.startswith("@@"):
            begin, _, many = line.split("+")[1].split()[0].partition(",")
            found |= set(range(int(begin), int(begin) + int(many or 1)))
    return found


# --- which tests ---------------------------------------------------------------------------------


def tests_of(file: str) -> list[str]:
    """Files of tests, of a module's own name and those that are named above."""
    own = [Path(file).stem]
    for part, names in TESTS.items():
        if file == part or (part.endswith("/") and file.startswith(part)):
            own += names
            break
    if file.endswith("/__init__.py"):
        own = own[1:]
    paths = [ROOT / "tests" / f"test_{name}.py" for name in own if name not in LEFT_OUT]
    return [p.relative_to(ROOT).as_posix() for p in dict.fromkeys(paths) if p.exists()]


@cache
def _numbers() -> dict[str, str]:
    """Of a topic, its chapter's number."""
    text = read("src/linear_time/exercises/__init__.py")
    return {topic: number for number, topic in re.findall(r'"(\d\d)": "(\w+)"', text)}


def is_about(test: str, file: str) -> bool:
    """Whether a test may say something of a file: of checks, where it is of their chapter's."""
    chapter = re.search(r"\[(\d\d)-", test)
    if "/exercises/" not in file or chapter is None:
        return True
    own = _numbers().get(Path(file).stem)
    return chapter[1] in ((own,) if own else SOME)


# --- the process that has collected the tests ----------------------------------------------------


def limited(seconds: float) -> None:
    """In a fork: alone in its group, silent, and ended by its own processor time."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    limit = math.ceil(seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))


def forked(work: Callable[[], Any], seconds: float) -> Any:
    """What ``work`` returns in a fork (by JSON); "timeout" or "crash" where it ends badly."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(out)
            limited(seconds)
            with os.fdopen(into, "w") as stream:
                json.dump(work(), stream)
            status = 0
        finally:
            os._exit(status)
    os.close(into)
    begin, told, ended = time.monotonic(), b"", False
    while not ended and time.monotonic() - begin < 20 * seconds + 60:
        ready, _, _ = select.select([out], [], [], 0.5)
        if ready:
            piece = os.read(out, 1 << 20)
            told, ended = told + piece, not piece
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    os.close(out)
    _, status = os.waitpid(pid, 0)
    try:
        return json.loads(told)
    except json.JSONDecodeError:
        late = not ended or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in (24, 9))
        return "timeout" if late else "crash"


class Outcome:
    """A plugin that remembers which test failed."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    @pytest.hookimpl
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid or "collection")


def run_items(items: Sequence[pytest.Item]) -> str | None:
    """The first of these tests that fails."""
    outcome = Outcome()
    items[0].config.pluginmanager.register(outcome)
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if outcome.failed:
            return outcome.failed[0]
    return None


def traced(items: Sequence[pytest.Item]) -> list[dict[str, Any]]:
    """Tests as they are: do they pass, how long, and which of the project's functions they call."""
    codes: set[types.CodeType] = set()

    def trace(frame: types.FrameType, event: str, argument: Any) -> None:
        codes.add(frame.f_code)

    outcome, rows = Outcome(), []
    items[0].config.pluginmanager.register(outcome)
    for item, following in zip(items, [*items[1:], None], strict=True):
        codes.clear()
        begin = time.process_time()
        sys.settrace(trace)
        threading.settrace(trace)
        try:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
        calls: dict[str, set[str]] = defaultdict(set)
        for code in codes:
            path = code.co_filename.removeprefix(f"{ROOT}/")
            if path.startswith(("src/", "book/", "experiments/")):
                calls[path].add(code.co_qualname.split(".<locals>")[0])
        rows.append(
            {
                "test": item.nodeid,
                "seconds": round(time.process_time() - begin, 3),
                "fails": item.nodeid in outcome.failed,
                "calls": {file: sorted(names) for file, names in calls.items()},
            }
        )
    return rows


def functions() -> list[types.FunctionType]:
    """The functions of the project that exist, wrapped or not."""
    found = (thing for thing in gc.get_objects() if isinstance(thing, types.FunctionType))
    return [f for f in found if f.__code__.co_filename.startswith(str(ROOT))]


def swapped(mutant: Mutant, functions: Sequence[types.FunctionType]) -> bool:
    """Give the function its changed code, wherever it is wrapped; False where that is not all."""
    owner, path = owner_of(mutant.file, mutant.start), str(ROOT / mutant.file)
    if owner is None:
        return False
    wanted = {}

    def look(code: types.CodeType) -> None:
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                if constant.co_qualname == owner.name:
                    wanted[constant.co_firstlineno] = constant
                elif owner.name.startswith(constant.co_qualname + "."):
                    look(constant)

    look(compile(mutant.text(), path, "exec", dont_inherit=True))
    # What such a function has made at an import, a check for one, is there and has its own code.
    nested: dict[str, list[types.CodeType]] = defaultdict(list)
    waiting = list(wanted.values())
    while waiting:
        for constant in waiting.pop().co_consts:
            if isinstance(constant, types.CodeType):
                nested[constant.co_qualname].append(constant)
                waiting.append(constant)
    found = False
    for function in functions:
        code = function.__code__
        if code.co_qualname == owner.name and code.co_filename == path:
            near = min(wanted, key=lambda line: abs(line - code.co_firstlineno))
            if len(wanted[near].co_freevars) != len(code.co_freevars):
                return False
            function.__code__ = wanted[near]
            found = True
        elif code.co_qualname in nested and code.co_filename == path:
            at = code.co_firstlineno
            new = min(nested[code.co_qualname], key=lambda c: abs(c.co_firstlineno - at))
            if len(new.co_freevars) == len(code.co_freevars):
                function.__code__ = new
    return found


def copied(mutant: Mutant) -> None:
    """A package with the changed text, where a process that this fork starts looks first."""
    folder = STATE / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "src", folder, copy_function=os.symlink)
    (changed := folder / Path(mutant.file).relative_to("src")).unlink()
    changed.write_text(mutant.text(), encoding="utf8")
    sys.path.insert(0, str(folder))  # which multiprocessing hands on


@contextlib.contextmanager
def read_as(mutant: Mutant) -> Iterator[None]:
    """A file that is imported from now on has the changed text; nothing is written to the disk."""
    from importlib.machinery import SourceFileLoader

    path, text = str(ROOT / mutant.file), mutant.text().encode()
    get_data, get_code = SourceFileLoader.get_data, SourceFileLoader.path_stats

    def data(self: SourceFileLoader, name: str) -> bytes:
        return text if name == path else get_data(self, name)

    def stats(self: SourceFileLoader, name: str) -> Any:
        if name == path:
            raise OSError  # no compiled file is taken for it, and none is written
        return get_code(self, name)

    SourceFileLoader.get_data, SourceFileLoader.path_stats = data, stats  # type: ignore[method-assign]
    yield


class Server:
    """The plugin by which a session of pytest runs no tests but answers questions about them."""

    def __init__(self, questions: int, answers: int) -> None:
        self.questions, self.answers = os.fdopen(questions), os.fdopen(answers, "w")

    @pytest.hookimpl
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        def elsewhere(item: pytest.Item) -> bool:
            names = set(getattr(item, "fixturenames", ()))
            return bool(ELSEWHERE & names) or ("root" in names and item.path.stem == "test_build")

        items[:] = [item for item in items if not elsewhere(item)]

    @pytest.hookimpl
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        known = functions()  # before gc.freeze, after which they are not listed
        gc.freeze()
        self.answer(sorted(items))
        for line in self.questions:
            question = json.loads(line)
            if question["ask"] == "trace":
                asked = [items[test] for test in question["tests"]]
                self.answer(forked(lambda asked=asked: traced(asked), 300))
            else:
                mutant = Mutant(*question["mutant"])
                chosen = [items[test] for test in question["tests"]]

                def work(
                    mutant: Mutant = mutant,
                    chosen: list = chosen,
                    same: bool = question.get("same", False),
                ) -> Any:
                    if mutant.file in STARTED:
                        copied(mutant)
                    with read_as(mutant):
                        loaded = any(
                            getattr(m, "__file__", None) == str(ROOT / mutant.file)
                            for m in list(sys.modules.values())
                        )
                        if loaded and not same and not swapped(mutant, known):
                            return {"again": True}
                        return {"by": run_items(chosen)}

                self.answer(forked(work, question["seconds"]))
        return True

    def answer(self, value: Any) -> None:
        self.answers.write(json.dumps(value) + "\n")
        self.answers.flush()


class Tests:
    """The tests as the process that has collected them knows them."""

    def __init__(self) -> None:
        to_child, from_us = os.pipe()
        from_child, to_us = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(from_us), os.close(from_child)
            nothing = os.open(os.devnull, os.O_RDWR)
            log = os.open(STATE / "collected.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(nothing, 0), os.dup2(log, 1), os.dup2(log, 2)
            pytest.main(arguments(), plugins=[Server(to_child, to_us)])
            os._exit(0)
        os.close(to_child), os.close(to_us)
        self.into, self.out = os.fdopen(from_us, "w"), os.fdopen(from_child)
        line = self.out.readline()
        if not line:
            raise RuntimeError(f"the tests were not collected: see {STATE / 'collected.log'}")
        self.items: list[str] = json.loads(line)
        self.known: dict[str, dict] = {}
        self.kept = STATE / "tests.jsonl"
        self.sums: dict[str, str] = {}
        if self.kept.exists():
            for row in map(json.loads, self.kept.read_text(encoding="utf8").splitlines()):
                if row["sum"] == self.sum(row["test"]):
                    self.known[row["test"]] = row

    def sum(self, test: str) -> str:
        file = test.split("::")[0]
        if file not in self.sums:
            path = ROOT / file
            text = path.read_bytes() if path.exists() else b""
            self.sums[file] = hashlib.sha1(text).hexdigest()[:12]
        return self.sums[file]

    def ask(self, **question: Any) -> Any:
        self.into.write(json.dumps(question) + "\n")
        self.into.flush()
        line = self.out.readline()
        if not line:
            raise RuntimeError("the process that has collected the tests is gone")
        return json.loads(line)

    def about(self, files: Sequence[str], of: str) -> list[dict]:
        """Do the tests of files pass as they are, how long, what do they call? Asked once."""
        tests = [t for t in self.items if t.split("::")[0] in files and is_about(t, of)]
        # Of a chapter's checks its tests are known by their names: tracing them takes minutes.
        named = [t for t in tests if "/exercises/" in of and re.search(r"\[\d\d-", t)]
        tests = [t for t in tests if t not in named]
        named = [t for t in named if "-train]" not in t]  # which take longer than SLOW
        for file in files:
            new = [t for t in tests if t.split("::")[0] == file and t not in self.known]
            rows = self.ask(ask="trace", tests=new) if new else []
            if not isinstance(rows, list):  # one does not end, or ends all: one by one
                rows = []
                for test in new:
                    one = self.ask(ask="trace", tests=[test])
                    none = {"test": test, "seconds": 1e9, "fails": True, "calls": {}}
                    rows += one if isinstance(one, list) else [none]
            for row in rows:
                row["sum"] = self.sum(row["test"])
                self.known[row["test"]] = row
                with self.kept.open("a", encoding="utf8") as stream:
                    stream.write(json.dumps(row) + "\n")
        rest = [{"test": t, "seconds": 1.0, "fails": False, "calls": None} for t in named]
        return [self.known[test] for test in tests] + rest

    def calling(self, mutant: Mutant, of: Sequence[str]) -> list[dict]:
        """The tests in these files that call what is changed, the fastest first."""
        owner = owner_of(mutant.file, mutant.start)
        rows = [r for r in self.about(of, mutant.file) if not r["fails"] and r["seconds"] < SLOW]
        own = f"tests/test_{Path(mutant.file).stem}.py::"
        if mutant.file in STARTED:  # what these call, they call elsewhere
            return [row for row in rows if row["test"].startswith("tests/test_distributed.py::")]
        reader, names = READERS.get(mutant.file, ("", set()))
        calls = [
            row
            for row in rows
            if row["calls"] is None
            or (owner is None and row["test"].startswith(own))  # a constant is not called
            or names & set(row["calls"].get(reader, ()))
            or (
                mutant.file in row["calls"]
                and (owner is None or owner.name in row["calls"][mutant.file])
            )
        ]
        return sorted(calls, key=lambda r: ("verdicts" not in r["test"], r["seconds"]))

    def seconds(self, test: str) -> float:
        return self.known[test]["seconds"] if test in self.known else 1.0

    def end(self) -> None:
        self.into.close()
        os.waitpid(self.pid, 0)


def arguments() -> list[str]:
    """Of pytest: all tests of the package and the tools that need no browser, GPU or site."""
    left = [f"--ignore={ROOT}/tests/test_{name}.py" for name in LEFT_OUT]
    return ["-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}", str(ROOT / "tests"), *left]


def anew(mutant: Mutant, tests: Sequence[str], seconds: float) -> Any:
    """As the server, in a fork that has not imported the package: for what is read at import."""

    def work() -> Any:
        outcome = Outcome()
        options = ["-q", "-x", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
        with read_as(mutant):
            code = pytest.main([*options, *tests], plugins=[outcome])
        if outcome.failed:
            return {"by": outcome.failed[0]}
        return {"by": None if code == 0 else f"pytest ended with {int(code)}"}

    return forked(work, seconds)


# --- a round -------------------------------------------------------------------------------------


def sound(tests: Tests, file: str, chosen: Sequence[str], failed: str, kept: dict) -> bool:
    """Whether a test that failed passes, after those before it, on the unchanged code."""
    if failed not in chosen:
        return True
    if (file, failed) not in kept:
        before = list(chosen[: chosen.index(failed) + 1])
        seconds = 6 * sum(tests.seconds(test) for test in before) + 60
        same = Mutant(file, 0, 0, "", "none")
        answer = tests.ask(ask="mutant", mutant=same, tests=before, seconds=seconds, same=True)
        kept[file, failed] = isinstance(answer, dict) and answer["by"] is None
        if not kept[file, failed]:
            print(f"left out, it fails on the unchanged code beside others: {failed}", flush=True)
    return kept[file, failed]


def judged(mutant: Mutant, tests: Tests, kept: dict) -> dict[str, Any]:
    """What becomes of a mutant."""
    own = tests_of(mutant.file)
    wider = [f"tests/test_{name}.py" for name in WIDER] if mutant.file.startswith("src") else []
    for stage in (own, wider):
        rows = tests.calling(mutant, stage)
        chosen = [row["test"] for row in rows if kept.get((mutant.file, row["test"]), True)]
        while chosen:
            answer = asked(mutant, tests, chosen, kept)
            if answer in ("timeout", "crash"):
                return {"killed": True, "by": answer}
            if "by" not in answer:
                return {"killed": None, "by": "its tests do not pass anew"}
            if not answer["by"]:
                break
            if sound(tests, mutant.file, chosen, answer["by"], kept):
                return {"killed": True, "by": answer["by"]}
            chosen.remove(answer["by"])
    return {"killed": False, "by": None}


def asked(mutant: Mutant, tests: Tests, chosen: Sequence[str], kept: dict) -> Any:
    """The first of the tests to fail, by the collected tests or, if they cannot say, anew."""
    seconds = 4 * sum(tests.seconds(test) for test in chosen) + 15
    answer: Any = {"again": True}
    if owner_of(mutant.file, mutant.start) is not None:
        answer = tests.ask(ask="mutant", mutant=mutant, tests=chosen, seconds=seconds)
    if answer != {"again": True}:
        return answer
    if (mutant.file, "anew") not in kept:
        same = anew(mutant._replace(start=0, stop=0, new=""), chosen[:8], 300)
        kept[mutant.file, "anew"] = isinstance(same, dict) and same["by"] is None
    return anew(mutant, chosen, seconds + 60) if kept[mutant.file, "anew"] else {}


def judgements() -> list[dict]:
    """All that was judged, in order."""
    path = STATE / "results.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]  # a kill may cut the last


def results() -> dict[str, dict]:
    """What is known of mutants, by key; the last word counts."""
    return {row["key"]: row for row in judgements()}


def unseen() -> list[dict]:
    """Of the mutants of another seed than the first what was judged first, before any test came."""
    firsts: dict[str, dict] = {}
    for row in judgements():
        if row.get("seed"):
            firsts.setdefault(row["key"], row)
    return [row for row in firsts.values() if row["killed"] is not None]


def chosen_files(options: argparse.Namespace) -> list[str]:
    found = files(options.paths, options.changed)
    return [f for f in found if options.area in (None, area(f))]


def planned(options: argparse.Namespace) -> Iterator[Mutant]:
    """By hand first; then of every file one, then another of every file, and so on."""
    chosen = chosen_files(options)
    lines = {f: changed_lines(options.changed, f) for f in chosen} if options.changed else {}

    def asked(mutant: Mutant) -> bool:
        return not lines or mutant.shown()[0] in lines[mutant.file]

    hand = [m for m in by_hand() if m.file in chosen and asked(m)]
    # What is read anew at an import takes a minute: it waits for the rest.
    if not options.seed:
        yield from sorted(hand, key=lambda m: owner_of(m.file, m.start) is None)
    drawn = [by_tool(f, options.sample, options.seed) for f in chosen if tests_of(f)]
    drawn = [[m for m in own if asked(m)] for own in drawn]
    if options.seed:  # a part of it is of any files, and not of the first by name
        random.Random(options.seed).shuffle(drawn)
    for i in range(max(map(len, drawn), default=0)):
        yield from (own[i] for own in drawn if i < len(own))


def alive(options: argparse.Namespace) -> Iterator[tuple[str, Mutant]]:
    """What lived in earlier rounds, where its line still stands once, whatever the sample is."""
    chosen = chosen_files(options)
    for key, row in results().items():
        if row["killed"] or row["kind"] == "hand" or row["file"] not in chosen:
            continue
        at, places = 0, []
        for line in read(row["file"]).splitlines(keepends=True):
            if squeeze(line) == row["old"]:
                start = at + len(line) - len(line.lstrip())
                places.append((start, at + len(line.rstrip())))
            at += len(line)
        if len(places) == 1:
            mutant = Mutant(row["file"], *places[0], row["new"], row["kind"])
            if mutant.parses():
                yield key, mutant


def run(options: argparse.Namespace) -> int:
    """A round; 1 where a mutant written by hand is no longer in the code."""
    begin = time.monotonic()
    STATE.mkdir(parents=True, exist_ok=True)
    try:
        by_hand()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    before = results()
    for name in SHARED:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    print(f"{len(before)} mutants judged before", flush=True)
    tests = Tests()
    print(f"{len(tests.items)} tests collected", flush=True)
    count: Counter[str] = Counter()
    kept: dict = {}
    asked_again = alive(options) if options.again else ()
    drawn = ((m.key(), m) for m in planned(options))
    if options.seed:  # what another seed has drawn is not new
        own = (k for k in drawn if before.get(k[0], {"seed": options.seed}).get("seed"))
        drawn = itertools.islice(own, options.count)
    for key, mutant in itertools.chain(asked_again, drawn):
        if key in before and not (options.again and not before[key]["killed"]):
            continue
        if options.seconds and time.monotonic() - begin > options.seconds:
            print("the time is over; what is left is done by the same command")
            break
        at = time.monotonic()
        result = judged(mutant, tests, kept)
        line, old, new = mutant.shown()
        row = {"key": key, "file": mutant.file, "line": line, "kind": mutant.kind}
        row |= {"why": mutant.why, "old": old, "new": new, **result}
        seed = options.seed or before.get(key, {}).get("seed")
        row |= {"seed": seed} if seed else {}
        row["seconds"] = round(time.monotonic() - at, 1)
        with (STATE / "results.jsonl").open("a", encoding="utf8") as stream:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        count[{True: "killed", False: "lives", None: "not judged"}[result["killed"]]] += 1
        if result["killed"] is False:
            print(f"lives: {mutant.file}:{line}: {old}  →  {new}", flush=True)
    tests.end()
    print(dict(count), f"{time.monotonic() - begin:.0f} s")
    return 0


# --- the report ----------------------------------------------------------------------------------


def area(file: str) -> str:
    return next((name for start, name in AREAS.items() if file.startswith(start)), "experiments")


def interval(killed: int, of: int) -> str:
    """Wilson's 95 % for the share killed."""
    z, p = 1.96, killed / of
    middle = (p + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return f"{100 * (middle - half):.0f} to {100 * min(1, middle + half):.0f} %"


def is_kernel(row: dict[str, Any]) -> bool:
    """Whether a row of an earlier round is of a kernel, which is not asked of any more."""
    lines = read(row["file"]).splitlines()
    at = next((i for i, line in enumerate(lines) if squeeze(line) == row["old"]), None)
    if at is None or "triton.jit" not in read(row["file"]):
        return False
    owner = owner_of(row["file"], _place(row["file"], at + 1, 0) + len(lines[at]) - 1)
    return owner is not None and any(low <= owner.low < high for low, high in unasked(row["file"]))


def write_report() -> int:
    """``tests/MUTANTS.md``: the score by area and by module, and what lives, with a reason."""
    from mutants import explained  # type: ignore[import-not-found]

    now = {m.key(): m for m in by_hand()}
    rows = []
    for key, row in results().items():
        if row["killed"] is None or any(word in row["kind"] for word in UNASKED):
            continue
        if row["kind"] == "hand":
            if key not in now:
                continue
            row["line"] = now[key].shown()[0]
        elif row["file"] not in files([row["file"]], None):
            continue
        elif row["old"] not in squeeze(read(row["file"])) or is_kernel(row):
            continue  # the line is no longer there, or is a GPU's
        rows.append(row)
    lines = [HEAD]
    lines += TABLE
    by_area: dict[str, list[dict]] = defaultdict(list)
    by_file: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        by_area[area(row["file"])].append(row)
        by_file[row["file"]].append(row)

    def cells(name: str, own: list[dict]) -> str:
        tool = [row for row in own if row["kind"] != "hand"]
        hand = [row for row in own if row["kind"] == "hand"]
        killed = sum(row["killed"] for row in tool)
        share = f"{100 * killed / len(tool):.0f} %" if tool else ""
        wide = interval(killed, len(tool)) if tool else ""
        known = sum(not row["killed"] and explained.reason(row) is not None for row in tool)
        by = sum(row["killed"] for row in hand)
        last = f"{len(hand)} | {by if hand else ''} |"
        return f"| {name} | {len(tool)} | {share} | {wide} | {known or ''} | {last}"

    for name in ("library", "checks", "tools", "experiments"):
        if by_area[name]:
            lines.append(cells(f"**{name}**", by_area[name]))
    if fresh := unseen():
        lines += ["", "## Samples that no test had seen", "", FRESH]
        lines += [
            "| | seed | mutants | killed | 95 % | lived | killed since |",
            "|---|--:|--:|--:|---|--:|--:|",
        ]
        now_known = results()
        by_seed: dict[tuple[str, int], list[dict]] = defaultdict(list)
        for row in fresh:
            by_seed[area(row["file"]), row["seed"]].append(row)
        for name in ("library", "checks", "tools", "experiments"):
            seeds = [seed for of, seed in by_seed if of == name]
            for seed in seeds:  # in the order of their rounds
                own = by_seed[name, seed]
                dead = sum(row["killed"] for row in own)
                later = sum(now_known[r["key"]]["killed"] and not r["killed"] for r in own)
                share = f"{100 * dead / len(own):.0f} % | {interval(dead, len(own))}"
                shown = f"**{name}**" if seed == seeds[-1] else name
                cells_of = f"{seed} | {len(own)} | {share} | {len(own) - dead} | {later}"
                lines.append(f"| {shown} | {cells_of} |")
    lines += ["", "## By file", "", *TABLE]
    lines += [cells(f"`{file}`", own) for file, own in sorted(by_file.items())]
    lines += ["", "## What lives", ""]
    for file, own in sorted(by_file.items()):
        alive = [row for row in own if not row["killed"]]
        if alive:
            lines += [f"### `{file}`", ""]
        for row in sorted(alive, key=lambda row: row["line"]):
            reason = explained.reason(row)
            says = reason or row["why"] or "no test yet"
            lines.append(f"- line {row['line']}: `{row['old']}` → `{row['new']}`: {says}")
        if alive:
            lines.append("")
    REPORT.write_text("\n".join(lines).rstrip() + "\n", encoding="utf8")
    print(REPORT.relative_to(ROOT))
    return 0


TABLE = (
    "| | mutants | killed | 95 % | live, explained | by hand | killed |",
    "|---|--:|--:|---|--:|--:|--:|",
)
FRESH = """Drawn by other seeds from all files that have tests, as many of each, and judged once:
what came of a mutant first stands here, before any test was written for what lived. The last seed
of an area (in bold) is its measure. Those before it were practice: tests of their kinds were
written for what lived, so that the next sample is of the tests as they are now. (Of the
experiments' first 38 the last 12 were judged when tests for the first 26 had come: 9 of them died.
Of the tools seeds 1 and 2 were judged before the work on their tests, 3 to 6 in the course of it,
and 8 behind it, while code and tests stood still. From seed 4 on the files `kept.py` and `cards.py`
are asked, too, which had no tests in a process of pytest's before. Of the experiments seeds 7 and
11 were judged in the course of the work on their tests, and 23 behind it, on tests at rest.)
"""
HEAD = """# What the tests see

`make mutants` changes the code in one place, and asks the tests whether they notice
(`tests/mutate.py` says how). This page is written by `python tests/mutate.py report` from the last
rounds: seeded samples of the tool's mutants of each file, and the mutants written by hand
(`tests/mutants/`). A mutant counts as killed where a test fails, or does not end. One is judged by
the tests of its module that call the changed function, then by the contract's and the cost's, none
of which take longer than 12 seconds; browsers, GPUs, the built site, most other processes and the
notebooks are not asked, so the shares are lower bounds. What cannot be told from the code as it is
counts as alive, and is explained: *the same for every input* (equivalent), *looked at* (a picture's
sizes), *a margin of time*, *asked of in a browser*, *on a GPU*, *on the built site* or *in another
process*. Kernels of a GPU are not drawn, nor are annotations and docstrings. What has left the code
leaves the table.

Three things have to be known to read the first table. What lived of its first sample was looked at,
tests were written, and it was asked again: its shares are of a sample that the tests have seen, and
say what was mended. How much the tests see of what nobody has looked at says the second table, of
another seed, by the first verdict. And as many mutants are drawn of a short file as of a long one,
a third of the library's of code that draws pictures. Of the experiments, what no record says is
held to what it was (`tests/recipes.json`): that sees that a recipe changes, not that it was right.

The rounds had what two busy cores left over, on Python 3.11 alone: a file that is not in the table
has not been asked yet, and the same command goes on. Of what lived, the finished run of
`training.py` got its test after it was asked last.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    rounds = commands.add_parser("run", help="judge mutants")
    rounds.add_argument("paths", nargs="*", help="files or folders of src, book, experiments")
    rounds.add_argument("--changed", help="only lines that differ from this commit")
    rounds.add_argument("--sample", type=int, default=10, help="of the tool's, a file")
    rounds.add_argument("--area", choices=("library", "checks", "tools", "experiments"))
    rounds.add_argument("--seed", type=int, default=0, help="another one draws what is new")
    rounds.add_argument("--count", type=int, help="of a new seed: so many in all")
    rounds.add_argument("--seconds", type=float, help="time to stop after")
    rounds.add_argument("--again", action="store_true", help="ask again about those that lived")
    commands.add_parser("report", help="write tests/MUTANTS.md")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    os.chdir(ROOT)
    return run(options) if options.command == "run" else write_report()


if __name__ == "__main__":
    sys.exit(main())
