"""book/build.py on a small book in a temporary copy: what runs and is read again, after what."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
import yaml

from book import ROOT, AtOnce, load

build = load(ROOT / "book" / "build.py")
Preloaded = load(ROOT / "book" / "forked.py").Preloaded
notebooks = load(ROOT / "book" / "notebooks.py")
pytestmark = pytest.mark.build

ALPHA = '''"""A module of the small book."""

from linear_time import beta


def answer() -> int:
    """The number that the page shows."""
    return 2 + beta.SHIFT
'''


def notebook(path: Path, title: str, *code: str) -> None:
    cells = [nbformat.v4.new_markdown_cell(f"# {title}\n\nA page of the small book.")]
    cells += [nbformat.v4.new_code_cell(source) for source in code]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the house (configuration, extension, build) with a book of two short chapters."""
    root = tmp_path_factory.mktemp("book")
    shutil.copy(ROOT / "_config.yml", root)
    for folder in ("_ext", "_static", "_templates", "math"):
        shutil.copytree(ROOT / "book" / folder, root / "book" / folder)
    for name in ("build.py", "kept.py", "forked.py", "course.py", "mathematics.py"):
        shutil.copy(ROOT / "book" / name, root / "book")
    (root / "requirements.txt").write_text("torch==2.13.0\n", encoding="utf8")
    (root / "book" / "references.bib").write_text("", encoding="utf8")
    (root / "book" / "preface.md").write_text(
        "# The small book\n\nIt has two chapters.\n", encoding="utf8"
    )
    (root / "book" / "api.md").write_text(
        "# API\n\n```{eval-rst}\n.. automodule:: linear_time.alpha\n   :members:\n```\n",
        encoding="utf8",
    )
    chapters = [{"file": "chapters/01-alpha"}, {"file": "chapters/02-gamma"}, {"file": "book/api"}]
    (root / "_toc.yml").write_text(
        yaml.safe_dump(
            {"format": "jb-book", "root": "book/preface", "chapters": chapters}, sort_keys=False
        ),
        encoding="utf8",
    )
    package = root / "src" / "linear_time"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""The small book\'s package."""\n', encoding="utf8")
    (package / "alpha.py").write_text(ALPHA, encoding="utf8")
    (package / "beta.py").write_text('"""What alpha imports."""\n\nSHIFT = 40\n', encoding="utf8")
    (package / "gamma.py").write_text(
        '"""The other chapter\'s."""\n\nNAME = "gamma"\n', encoding="utf8"
    )
    (root / "chapters").mkdir()
    # RUNS counts executions: a line a run, in a file beside the notebooks.
    note = "with open('../runs', 'a') as runs:\n    print('{}', file=runs)"
    notebook(
        root / "chapters" / "01-alpha.ipynb",
        "01 · Alpha",
        note.format("alpha"),
        "from linear_time import alpha\nprint('the answer is', alpha.answer())",
    )
    notebook(
        root / "chapters" / "02-gamma.ipynb",
        "02 · Gamma",
        note.format("gamma"),
        "from linear_time.gamma import NAME\nprint('the name is', NAME)",
    )
    return root


Run = Callable[..., subprocess.CompletedProcess[str]]


def surroundings() -> dict[str, str]:
    return {n: v for n, v in os.environ.items() if not n.startswith("PYTEST_")} | {
        "COVERAGE_PROCESS_START": ""
    }


