"""What the tests of the book share: the chapters, the tools in book/, and cells to execute."""

import copy
import functools
import importlib
import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType

import nbformat

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
#: All notebooks of the book: the chapters, and the pages without a number.
NOTEBOOKS = [*CHAPTERS, *sorted((ROOT / "book").glob("*.ipynb"))]


def load(path: Path) -> ModuleType:
    """Import a Python file that is not in a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


class AtOnce(io.StringIO):
    """In stdout's place: what is printed, and whether a reader of a log sees all of it by now."""

    seen = ""

    def flush(self) -> None:
        self.seen = self.getvalue()

    def all_seen(self) -> bool:
        return bool(self.seen) and self.seen == self.getvalue()


def experiment(name: str) -> ModuleType:
    """A script of ``experiments/``, which imports what stands beside it."""
    folder = str(ROOT / "experiments")
    there = sys.modules.get(name)
    if there is not None and Path(there.__file__ or "").parent != ROOT / "experiments":
        del sys.modules[name]  # a file of the same name that ``load`` has read
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


@functools.cache
def parsed(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def notebook_cells(path: Path) -> list:
    """The cells of a notebook that stays as it is, to do with as one likes."""
    return copy.deepcopy(parsed(path).cells)


def code_cells(path: Path, tag: str | None = None) -> list:
    """The code cells of a notebook, all or those with a tag."""
    cells = [c for c in parsed(path).cells if c.cell_type == "code"]
    return copy.deepcopy([c for c in cells if tag is None or tag in c.metadata.get("tags", [])])
