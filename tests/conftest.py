"""What tests share: one thread, repeatable hypothesis, the switch of the shape check, a browser."""

import ast
import gc
import hashlib
import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import settings
from jaxtyping import _import_hook as hook
from playwright.sync_api import Browser, sync_playwright

import browser
import remembered

# Many small operations: a second thread only adds waiting. ``everywhere.py`` asks for two.
torch.set_num_threads(int(os.environ.get("LINEAR_TIME_THREADS", "1")))

settings.register_profile("linear_time", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("linear_time")


class OfWhatHasTypes(hook.JaxtypingTransformer):
    """The runtime check of shapes where there is one: a function without types is left alone.

    jaxtyping wraps that, too, which finds nothing and makes each call slow; for one inside of
    another it compiles a wrapper whenever the outer one is called. Triton compiles a kernel by
    the names of its module, which those of a wrapper are not.
    """

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        given = node.args
        named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        typed = node.returns or any(argument and argument.annotation for argument in named)
        if typed and "triton.jit" not in "".join(map(ast.unparse, node.decorator_list)):
            return super().visit_FunctionDef(node)
        self._parents.append(node)
        self.generic_visit(node)
        self._parents.pop()
        return node


theirs = hook._optimized_cache_from_source
AS_HERE = hashlib.md5(Path(__file__).read_bytes()).hexdigest()


def compiled(kind: str, path: str, debug: bool | None = None) -> str:
    """Where Python keeps what was compiled so: by jaxtyping's own number, and by this file's text.

    What another release wrapped, or another class above, is not read again.
    """
    return theirs(kind + AS_HERE, path, debug)


# ``test_jaxtyping.py`` sees it where a release of jaxtyping looks for neither, or checks less.
hook.JaxtypingTransformer, hook._optimized_cache_from_source = OfWhatHasTypes, compiled
jaxtyping.jaxtyped = remembered.remembering


#: Of several processes, which take file by file, none should begin one of these last.
LONGEST = ("exercises", "contract", "build", "drawing", "verdicts", "assignments", "alone")
LONGEST += ("paper_tables", "kills", "experiment_networks", "experiment_jobs", "notebooks")
LONGEST += ("scan", "selective", "grade", "mixer", "mamba")


@pytest.hookimpl
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first."""
    order = {f"test_{name}": at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected is not looked through for garbage: a third of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Tests marked bad_input meet the library's own message, so the runtime shape check is off."""
    before = jaxtyping.config.jaxtyping_disable
    if item.get_closest_marker("bad_input"):
        jaxtyping.config.update("jaxtyping_disable", True)
    try:
        return (yield)
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="session", autouse=True)
def what_is_collected_stays() -> None:
    """Ten thousand tests are no garbage: to look through them takes a second each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # what a test leaves is mostly freed with its last name


@pytest.fixture(autouse=True)
def checks_stay_on() -> Iterator[None]:
    """A test that leaves the searches of values off would hide what later tests look for."""
    yield
    from linear_time import checks  # not before: the runtime check of shapes hooks the first import

    left_on, checks._on = checks._on, True
    assert left_on, "the test left linear_time.checks(values=False) behind"


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """An experiment's script takes a GPU where there is one; what a test puts into it does not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A browser; without one its checks are skipped, loudly, and fail under CI=true."""
    program = browser.find()
    if program is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(browser.MISSING)
    with sync_playwright() as playwright:
        # A sandbox cannot be made by root or inside most containers; the pages are the book's own.
        chrome = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chrome
        chrome.close()


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the contract's table: which layer has which property (``test_contract.py``)."""
    from contract import CASES  # not before: the runtime check of shapes hooks the first import

    words: dict[str, dict[str, str]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            test = re.search(r"test_contract\.py::test_(\w+)\[(.*)\]$", report.nodeid)
            if test is None or report.when != "call":
                continue
            column, parameters = test.groups()
            layer = max((n for n in CASES if parameters.endswith(n)), key=len, default=parameters)
            entered = dict(report.user_properties).get("contract", "")
            word = "FAILED" if outcome == "failed" else entered
            row = words.setdefault(layer, {})
            row[column] = row[column] if row.get(column) == "FAILED" else word
    if not words:
        return
    columns = sorted({column for row in words.values() for column in row})
    terminalreporter.section("the contract of a layer")
    for number, column in enumerate(columns, 1):
        terminalreporter.write_line(f"{number:>3} {column.replace('_', ' ')}")
    signs = {"yes": "+", "refused": "r", "FAILED": "F", "": "."}
    width = max(map(len, words))
    head = "".join(f"{number:>3}" for number in range(1, len(columns) + 1))
    terminalreporter.write_line(f"{'':{width}}{head}")
    for layer in (*(name for name in CASES if name in words), *sorted(words.keys() - CASES)):
        line = "".join(f"{signs[words[layer].get(column, '')]:>3}" for column in columns)
        terminalreporter.write_line(f"{layer:{width}}{line}")
    terminalreporter.write_line("+ holds, r refused by a clear error, . does not apply")
