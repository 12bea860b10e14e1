"""nbval of what the book's build has printed: `python tests/executed.py --nbval chapters book`.

The build runs every chapter, and so does nbval: in `make test` that was the same work twice. Here a
kernel that only repeats stands in for nbval's. It gives to each cell the outputs that the build has
cached, where the digest of all that they depend on is still that of the checkout; a notebook
without such outputs is executed, as `make nbval` alone executes all.
"""

from __future__ import annotations

import queue
import sys
from typing import Any

import nbformat
import pytest
from nbval import plugin

from book import ROOT, load

build = load(ROOT / "book" / "build.py")


class Repeats:
    """A kernel, as nbval asks one, that knows what every cell of a notebook gives."""

    def __init__(self, executed: nbformat.NotebookNode) -> None:
        self.cells = [cell for cell in executed.cells if cell.cell_type == "code"]
        self.messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.at = 0

    def execute_cell_input(self, source: str, allow_stdin: bool | None = None) -> str:
        """The next cell that was run; nbval leaves those out that it is told to skip."""
        while self.cells[self.at].source != source:
            self.at += 1
        name = str(self.at)
        for output in self.cells[self.at].outputs:
            content = {key: value for key, value in output.items() if key != "output_type"}
            self.say(name, output.output_type, content)
        self.say(name, "status", {"execution_state": "idle"})
        self.at += 1
        return name

    def say(self, name: str, kind: str, content: dict[str, Any]) -> None:
        parent = {"msg_id": name}
        self.messages.put({"msg_type": kind, "parent_header": parent, "content": content})

    def get_message(self, stream: str, timeout: float | None = None) -> dict[str, Any]:
        return self.messages.get(timeout=timeout)

    def await_reply(self, name: str, timeout: float | None = None) -> None:
        """It has replied before it was asked."""

    def await_idle(self, name: str, timeout: float) -> None:
        while self.get_message("iopub", timeout)["msg_type"] != "status":
            pass

    def is_alive(self) -> bool:
        return True

    def stop(self) -> None:
        """Nothing runs."""


starts_a_kernel = plugin.IPyNbFile.setup


def setup(self: plugin.IPyNbFile) -> None:
    """Of a notebook: a kernel that repeats where the build has run it, else one that runs."""
    outputs = cached(self.nb, str(self.path))
    if outputs is None:
        starts_a_kernel(self)
    else:
        self.kernel = Repeats(outputs)
        self.setup_sanitize_files()


def cached(notebook: nbformat.NotebookNode, path: str) -> nbformat.NotebookNode | None:
    """The notebook as the build has run it, if that is of today's checkout."""
    folder = ROOT / "_build" / ".jupyter_cache"
    if not folder.exists():
        return None
    expected = build.digest(ROOT, build.Path(path), notebook)
    cache = build.BookCache(folder, {path: expected})
    try:
        record = cache.match_cache_notebook(notebook)
    except KeyError:
        return None
    return cache.get_cache_bundle(record.pk).nb if cache.is_fresh(record, expected) else None


if __name__ == "__main__":
    plugin.IPyNbFile.setup = setup
    sys.exit(pytest.main(sys.argv[1:]))