def begun(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The build as who types it has it, with all its imports."""
    command = [sys.executable, str(root / "book" / "build.py"), *options]
    return subprocess.run(
        command, capture_output=True, text=True, env=surroundings(), cwd=root, check=False
    )


#: What takes long to import of what a small book's build does.
IMPORTS = ("jupyter_cache.executors.basic", "jupyter_book.sphinx", "sphinx_book_theme")
IMPORTS += ("sphinxcontrib.bibtex", "sphinxext.opengraph", "fontTools.subset")

#: The build, which forks where it would start jupyter-book.
FORKS = """
import multiprocessing, os, runpy, subprocess, sys
from pathlib import Path

started = subprocess.run

def run(command, **named):
    if Path(command[0]).name != "jupyter-book":
        return started(command, **named)
    book = multiprocessing.Process(target=render, args=(command, named["cwd"]))
    book.start()
    book.join()
    return subprocess.CompletedProcess(command, book.exitcode)

def render(command, cwd):
    os.chdir(cwd)
    sys.argv, sys.path[0] = command, str(Path(command[0]).parent)
    sys.path[1:1] = os.environ["PYTHONPATH"].split(os.pathsep)
    runpy.run_path(command[0], run_name="__main__")

subprocess.run = run
sys.argv = sys.argv[1:]
sys.path[0] = str(Path(sys.argv[0]).parent)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The build behind its imports: these take longer than a small book."""
    script = tmp_path_factory.mktemp("program") / "forks.py"
    script.write_text(FORKS, encoding="utf8")
    with Preloaded(*IMPORTS, env=surroundings()) as python:

        def run(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
            program = root / "book" / "build.py"
            return python.run(script, program, *options, cwd=root, env=surroundings())

        yield run


def validated(root: Path, *paths: str) -> subprocess.CompletedProcess[str]:
    """What ``make nbval`` does, in one process."""
    command = [sys.executable, "-m", "pytest", "-p", "book.kept", "--nbval", *paths]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)


def runs(root: Path) -> list[str]:
    file = root / "runs"
    return file.read_text(encoding="utf8").split() if file.exists() else []


def html(root: Path, page: str) -> str:
    return (root / "_build" / "html" / f"{page}.html").read_text(encoding="utf8")


def pickled(root: Path) -> int:
    """When Sphinx last wrote down that it had read pages."""
    return (root / "_build" / ".doctrees" / "environment.pickle").stat().st_mtime_ns


def test_a_build_follows_the_source(root: Path, run: Run) -> None:
    first = begun(root)
    assert first.returncode == 0, first.stdout + first.stderr
    assert sorted(runs(root)) == ["alpha", "gamma"], first.stdout + first.stderr
    assert "the answer is 42" in html(root, "chapters/01-alpha")
    assert "The number that the page shows" in html(root, "book/api")

    # Nothing that a page shows changed: nothing runs, and nothing is read.
    before = pickled(root)
    (root / "notes").write_text("of no page", encoding="utf8")
    again = run(root)
    assert again.returncode == 0 and "Rendered" in again.stdout
    assert sorted(runs(root)) == ["alpha", "gamma"]
    assert pickled(root) == before

    # Nothing changed at all: nothing is rendered, and it is quick.
    started = resource.getrusage(resource.RUSAGE_CHILDREN)
    third = begun(root)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)  # processor time: others may compute too
    spent = ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime
    assert third.returncode == 0 and spent < 5
    assert "Rendering" not in third.stdout and "the site is as it was" in third.stdout
    assert (root / "_build" / "html" / "index.html").as_uri() in third.stdout

    # A module that the chapter's module imports: that chapter alone runs again, and its page
    # shows the new output. A docstring shows on the page of the API.
    (root / "src" / "linear_time" / "beta.py").write_text(
        '"""What alpha imports."""\n\nSHIFT = 41\n', encoding="utf8"
    )
    (root / "src" / "linear_time" / "alpha.py").write_text(
        ALPHA.replace("The number that", "The count which"), encoding="utf8"
    )
    assert run(root).returncode == 0
    assert sorted(runs(root)) == ["alpha", "alpha", "gamma"]
    assert "the answer is 43" in html(root, "chapters/01-alpha")
    assert "the name is gamma" in html(root, "chapters/02-gamma")
    assert "The count which the page shows" in html(root, "book/api")


def test_a_warning_fails_the_build_until_it_is_mended(root: Path, run: Run) -> None:
    page = root / "book" / "preface.md"
    text = page.read_text(encoding="utf8")
    page.write_text(text + "\nSee {ref}`nowhere`, and $\\nosuch$.\n", encoding="utf8")
    assert run(root).returncode != 0
    again = run(root)  # Sphinx by itself has read the page now, and would say nothing
    assert again.returncode != 0
    said = again.stdout + again.stderr
    assert "nowhere" in said
    assert "mathematics: " in said and "nosuch" in said, "of the process that writes the page"
    page.write_text(text, encoding="utf8")  # the next build is without a warning


def test_a_failing_chapter_fails_the_build(root: Path, run: Run) -> None:
    path = root / "chapters" / "02-gamma.ipynb"
    text = path.read_text(encoding="utf8")
    count = len(runs(root))
    path.write_text(
        text.replace("the name is", "the name was").replace(
            "print('gamma'", "1 / 0  # print('gamma'"
        ),
        encoding="utf8",
    )
    failed = run(root)
    assert failed.returncode != 0
    assert "ZeroDivisionError" in failed.stderr and "02-gamma" in failed.stderr
    path.write_text(text, encoding="utf8")
    assert run(root).returncode == 0
    assert len(runs(root)) <= count + 1


def test_a_killed_build_goes_on(root: Path, run: Run) -> None:
    """Killed while the second chapter runs: the first is kept, and nothing is left running."""
    slow = root / "chapters" / "02-gamma.ipynb"
    text = slow.read_text(encoding="utf8")
    notebook(
        slow,
        "02 · Gamma",
        "import os, time, pathlib\npathlib.Path('../pid').write_text(str(os.getpid()))",
        "while not pathlib.Path('../go').exists():\n    time.sleep(0.1)",
        "print('the slow one is done')",
    )
    alpha = root / "src" / "linear_time" / "alpha.py"
    alpha.write_text(ALPHA.replace("2 + beta.SHIFT", "1001"), encoding="utf8")
    count = runs(root).count("alpha")
    log = root / "log"
    with log.open("w", encoding="utf8") as out:
        process = subprocess.Popen(
            [sys.executable, str(root / "book" / "build.py")], stdout=out, stderr=out, cwd=root
        )
    deadline = time.monotonic() + 600
    while (
        not ("01-alpha:" in log.read_text(encoding="utf8") and (root / "pid").exists())
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    assert "01-alpha:" in log.read_text(encoding="utf8")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kernel = int((root / "pid").read_text(encoding="utf8"))
    while time.monotonic() < deadline:
        try:
            os.kill(kernel, 0)
        except ProcessLookupError:
            break
        if "zombie" in Path(f"/proc/{kernel}/status").read_text(encoding="utf8"):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the killed build left a kernel running")
    (root / "go").touch()
    resumed = run(root)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert runs(root).count("alpha") == count + 1
    assert re.search(r"Executing 1 chapter", resumed.stdout)
    assert "the slow one is done" in html(root, "chapters/02-gamma")
    assert "the answer is 1001" in html(root, "chapters/01-alpha")
    slow.write_text(text, encoding="utf8")


def test_an_edition_without_solutions_has_none_anywhere(root: Path, run: Run) -> None:
    """Pages, their sources, downloads, search: the word of the solution is in none of them."""
    path = root / "chapters" / "02-gamma.ipynb"
    text = path.read_text(encoding="utf8")
    made = nbformat.reads(text, 4)
    solution = nbformat.v4.new_code_cell("quetzalcoatl_solution = 1\nprint('it is quetzalcoatl')")
    solution.metadata["tags"] = ["hide-cell", "solution"]
    rubric = "<details><summary>Rubric</summary>\n\nIt is quetzalcoatl.\n\n</details>"
    prose = nbformat.v4.new_markdown_cell(rubric, metadata={"tags": ["rubric"]})
    made.cells += [solution, prose]
    nbformat.write(made, path)
    done = run(root, "--edition", "without-solutions")
    assert done.returncode == 0, done.stdout + done.stderr
    site = root / "_build" / "without-solutions" / "_build" / "html"
    assert "the name is gamma" in (site / "chapters/02-gamma.html").read_text(encoding="utf8")
    assert (site / "_sources/chapters/02-gamma.ipynb").exists()
    files = [path for path in site.rglob("*") if path.is_file()]
    assert len(files) > 20
    for file in files:
        assert b"quetzalcoatl" not in file.read_bytes().lower(), file
    page = (site / "chapters/02-gamma.html").read_text(encoding="utf8")
    assert "colab.research" not in page and "mybinder" not in page and "/blob/" not in page

    done = run(root)  # the same outputs, and the solution is folded
    assert done.returncode == 0 and "Executing" not in done.stdout
    assert "quetzalcoatl" in html(root, "chapters/02-gamma")
    path.write_text(text, encoding="utf8")


#: Everything that a page can show of a cell: streams broken by a display, a figure, HTML, SVG, an
#: error that is meant, a display that is written over, one that is cleared, words on stderr.
SHOWS = (
    "import sys\nfrom IPython.display import HTML, SVG, clear_output, display\nprint('before')\n"
    "handle = display(HTML('<b>bold</b>'), display_id=True)\nprint('after')",
    "handle.update(HTML('<i>slanted</i>'))\nprint('cleared')\nclear_output()\nprint('left')",
    'SVG(\'<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0"/></svg>\')',
    "import matplotlib.pyplot as plt\n_ = plt.plot([1, 3, 2])",
    "print('a warning', file=sys.stderr)\nsys.stdout.write('no line')",
    "1 / 0",
    "import os\nsorted(v for v in os.environ.items() if v[0].startswith(('PY', 'OMP_')))",
)


def test_what_nbval_has_executed_is_not_executed_again(
    root: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very page of a chapter that the build executes; none of a chapter that did not pass."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cache = root / "_build" / ".jupyter_cache"
    paths = {name: root / "chapters" / f"{name}.ipynb" for name in ("01-alpha", "02-gamma")}
    before = {path: path.read_text(encoding="utf8") for path in paths.values()}
    for name, path in paths.items():
        made = nbformat.reads(before[path], 4)
        if name == "01-alpha":
            made.cells += [nbformat.v4.new_code_cell(source) for source in SHOWS]
            made.cells[-3].metadata["tags"] = ["remove-stderr"]
            made.cells[-2].metadata["tags"] = ["raises-exception"]
        else:  # it ran, and printed something else
            made.cells[-1].execution_count = 2
            made.cells[-1].outputs = [nbformat.v4.new_output("stream", text="the name is beta\n")]
        nbformat.write(made, path)

    def cached() -> dict[str, list]:
        """The cells by chapter; where a kernel breaks its streams is chance."""
        found = {}
        for file in cache.glob("executed/*/base.ipynb"):
            made = nbformat.read(file, nbformat.NO_CONVERT)
            for cell in made.cells:
                cell.outputs = notebooks.merge_streams(cell.outputs)
            name = re.search(r"print\('(\w+)', file", made.cells[0].source)[1]
            found[name] = [made.metadata, made.cells]
        return found

    def ran() -> list[str]:
        """What has run since it was asked last."""
        now = sorted(runs(root))
        (root / "runs").unlink(missing_ok=True)
        return now

    ran()
    shutil.rmtree(cache, ignore_errors=True)
    done = validated(root, "chapters")
    assert done.returncode == 1 and "Cell outputs differ" in done.stdout, done.stdout + done.stderr
    assert "1 failed" in done.stdout and ran() == ["alpha", "gamma"]
    assert set(cached()) == {"alpha"}
    kept = cached()["alpha"]
    first = run(root)
    assert first.returncode == 0, first.stdout + first.stderr
    assert ran() == ["gamma"] and cached()["alpha"] == kept
    page = html(root, "chapters/01-alpha")
    assert "<b>bold</b>" not in page and "&gt;bold&lt;" in page
    for word in ("<i>slanted</i>", "ZeroDivisionError", '.svg"', '.png"'):
        assert word in page, word

    shutil.rmtree(cache)
    assert validated(root, "chapters/01-alpha.ipynb::Cell 0").returncode == 0
    assert ran() == ["alpha"] and not cached(), "half a chapter is none"
    (root / "_build" / ".rendering").touch()  # or Sphinx would read no page again
    again = run(root)
    assert again.returncode == 0, again.stdout + again.stderr
    assert ran() == ["alpha", "gamma"]
    assert cached()["alpha"] == kept
    assert html(root, "chapters/01-alpha") == page
    for path, text in before.items():
        path.write_text(text, encoding="utf8")


# --- without a small book: what is asked of other programs


@pytest.mark.parametrize("edition", ["public", "instructor"])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("code", [0, 1])
def test_a_rendering_that_did_not_end_well_is_begun_anew(
    edition: str, before: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warnings are errors; what was left unfinished is read again, and noted until it ends."""
    (tmp_path / "_build" / ".jupyter_cache").mkdir(parents=True)
    folder = tmp_path / "_build"
    if edition != "public":
        folder = folder / edition / "_build"
        assert build.edition_folder(tmp_path / "_build", edition) == folder
        assert (folder / ".jupyter_cache").samefile(tmp_path / "_build" / ".jupyter_cache")
    unfinished = folder / ".rendering"
    if before:
        unfinished.touch()
    asked = []

    def runs(command: list[str], cwd: Path, stdin: int) -> object:
        assert unfinished.exists() and os.environ["LINEAR_TIME_EDITION"] == edition
        asked.append((command, cwd, stdin))
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(build.subprocess, "run", runs)
    monkeypatch.setenv("LINEAR_TIME_EDITION", "")
    edition = "".join(list(edition))  # as a command's argument is: no name in the code
    assert build.render(tmp_path, tmp_path / "_build", edition) is (code == 0)
    assert unfinished.exists() == (code != 0)
    ((command, cwd, stdin),) = asked
    assert command[1:6] == ["build", str(tmp_path), "-W", "--keep-going", "-q"]
    assert Path(command[0]).name == "jupyter-book" and cwd == tmp_path
    assert stdin == subprocess.DEVNULL
    assert ("--all" in command) == before
    output = ["--path-output", str(folder.parent)] if edition != "public" else []
    assert [part for part in command[6:] if part != "--all"] == output


class Small:
    """What ``main`` calls, noted, with a book that has what it is given."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.calls = root, []
        self.says = {"execute": True, "render": True}
        (root / "book").mkdir()
        (root / "_config.yml").write_text("execute: {timeout: 77}", encoding="utf8")
        for name in self.says:
            patch.setattr(build, name, self.noted(name))
        for name in ("cards", "slides"):
            made = types.ModuleType(name)
            made.build = self.noted(name)  # type: ignore[attr-defined]
            made.chromium = lambda: None  # type: ignore[attr-defined]
            patch.setitem(sys.modules, name, made)
        told = types.ModuleType("status")
        told.tell = self.noted("status")  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "status", told)
        patch.setattr(build.fcntl, "flock", lambda lock, how: self.calls.append(("lock", how)))
        patch.setenv("PYTHONPATH", "before")
        self.patch = patch

    def noted(self, name: str) -> object:
        def call(*given: object) -> bool | None:
            self.calls.append((name, *given))
            if self.says.get(name) == "fails":
                raise ValueError("no such part")
            return self.says.get(name)

        return call

    def run(self, *options: str) -> int:
        self.patch.setattr(sys, "argv", ["build.py", "--root", str(self.root), *options])
        return build.main()

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    return Small(tmp_path, monkeypatch)


@pytest.mark.parametrize("edition", ["public", "without-solutions"])
@pytest.mark.parametrize(
    "parts", [(), ("slides",), ("cards",), ("cards", "slides"), ("cards", "status")]
)
def test_cards_and_slides_are_made_where_a_book_has_them(
    small: Small, edition: str, parts: tuple[str, ...]
) -> None:
    for name in {"cards", "status"} & set(parts):
        (small.root / "book" / f"{name}.py").touch()
    if "slides" in parts:
        (small.root / "book" / "slides").mkdir()
    assert small.run("--edition", edition) == 0
    made = small.root / "_build"
    site = made / ("" if edition == "public" else f"{edition}/_build") / "html"
    assert small.names() == ["lock", "execute", "render", *parts]
    assert small.calls[1:3] == [
        ("execute", small.root, made, 77), ("render", small.root, made, edition),
    ]  # fmt: skip
    for name, *given in small.calls[3:]:
        assert given == ([small.root, site] if name == "status" else [site])
    assert os.environ["PYTHONPATH"] == f"{small.root / 'src'}{os.pathsep}before"


@pytest.mark.parametrize(
    ("options", "says", "code", "last"),
    [
        ((), {"execute": False}, 1, "execute"),
        (("--execute-only",), {}, 0, "execute"),
        ((), {"render": False}, 1, "render"),
        ((), {"slides": "fails"}, 1, "slides"),
    ],
)
def test_a_build_ends_where_a_step_fails(
    small: Small, options: tuple[str, ...], says: dict, code: int, last: str
) -> None:
    (small.root / "book" / "slides").mkdir()
    small.says |= says
    assert small.run(*options) == code
    assert small.names()[-1] == last


@pytest.mark.parametrize("ends", ["render", "slides", "kill", None])
def test_a_site_is_rendered_again_until_it_was_made_to_the_end(
    small: Small, ends: str | None, capsys
) -> None:
    """And then it is left as it is; what tests said since is written into it nevertheless."""
    (small.root / "book" / "slides").mkdir()
    (small.root / "book" / "status.py").touch()
    site = small.root / "_build" / "html"

    def rendered(*given: object) -> bool:
        small.calls.append(("render", *given))
        (site.parent / ".rendering").touch()
        site.mkdir(exist_ok=True)
        (site / "index.html").write_text("page", encoding="utf8")
        if small.says["render"] == "kill":
            raise KeyboardInterrupt
        (site.parent / ".rendering").unlink()
        return small.says["render"]

    small.patch.setattr(build, "render", rendered)
    assert small.run() == 0
    page = small.root / "page.md"
    page.write_text("changed", encoding="utf8")
    if ends == "kill":
        small.says["render"] = "kill"
        with pytest.raises(KeyboardInterrupt):
            small.run()
    elif ends:
        small.says[ends] = False if ends == "render" else "fails"
        assert small.run() == 1
    if ends:
        page.unlink()  # all is as it was before: the site is not known to be
    small.says |= {"render": True, "slides": True}
    capsys.readouterr()
    for again in (True, False, False):
        small.calls.clear()
        assert small.run() == 0
        made = ["render", "slides"] if again else []
        assert small.names() == ["lock", "execute", *made, "status"]
        said = "Nothing that a page is made of has changed: the site is as it was\n"
        assert (said in capsys.readouterr().out) is not again


class Site:
    """A checkout that was rendered, as files: of what, and into what."""

    def __init__(self, root: Path) -> None:
        self.root, self.build = root, root / "_build"
        self.write("_build/.jupyter_cache/executed/one/base.ipynb", "the outputs")
        for name in (
            *("_toc.yml", "_config.yml", "requirements.txt", "CHANGELOG.md", "book/page.md"),
            *("chapters/01-a.ipynb", "book/course.py", "book/_ext/own.py", "book/slides/01.md"),
            *("book/_static/own.css", "book/_templates/foot.html", "src/linear_time/a.py"),
            *("src/linear_time/recorded/a.json", "tests/exercises/a.py", "book/references.bib"),
        ):
            self.write(name, "text")
        for name in ("index.html", "chapters/01-a.html", "_images/a.webp", "_static/a.css"):
            self.write(f"_build/html/{name}", "made")
        for name in ("slides/01.html", "_static/cards/a.png"):
            self.write(f"_build/html/{name}", "made")

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf8")
        return path

    def inputs(self, edition: str = "public") -> str:
        return build.inputs(self.root, self.build, edition)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(build, "cache_of", lambda folder, digests: Records)
    Records.there = [Records.one()]
    (tmp_path / "packages").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages"), ""])
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return Site(tmp_path / "checkout")


class Records:
    """In the place of the cache's list of what was executed."""

    there: list = []  # noqa: RUF012

    @staticmethod
    def one(**other: object) -> object:
        given = {"uri": "a.ipynb", "hashkey": "one", "created": 7, "data": {"digest": "d"}}
        return types.SimpleNamespace(**given | other)

    @staticmethod
    def list_cache_records() -> list:
        return Records.there


def test_what_a_page_may_show_is_seen(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever file of the checkout changes, comes, goes or has another name."""
    before = site.inputs()
    assert site.inputs() == before
    assert {site.inputs(e) for e in ("public", "without-solutions", "instructor")} > {before}
    assert len({site.inputs(e) for e in ("public", "without-solutions", "instructor")}) == 3
    paths = [
        path
        for path in site.root.rglob("*")
        if path.is_file() and path.relative_to(site.root).parts[:2] != ("_build", "html")
    ]
    assert len(paths) == 16
    for path in paths:
        path.write_text("text of another kind", encoding="utf8")
        assert site.inputs() != before, path
        path.unlink()
        assert site.inputs() != before, path
        path.write_text("the outputs" if "_build" in path.parts else "text", encoding="utf8")
        assert site.inputs() == before, path
        path.rename(path.with_name("other"))
        assert site.inputs() != before, path
        path.with_name("other").rename(path)
        (path.parent / "new").touch()
        assert site.inputs() != before, path.parent
        (path.parent / "new").unlink()
    for name in ("_build/logs/unit.log", "_build/html/new.html", ".cache/a", "src/__pycache__/a"):
        site.write(name, "of no page")
        assert site.inputs() == before, name
    for other in ({"created": 8}, {"data": {"digest": "e"}}, {"uri": "b"}, {"hashkey": "two"}):
        Records.there = [Records.one(**other)]
        assert site.inputs() != before, other
    for there in ([], [Records.one(), Records.one(uri="b")]):
        Records.there = there
        assert site.inputs() != before
    Records.there = [Records.one()]
    (installed := site.root.parent / "packages" / "sphinx-7.4.7.dist-info").mkdir()
    with_package = site.inputs()
    installed.rename(installed.with_name("sphinx-7.4.8.dist-info"))
    assert len({before, with_package, site.inputs()}) == 3
    installed.with_name("sphinx-7.4.8.dist-info").rmdir()
    for change in (
        lambda patch: patch.setenv("SOURCE_DATE_EPOCH", "7"),
        lambda patch: patch.setattr(build.sys, "version", "3.11.99"),
        lambda patch: patch.setattr(build, "commit", lambda root: "another"),
        lambda patch: patch.setattr(build, "browser", lambda root: "another"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            change(patch)
            assert site.inputs() != before
    assert site.inputs() == before


def test_the_commit_and_the_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build.commit(tmp_path).strip() == ""
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "a"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    head, shallow = build.commit(tmp_path).split()
    assert re.fullmatch("[0-9a-f]{40}", head) and shallow == "false"
    monkeypatch.setenv("PATH", "")
    assert build.commit(tmp_path) == ""
    monkeypatch.setitem(sys.modules, "cards", types.SimpleNamespace(chromium=lambda: "/a/chrome"))
    assert build.browser(tmp_path) is None
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "cards.py").touch()
    assert build.browser(tmp_path) == "/a/chrome"


def test_a_site_that_is_not_what_was_written_is_made_again(site: Site) -> None:
    """The file that was cut or is gone, with all that is written beside it; others stay."""
    folder, html = site.build, site.build / "html"
    noted, unfinished = folder / ".rendered.json", folder / ".rendering"
    made = {path: path.read_bytes() for path in html.rglob("*") if path.is_file()}

    def rendered() -> None:
        for path, data in made.items():
            path.write_bytes(data)
        unfinished.unlink(missing_ok=True)
        build.note_rendered(folder, "given")
        assert not noted.with_suffix(".new").exists()

    assert not build.as_rendered(folder, "given") and not unfinished.exists()
    rendered()
    assert build.as_rendered(folder, "given") and build.as_rendered(folder, "given")
    (html / "own.html").touch()  # not the build's
    os.utime(html / "index.html", (7, 7))
    assert build.as_rendered(folder, "given") and noted.exists()
    (html / "own.html").unlink()
    for path, data in made.items():
        apart = path.name in ("01.html", "a.png")  # slides and cards are made after the pages
        for spoil in (lambda path: path.write_bytes(data[:2]), lambda path: path.unlink()):  # noqa: B023
            rendered()
            spoil(path)
            assert not build.as_rendered(folder, "given"), path
            assert not path.exists() and not noted.exists()
            assert unfinished.exists() is not apart
            assert {p for p in html.rglob("*") if p.is_file()} == set(made) - {path}
    rendered()
    assert not build.as_rendered(folder, "other")
    assert not noted.exists() and not unfinished.exists() and all(map(Path.exists, made))
    rendered()
    unfinished.touch()
    assert not build.as_rendered(folder, "given")
    for torn in ("", '{"inputs": "giv'):
        rendered()
        noted.write_text(torn, encoding="utf8")
        assert not build.as_rendered(folder, "given")


def test_a_second_build_waits_for_the_first(small: Small) -> None:
    def flock(lock: object, how: int) -> None:
        small.calls.append(("lock", how))
        if how & build.fcntl.LOCK_NB:
            raise BlockingIOError

    small.patch.setattr(build.fcntl, "flock", flock)
    assert small.run() == 0
    alone = build.fcntl.LOCK_EX
    assert small.calls[:2] == [("lock", alone | build.fcntl.LOCK_NB), ("lock", alone)]
    assert small.names() == ["lock", "lock", "execute", "render"]


def test_a_worker_leaves_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks whose child it is until that changes, and only then ends."""
    parents, ended, watches = iter([7, 7, 7, 1, 1]), [], []
    monkeypatch.setattr(build.os, "getppid", lambda: next(parents))
    monkeypatch.setattr(build.os, "_exit", ended.append)
    monkeypatch.setattr(build.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "9")

    class Thread:
        def __init__(self, target: object, daemon: bool) -> None:
            assert daemon
            watches.append(target)

        def start(self) -> None:
            watches[0]()

    monkeypatch.setattr(build.threading, "Thread", Thread)
    build.end_with_parent(3)
    assert ended == [1] and next(parents) == 1 and os.environ["OMP_NUM_THREADS"] == "3"


# --- the cache and the workers, in this process


class Kept:
    """A cache of two chapters of the small book, in this process."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "_build"
        (root / "chapters").mkdir()
        self.folder.mkdir()
        self.paths = [root / "chapters" / f"{name}.ipynb" for name in ("01-alpha", "02-gamma")]
        for path in self.paths:
            notebook(path, path.stem, f"print({path.stem!r})")
        toc = {"root": "none", "chapters": [{"file": f"chapters/{p.stem}"} for p in self.paths]}
        (root / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf8")

    def cache(self, **digests: str) -> build.BookCache:
        return build.cache_of(
            self.folder, {str(p): digests.get(p.stem[3:], "") for p in self.paths}
        )

    def lay(self, cache: build.BookCache, path: Path, seconds: float | None = 2.0) -> object:
        data = {} if seconds is None else {"execution_seconds": seconds}
        made = nbformat.read(path, nbformat.NO_CONVERT)
        bundle = build.CacheBundleIn(made, str(path), data=data)
        return cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_an_executed_chapter_is_fresh_while_its_digest_and_its_outputs_stand(kept: Kept) -> None:
    cache = kept.cache(alpha="one")
    record = kept.lay(cache, kept.paths[0])
    assert record.data == {"execution_seconds": 2.0, "digest": "one"}
    assert cache.is_fresh(record, "one") and not cache.is_fresh(record, "other")
    empty = types.SimpleNamespace(data=None, hashkey=record.hashkey)
    assert not cache.is_fresh(empty, "one") and not cache.is_fresh(empty, "")
    path = cache._get_notebook_path_cache(record.hashkey)
    text = path.read_text(encoding="utf8")
    path.write_text(text[: len(text) // 2], encoding="utf8")
    assert not cache.is_fresh(record, "one"), "a kill tore it"
    assert not cache.is_fresh(types.SimpleNamespace(data=record.data, hashkey="none"), "one")
    cache.forget(record)
    assert cache.list_cache_records() == [] and not path.parent.exists()
    cache.forget(record)  # what is gone is gone


def test_a_cache_whose_making_was_interrupted_is_made_anew(kept: Kept) -> None:
    folder = kept.folder / ".jupyter_cache"
    kept.lay(kept.cache(), kept.paths[0])
    assert len(kept.cache().list_cache_records()) == 1, "one that is whole is kept"
    (folder / "global.db").write_bytes(b"torn")
    (folder / "stray").touch()
    assert kept.cache().list_cache_records() == []
    assert not (folder / "stray").exists() and not (folder / "executed").exists()


EXECUTOR = build.Executor


class Worker:
    """In the executor's place: it lays what it is told to succeed."""

    fails: tuple[str, ...] = ()
    asked: list = []  # noqa: RUF012

    def __init__(self, cache: build.BookCache) -> None:
        self.cache = cache

    def run_and_cache(self, filter_pks: list[int], timeout: int) -> object:
        records = [self.cache.get_project_record(pk) for pk in filter_pks]
        Worker.asked.append(([Path(r.uri).stem for r in records], timeout))
        result = build.ExecutorRunResult()
        for record in records:
            stem = Path(record.uri).stem
            if stem in Worker.fails:
                (result.excepted if stem < "02" else result.errored).append(record.uri)
                if stem < "02":
                    type(record).set_traceback(record.uri, "the traceback", self.cache.db)
                continue
            made = nbformat.read(record.uri, nbformat.NO_CONVERT)
            seconds = {"execution_seconds": float(stem[:2])}
            bundle = build.CacheBundleIn(made, record.uri, data=seconds)
            self.cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
        return result


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> type[Worker]:
    Worker.fails, Worker.asked = (), []
    monkeypatch.setattr(build, "Executor", Worker)
    return Worker


def test_what_changed_is_executed_the_longest_first(
    kept: Kept, worker: type[Worker], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    digests = {"01-alpha": "a", "02-gamma": "c", "03-new": "n"}
    monkeypatch.setattr(build, "digest", lambda root, path, made: digests[path.stem])

    def ran() -> tuple[bool, list, str]:
        worker.asked.clear()
        done = build.execute(kept.root, kept.folder, 77)
        return done, list(worker.asked), capsys.readouterr().out

    assert ran()[:2] == (True, [(["01-alpha", "02-gamma"], 77)])
    done, asked, said = ran()
    assert (done, asked, said) == (
        True,
        [],
        "Executed outputs of all 2 chapters are in the cache\n",
    )
    digests["01-alpha"], digests["02-gamma"] = "b", "d"
    cache = kept.cache()
    for project in cache.list_project_records():
        cache.remove_nb_from_project(project.pk)
    done, asked, said = ran()
    assert done and asked == [(["02-gamma", "01-alpha"], 77)], "seconds of the last time"
    assert re.fullmatch(r"Executed in \d+ s\n", said)
    assert len(kept.cache().list_cache_records()) == 2
    kept.paths[0].rename(kept.paths[0].with_name("03-new.ipynb"))
    toc = (kept.root / "_toc.yml").read_text(encoding="utf8").replace("01-alpha", "03-new")
    (kept.root / "_toc.yml").write_text(toc, encoding="utf8")
    done, asked, _ = ran()
    assert done and asked == [(["03-new"], 77)]
    projects = {Path(p.uri).stem for p in kept.cache().list_project_records()}
    assert projects == {"03-new", "02-gamma"}


@pytest.mark.parametrize("fails", [("01-alpha",), ("02-gamma",), ("01-alpha", "02-gamma")])
def test_a_chapter_that_failed_is_named_with_its_traceback(
    kept: Kept,
    worker: type[Worker],
    fails: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys,
) -> None:
    monkeypatch.setattr(build, "digest", lambda root, path, made: "same")
    worker.fails = fails
    assert build.execute(kept.root, kept.folder, 5) is False
    said = capsys.readouterr().err
    for name in ("01-alpha", "02-gamma"):
        assert (f"\nchapters/{name}.ipynb failed:\n" in said) == (name in fails)
    assert ("the traceback" in said) == ("01-alpha" in fails)
    assert ("it could not be run" in said) == ("02-gamma" in fails)
    assert f"\n{len(fails)} chapter(s) failed: {', '.join(fails)}. Nothing was rendered." in said
    worker.fails = ()
    assert build.execute(kept.root, kept.folder, 5) is True
    assert worker.asked[-1] == (sorted(fails), 5), "what had ended is kept"


@pytest.mark.parametrize(
    ("cores", "workers", "threads"), [({0, 1, 2, 3, 4, 5}, 3, 2), ({0, 1}, 2, 1), ({0}, 1, 1)]
)
def test_chapters_run_side_by_side_with_a_line_as_each_ends(
    monkeypatch: pytest.MonkeyPatch, capsys, cores: set, workers: int, threads: int
) -> None:
    made = []

    class Pool:
        def __init__(self, number: int, begin: object, given: list) -> None:
            made.append((number, begin, given))

        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *_: object) -> None:
            made.append("left")

        def imap_unordered(self, work: object, jobs: list) -> list:
            made.append((work, [(j.pk, j.uri, j.timeout, j.allow_errors) for j in jobs]))
            return [(0, "c/01-a.ipynb"), (2, "c/02-b.ipynb"), (0, "c/03-c.ipynb"), (1, "c/04-d.x")]

    records = {"c/01-a.ipynb": types.SimpleNamespace(data={"execution_seconds": 7.6})}
    executor = object.__new__(build.Executor)
    executor._cache = types.SimpleNamespace(get_cached_project_nb=records.get)
    rows = [types.SimpleNamespace(pk=n, uri=f"c/0{n}") for n in (1, 2, 3)]
    given = []

    def get_records(uris: object, pks: object, force: bool) -> list:
        given.append((uris, pks, force))
        return rows

    monkeypatch.setattr(executor, "get_records", get_records, raising=False)
    monkeypatch.setattr(executor, "_EXECUTION_WORKER", lambda: "the work", raising=False)
    monkeypatch.setattr(build.multiprocessing, "Pool", Pool)
    monkeypatch.setattr(build.multiprocessing, "log_to_stderr", made.append)
    monkeypatch.setattr(build.os, "sched_getaffinity", lambda pid: cores)
    result = executor.run_and_cache(filter_pks=[1, 2, 3], timeout=9)
    assert made == [
        build.logging.CRITICAL, (workers, build.end_with_parent, [threads]),
        ("the work", [(n, f"c/0{n}", 9, False) for n in (1, 2, 3)]), "left",
    ]  # fmt: skip
    assert given == [(None, [1, 2, 3], False)]
    assert (result.succeeded, result.excepted, result.errored) == (
        ["c/01-a.ipynb", "c/03-c.ipynb"], ["c/04-d.x"], ["c/02-b.ipynb"],
    )  # fmt: skip
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"Executing 3 chapter(s) on {workers} of {len(cores)} cores"
    assert said[1:] == [
        "  [1/3] 01-a: 8 s", "  [2/3] 02-b: FAILED", "  [3/3] 03-c: edited while it ran",
        "  [4/3] 04-d: FAILED",
    ]  # fmt: skip
    monkeypatch.delattr(build.os, "sched_getaffinity")
    for there, number in ((5, 5), (None, 1)):
        monkeypatch.setattr(build.os, "cpu_count", lambda there=there: there)
        executor.run_and_cache()
        assert f"of {number} cores" in capsys.readouterr().out
    rows.clear()
    executor.run_and_cache()
    assert made[-3][0] == 1, "none to run is one worker's"


@pytest.mark.parametrize("before", ["", "x"])
def test_the_source_of_the_checkout_comes_first(before: str, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", before)
    build.see_source(Path("/a"))
    wanted = str(Path("/a/src")) + (os.pathsep + before if before else "")
    assert os.environ["PYTHONPATH"] == wanted
    monkeypatch.delenv("PYTHONPATH")
    build.see_source(Path("/a"))
    assert os.environ["PYTHONPATH"] == str(Path("/a/src"))


def test_a_lock_says_that_another_build_runs(tmp_path: Path, capsys) -> None:
    with build.locked(tmp_path / "made") as folder:
        assert folder == tmp_path / "made" and (folder / ".lock").is_file()
        with (folder / ".lock").open("w", encoding="utf8") as other, pytest.raises(BlockingIOError):
            build.fcntl.flock(other, build.fcntl.LOCK_EX | build.fcntl.LOCK_NB)
    assert capsys.readouterr().out == ""
    with build.locked(tmp_path / "made"):
        pass


def test_each_line_is_seen_as_it_is_printed(
    kept: Kept, worker: type[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build's log is followed while it runs."""
    monkeypatch.setattr(sys, "stdout", out := AtOnce())
    monkeypatch.setattr(build, "digest", lambda root, path, made: "same")
    seen = []

    def print_(*given: object, **named: object) -> None:
        print(*given, **named)
        seen.append(out.all_seen())

    monkeypatch.setattr(build, "print", print_, raising=False)
    build.execute(kept.root, kept.folder, 5)
    build.execute(kept.root, kept.folder, 5)
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(build.subprocess, "run", lambda *given, **named: done)
    assert build.render(kept.root, kept.folder)
    executor = object.__new__(EXECUTOR)
    executor._cache = types.SimpleNamespace()
    executor.get_records = lambda *given, **named: []
    executor._EXECUTION_WORKER = lambda: None

    class Pool:
        __init__ = __exit__ = lambda self, *given: None
        __enter__ = lambda self: self  # noqa: E731
        imap_unordered = lambda self, work, jobs: [(1, "a.ipynb")]  # noqa: E731

    monkeypatch.setattr(build.multiprocessing, "Pool", Pool)
    monkeypatch.setattr(build.multiprocessing, "log_to_stderr", lambda level: None)
    executor.run_and_cache()
    blocks = iter([BlockingIOError, None])

    def flock(lock: object, how: int) -> None:
        if error := next(blocks):
            raise error

    monkeypatch.setattr(build.fcntl, "flock", flock)
    with build.locked(kept.folder):
        pass
    assert seen == [True] * 7, out.getvalue()


def test_the_shared_outputs_of_an_edition_are_linked_once(tmp_path: Path) -> None:
    for _ in range(2):
        folder = build.edition_folder(tmp_path, "instructor")
    assert folder == tmp_path / "instructor" / "_build"
    assert (folder / ".jupyter_cache").readlink() == tmp_path / ".jupyter_cache"
    assert build.edition_folder(tmp_path, "".join(["pub", "lic"])) == tmp_path


def test_a_module_s_file(tmp_path: Path) -> None:
    for name in ("linear_time/__init__.py", "linear_time/a.py", "linear_time/b/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "linear_time" / "a").mkdir()
    found = {
        name: build.module_file(tmp_path, name)
        for name in ("linear_time", "linear_time.a", "linear_time.b", "linear_time.c", "other")
    }
    places = {name: p and p.relative_to(tmp_path).as_posix() for name, p in found.items()}
    assert places == {
        "linear_time": "linear_time/__init__.py", "linear_time.a": "linear_time/a.py",
        "linear_time.b": "linear_time/b/__init__.py", "linear_time.c": None, "other": None,
    }  # fmt: skip


def test_a_worker_watches_its_parent_behind_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits half a second between two looks, and holds nothing up."""
    from classroom import answers

    for tool, given in ((build, [2]), (answers, [])):
        parents, slept, ended = iter(map(int, ["70000", "70000", "70000", "1"])), [], []
        monkeypatch.setattr(tool.os, "getppid", lambda parents=parents: next(parents))
        monkeypatch.setattr(tool.os, "_exit", ended.append)
        monkeypatch.setattr(tool.time, "sleep", slept.append)
        threads = []

        def thread(target: object, daemon: bool, threads: list = threads) -> object:
            threads.append(daemon)
            return types.SimpleNamespace(start=target)

        monkeypatch.setattr(tool.threading, "Thread", thread)
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
        tool.end_with_parent(*given)
        assert threads == [True] and ended == [1] and slept == [0.5, 0.5]
        assert os.environ["OMP_NUM_THREADS"] == ("2" if given else "7")


def test_the_instructors_notes_of_a_chapter() -> None:
    editions = load(ROOT / "book" / "_ext" / "linear_time_editions.py")
    for path in build.chapters(ROOT):
        number = path.stem[:2]
        if number.isdigit():
            text = editions.notes(number)
            assert f"| {number}-" in text and "**What students get wrong**" in text
    known = editions.notes("12").partition("Wrong answers that a check knows")[2]
    assert "`no_growth`: Calls a growing mode stable" in known


def test_closure_follows_imports_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "src"
    package = source / "linear_time"
    package.mkdir(parents=True)
    for name, text in (("__init__", ""), ("alpha", ALPHA), ("beta", ""), ("gamma", "")):
        (package / f"{name}.py").write_text(text, encoding="utf8")
    files = {file.name for file in build.closure(source, {"linear_time.alpha", "torch"})}
    assert files == {"__init__.py", "alpha.py", "beta.py"}
    assert build.imported("from ..x import y\nfrom . import z", "linear_time.exercises") == {
        "linear_time.x", "linear_time.x.y", "linear_time.exercises", "linear_time.exercises.z",
    }  # fmt: skip


def test_digest_sees_records_exercises_and_tags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records that are named, the closure in the package, tags, the kernel and Python's version."""
    package = tmp_path / "src" / "linear_time"
    (package / "exercises").mkdir(parents=True)
    for name in ("__init__", "records", "exercises/__init__", "exercises/alpha", "exercises/gamma"):
        (package / f"{name}.py").write_text("", encoding="utf8")
    (package / "library.py").write_text(
        "from linear_time.records import read as r\nr('beneath')", encoding="utf8"
    )
    (package / "py.typed").write_text("", encoding="utf8")
    (tmp_path / "requirements.txt").write_text("", encoding="utf8")
    recorded = package / "recorded"
    recorded.mkdir()
    for name in ("named", "beneath", "text", "other"):
        (recorded / f"{name}.json").write_text("{}", encoding="utf8")
    path = tmp_path / "01-alpha.ipynb"
    notebook(
        path,
        "01 · Alpha",
        "%matplotlib inline\nimport linear_time.library\nfrom linear_time import records",
        "text = 'the words text and other'\nrecords.read('named')\nopen(text).read('other')",
    )

    written = nbformat.read(path, nbformat.NO_CONVERT)

    def now() -> str:
        return build.digest(tmp_path, path, written)

    before = now()
    (package / "apart.py").write_text("", encoding="utf8")
    assert now() == before
    for file, changes in [
        (recorded / "other.json", False),
        (recorded / "text.json", False),
        (recorded / "named.json", True),
        (recorded / "beneath.json", True),
        (package / "py.typed", True),
        (package / "exercises" / "gamma.py", False),
        (package / "exercises" / "alpha.py", True),
        (tmp_path / "requirements.txt", True),
        (package / "library.py", True),  # and it reads no record any more
        (recorded / "beneath.json", False),
        (package / "__init__.py", True),
        (package / "exercises" / "__init__.py", True),
        (package / "records.py", True),
        (package / "apart.py", False),
        (tmp_path / "README.md", False),
    ]:
        file.write_text(json.dumps({"changed": file.name}), encoding="utf8")
        assert (now() != before) == changes, file
        before = now()
    moved = package / "py.typed"
    moved.rename(package / "py.untyped")  # the same bytes at the same place of the order
    assert now() != before
    (package / "py.untyped").rename(moved)
    assert now() == before

    first, *_, last = (cell for cell in written.cells if cell.cell_type == "code")

    def tag() -> None:
        last.metadata["tags"] = ["hide-output"]

    def other_tag() -> None:
        last.metadata["tags"] = ["raises-exception"]

    def kernel() -> None:
        written.metadata["kernelspec"]["name"] = "another"

    def code() -> None:
        first.source += "  # a word"

    def words() -> None:
        written.cells[0].source += " And a word."

    def outputs() -> None:
        last.outputs = [nbformat.v4.new_output("stream", text="a")]
        last.execution_count, last.metadata["scrolled"] = 7, True

    def cells() -> None:
        written.cells.append(nbformat.v4.new_code_cell("1"))

    def python() -> None:
        monkeypatch.setattr(build.platform, "python_version", lambda: "3.11.99")

    def computed() -> None:
        first.source += "\nrecords.read(first)"

    for change, changes in [
        *((tag, True), (other_tag, True), (kernel, True), (code, True), (cells, True)),
        *((words, False), (outputs, False), (python, True), (computed, True)),
    ]:
        change()
        assert (now() != before) == changes, change.__name__
        before = now()
    (recorded / "other.json").write_text("[]", encoding="utf8")
    assert now() != before, "a record that may be read: its name is computed"


def test_what_a_source_imports() -> None:
    for source, names in [
        ("import linear_time.a.b as c", {"linear_time.a.b"}),
        ("def f():\n    from linear_time.a import b", {"linear_time.a", "linear_time.a.b"}),
        ("if x:\n    import os, sys", {"os", "sys"}),
        ("from . import b", {"p", "p.b"}),
        ("from .a import b", {"p.a", "p.a.b"}),
    ]:
        assert build.imported(source, "p") == names, source


def test_code_without_magics(tmp_path: Path) -> None:
    """Lines of IPython are left out, one by one or the whole cell; text cells are no code."""
    path = tmp_path / "a.ipynb"
    notebook(path, "A", "%time x = 1\n!ls\ny = 2", "%%bash\nimport torch", "  %pip install a\nz")
    assert build.code_of(nbformat.read(path, nbformat.NO_CONVERT)) == "y = 2\nz"


def test_a_source_that_is_no_python_depends_on_everything(tmp_path: Path) -> None:
    package = tmp_path / "src" / "linear_time"
    (package / "recorded").mkdir(parents=True)
    (package / "far.py").write_text("", encoding="utf8")
    (package / "recorded" / "some.json").write_text("{}", encoding="utf8")
    path = tmp_path / "01-a.ipynb"
    notebook(path, "A", "def f(:")
    files = build.dependencies(tmp_path, path, nbformat.read(path, nbformat.NO_CONVERT))
    assert {file.name for file in files} == {"far.py", "some.json"}


def test_the_chapters_of_a_table_of_contents(tmp_path: Path) -> None:
    """In reading order, whatever the table is nested; what is not there, or no notebook, is not."""
    toc = {
        "root": "book/a",
        "parts": [{"caption": "b", "chapters": [{"file": "b"}, {"file": "c.ipynb"}]}],
        "chapters": [{"file": "d", "sections": [{"file": "e"}]}],
    }
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False), encoding="utf8")
    (tmp_path / "book").mkdir()
    for name in ("book/a", "c", "d", "e"):
        (tmp_path / f"{name}.ipynb").write_text("", encoding="utf8")
    (tmp_path / "b.md").write_text("", encoding="utf8")
    found = [p.relative_to(tmp_path).as_posix() for p in build.chapters(tmp_path)]
    assert found == ["book/a.ipynb", "c.ipynb", "d.ipynb", "e.ipynb"]


def test_records_that_a_source_reads() -> None:
    for source, names in [
        (
            "from linear_time import figures, records\nrecords.read('a')\nrecords.read(name='b')",
            "ab",
        ),
        ("from linear_time import records as kept\nkept.read('a').where(x=records.read('b'))", "a"),
        ("import linear_time.records\nlinear_time.records.read('a')", "a"),
        ("import linear_time.records as r\nr.read('a')", "a"),
        ("from linear_time.records import read as of\nof('a')\nread('b')", "a"),
        ("from linear_time import records\nrecords.machine('a')\nfile.read(8)", ""),
        ("from linear_time import records\nrecords.read(name)", None),
        ("from linear_time import records\nrecords.read(f'{size}_a')", None),
    ]:
        assert build.records_read(source) == (None if names is None else set(names)), source


def test_every_chapter_depends_on_the_records_it_reads() -> None:
    """Literal names in all of them: none depends on every record, and every record has a reader."""
    there = {path.stem for path in (ROOT / build.RECORDED).glob("*.json")}
    read: set[str] = set()
    for path in build.chapters(ROOT):
        files = build.dependencies(ROOT, path, nbformat.read(path, nbformat.NO_CONVERT))
        own = {file.stem for file in files if file.suffix == ".json"}
        assert len(own) <= 6, path
        read |= own
    assert read <= there
    assert there - read == {"peers"}  # which the README's table reads


def test_every_chapter_of_the_toc_is_there() -> None:
    """And the pages without a number that are notebooks, in the order of the contents."""
    named = re.findall(r"file: (\S+)", (ROOT / "_toc.yml").read_text(encoding="utf8"))
    notebooks = [name for name in named if (ROOT / f"{name}.ipynb").is_file()]
    assert sum(name.startswith("chapters/") for name in notebooks) >= 19
    found = [path.relative_to(ROOT).with_suffix("").as_posix() for path in build.chapters(ROOT)]
    assert found == notebooks
