"""nbval of what the build has executed: it compares, it executes nothing twice, and it can fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from book import ROOT

KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def written(path: Path, *cells: tuple[str, str]) -> None:
    """A notebook whose code cells have printed this; each execution adds a line to a file."""
    note = "with open('../runs', 'a') as runs:\n    print('again', file=runs)"
    code = [nbformat.v4.new_code_cell(note, execution_count=1)]
    for count, (source, printed) in enumerate(cells, 2):
        code.append(nbformat.v4.new_code_cell(source, execution_count=count))
        code[-1].outputs = [nbformat.v4.new_output("stream", text=printed)]
    made = nbformat.v4.new_notebook(cells=code, metadata={"kernelspec": KERNEL})
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number}"
    nbformat.write(made, path)


def asked(root: Path, *program: str) -> str:
    done = subprocess.run(
        [sys.executable, *program], cwd=root, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.build
def test_what_was_executed_is_compared(tmp_path: Path) -> None:
    for name in ("tests/executed.py", "tests/book.py", "book/build.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "src" / "linear_time").mkdir(parents=True)
    (tmp_path / "chapters").mkdir()
    (tmp_path / "requirements.txt").touch()
    (tmp_path / "_config.yml").write_text("execute: {timeout: 60}", encoding="utf8")
    (tmp_path / "_toc.yml").write_text("{root: chapters/01-a}", encoding="utf8")
    path, runs = tmp_path / "chapters" / "01-a.ipynb", tmp_path / "runs"
    nbval = ("tests/executed.py", "--nbval", "chapters", "-q", "-p", "no:cacheprovider")
    two = ("for n in (1, 2):\n    print(n)", "1\n2\n"), ("print('x')", "x\n")
    written(path, *two)
    assert "Executed in" in asked(tmp_path, "book/build.py", "--execute-only")

    assert "3 passed" in asked(tmp_path, *nbval)
    written(path, two[0], ("print('x')", "y\n"))  # the same code, and it says something else
    said = asked(tmp_path, *nbval)
    assert "1 failed, 2 passed" in said and "01-a.ipynb::Cell 2" in said
    assert runs.read_text(encoding="utf8").count("again") == 1

    written(path, two[0], ("print('z')", "z\n"))  # other code, which nobody has executed
    assert "3 passed" in asked(tmp_path, *nbval)
    assert runs.read_text(encoding="utf8").count("again") == 2
