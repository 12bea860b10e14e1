"""A plugin of pytest's for `make nbval`: what nbval has executed, a build need not execute again.

nbval runs every chapter in a kernel of its own and compares its text with the committed notebook.
Where a whole chapter has passed, the kernel's messages are written out as nbclient would have
done, and put into the build's cache under the digest that stood before the first cell ran. So the
next `make book` finds this chapter executed, if nothing that it depends on has changed since. Its
page then shows the very outputs that nbval compared.

A kernel starts as a build's does: with its variables, which name this checkout's source and nothing
of pytest's, and it counts its cells. But on Linux it is a fork of a Python that has imported
what most chapters import and is not ours: this takes longer than many a chapter.
"""

import copy
import functools
import os
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from jupyter_cache.base import CacheBundleIn
from jupyter_client.provisioning import local_provisioner
from nbclient import NotebookClient
from nbclient.client import CellExecutionComplete
from nbval import kernel
from nbval.plugin import IPyNbCell, IPyNbFile

from book import build, forked

ROOT = Path(__file__).resolve().parent.parent
#: What nbclient starts a kernel with: its history is in no file of the reader's.
KERNEL = ["--HistoryManager.hist_file=:memory:"]
#: matplotlib's in a kernel, which sets it before matplotlib is imported.
BACKEND = "module://matplotlib_inline.backend_inline"
#: What a kernel finds imported, where a chapter names the package. The last but one is imported by
#: the first optimizer, the last by the first model of its package.
IMPORTS = ("matplotlib.pyplot", "sympy", "scipy.signal", "torch._dynamo")
IMPORTS += ("transformers.modeling_utils",)


@functools.cache
def python() -> forked.Preloaded:
    """The Python that kernels are forks of, for as long as pytest runs."""
    text = "".join(path.read_text(encoding="utf8") for path in build.chapters(ROOT))
    modules = [name for name in IMPORTS if name.partition(".")[0] in text]
    # What says that a kernel has a parent is read at its import, and matplotlib's backend as well.
    own = {"JPY_PARENT_PID": str(os.getpid()), "MPLBACKEND": BACKEND}
    return forked.Preloaded("ipykernel.kernelapp", *modules, env={**os.environ, **own})


def start(*given: Any, start: Any = kernel.start_new_kernel, **named: Any) -> Any:
    """A kernel, started as a build's worker does it, but forked."""
    with mock.patch.dict(os.environ):
        for name in [name for name in os.environ if name.startswith("PYTEST_")]:
            del os.environ[name]
        build.see_source(ROOT)
        launch: Any = local_provisioner.launch_kernel
        if sys.platform == "linux":  # on a Mac a process may not go on as a copy
            launch = python().kernel
        with mock.patch.object(local_provisioner, "launch_kernel", launch):
            return start(*given, extra_arguments=KERNEL, **named)


kernel.start_new_kernel = start


class Kept:
    """One chapter while nbval executes it: its outputs as a build would have them."""

    def __init__(self, file: IPyNbFile) -> None:
        self.file, self.path = file, Path(file.path).resolve()
        self.notebook = copy.deepcopy(file.nb)
        self.digest = build.digest(ROOT, self.path, self.notebook)
        self.client = NotebookClient(self.notebook, record_timing=False)
        self.client.reset_execution_trackers()
        cells = enumerate(self.notebook.cells)
        self.waiting = [index for index, cell in cells if cell.cell_type == "code"]
        self.ran, self.seconds = 0, 0.0
        config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf8"))
        self.timeout = config["execute"]["timeout"]
        #: Whether every cell so far was executed, in order, and compared.
        self.passed = True
        self.messages: list[dict[str, Any]] = []
        self.asked = ""
        receive, client = file.get_kernel_message, file.kernel.kc

        def received(*given: Any, **named: Any) -> dict[str, Any]:
            self.messages.append(receive(*given, **named))
            return self.messages[-1]

        def execute(source: str, allow_stdin: bool | None = None) -> str:
            """As nbval does it, but that the kernel counts its cells."""
            self.asked = client.execute(
                source, store_history=True, allow_stdin=allow_stdin, stop_on_error=False
            )
            return self.asked

        file.get_kernel_message, file.kernel.execute_cell_input = received, execute

    def cell_passed(self, number: int, seconds: float) -> None:
        """Write out the messages of the code cell of this number."""
        self.passed &= number == self.ran and seconds < self.timeout
        if not self.passed:
            return
        index = self.waiting.pop(0)
        cell = self.notebook.cells[index]
        cell.outputs = []
        self.client.clear_before_next_output = False
        for message in self.messages:
            if message["parent_header"].get("msg_id") == self.asked:
                try:
                    self.client.process_message(message, cell, index)
                except CellExecutionComplete:
                    break
        self.ran, self.seconds = self.ran + 1, self.seconds + seconds
        if not self.waiting:
            self.lay()

    def lay(self) -> None:
        """Into the cache, as a build's worker does it."""
        if self.path not in build.chapters(ROOT):
            return
        reply = self.file.kernel.kc.kernel_info(reply=True, timeout=60)
        self.notebook.metadata["language_info"] = reply["content"]["language_info"]
        self.client.set_widgets_metadata()
        uri = str(self.path)
        with build.locked(ROOT / "_build") as folder:
            build.cache_of(folder, {uri: self.digest}).cache_notebook_bundle(
                CacheBundleIn(self.notebook, uri, data={"execution_seconds": self.seconds}),
                check_validity=True,
                overwrite=True,
            )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Note what a cell's kernel says, and lay it into the cache after a chapter's last."""
    if not isinstance(item, IPyNbCell):
        return (yield)
    file = item.parent
    if not hasattr(file, "kept"):
        file.kept = Kept(file)
    file.kept.messages.clear()
    started = time.monotonic()
    yield  # one that fails or is skipped is not counted: its chapter is never whole
    file.kept.cell_passed(item.cell_num, time.monotonic() - started)


@pytest.hookimpl
def pytest_unconfigure() -> None:
    if python.cache_info().currsize:
        python().__exit__()
        python.cache_clear()
