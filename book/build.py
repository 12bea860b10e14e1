"""Execute the chapters that changed, in parallel, and render the book to _build/html.

A chapter's outputs are cached (jupyter-cache) together with a digest of all that they depend on:
its code, the pinned requirements, the modules of `linear_time` that it imports, directly or not,
and the records that it or they read (`records.read("…")`). Where the digest differs, the chapter
runs again, and `_ext/linear_time_book.py` then has its page rendered again. Every chapter is cached
as it ends, so a build that was killed goes on where it stopped. `kept.py` lays into the same cache
what nbval has executed.

Beside the rendered pages stands what they were made of and what they are. Where both still hold,
nothing is rendered.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import fcntl
import functools
import hashlib
import json
import logging
import multiprocessing
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import yaml
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.cache.db import NbCacheRecord
from jupyter_cache.cache.main import JupyterCacheBase
from jupyter_cache.executors.base import ExecutorRunResult
from jupyter_cache.executors.basic import JupyterExecutorLocalMproc, ProcessData

ROOT = Path(__file__).resolve().parent.parent
RECORDED = Path("src/linear_time/recorded")


def chapters(root: Path) -> list[Path]:
    """The notebooks of the table of contents, in reading order."""

    def entries(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                if key in ("root", "file"):
                    yield value
                else:
                    yield from entries(value)
        elif isinstance(node, list):
            for item in node:
                yield from entries(item)

    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf8"))
    paths = (root / f"{entry.removesuffix('.ipynb')}.ipynb" for entry in entries(toc))
    return [path for path in paths if path.exists()]


# What a chapter depends on


@functools.cache
def imported(source: str, package: str = "") -> set[str]:
    """Dotted names that a Python source imports; relative ones are resolved against `package`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def module_file(source: Path, name: str) -> Path | None:
    """The file of a module `linear_time.x.y` under `source`, or None where there is none."""
    path = source.joinpath(*name.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def closure(source: Path, names: Iterable[str]) -> set[Path]:
    """Files of the `linear_time` modules that `names` import, directly or through one another."""
    files: set[Path] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name.split(".")[0] != "linear_time":
            continue
        if "." in name:  # importing a module runs its packages first
            waiting.append(name.rpartition(".")[0])
        path = module_file(source, name)
        if path is None or path in files:
            continue
        files.add(path)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        waiting.extend(imported(path.read_text(encoding="utf8"), package))
    return files


@functools.cache
def records_read(source: str) -> set[str] | None:
    """Names of the records that a Python source reads; None where it computes one."""
    tree = ast.parse(source)
    modules, functions = {"linear_time.records"}, set()  # what stands for `records` and for `read`
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            of = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                name = of + alias.name
                if name == "linear_time.records":
                    modules.add(alias.asname or alias.name)
                elif name == "linear_time.records.read":
                    functions.add(alias.asname or alias.name)
    functions |= {f"{module}.read" for module in modules}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in functions:
            arguments = [*node.args, *(k.value for k in node.keywords if k.arg == "name")]
            name = arguments[0] if arguments else None
            if not isinstance(name, ast.Constant):
                return None
            found.add(name.value)
    return found


def code_of(notebook: nbformat.NotebookNode) -> str:
    """A notebook's code as one Python source, its magics and shell lines left out."""
    cells = (cell.source for cell in notebook.cells if cell.cell_type == "code")
    lines = (line for cell in cells if not cell.startswith("%%") for line in cell.split("\n"))
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def dependencies(root: Path, path: Path, notebook: nbformat.NotebookNode) -> list[Path]:
    """The files that a chapter's outputs depend on, besides its own code."""
    source = root / "src"
    topic = re.sub(r"^\d+-", "", path.stem).replace("-", "_")
    code = code_of(notebook)
    try:
        files = closure(source, imported(code) | {f"linear_time.exercises.{topic}"})
        read = [
            records_read(text) for text in (code, *(f.read_text(encoding="utf8") for f in files))
        ]
    except SyntaxError:  # the run will say where; until then the chapter depends on everything
        files, read = set(source.rglob("*.py")), [None]
    files.update(
        f
        for f in (source / "linear_time").rglob("*")
        if f.suffix not in (".py", ".pyc")
        and (f.parent != root / RECORDED or any(names is None or f.stem in names for names in read))
    )
    files.add(root / "requirements.txt")
    return sorted(file for file in files if file.is_file())


def digest(root: Path, path: Path, notebook: nbformat.NotebookNode) -> str:
    """One hash of all that a chapter's outputs depend on."""
    total = hashlib.sha256()
    kernel = notebook.metadata.get("kernelspec", {}).get("name", "")
    code = [
        [cell.source, cell.metadata.get("tags", [])]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    total.update(json.dumps([platform.python_version(), kernel, code]).encode())
    for file in dependencies(root, path, notebook):
        total.update(f"\0{file.relative_to(root).as_posix()}\0".encode())
        total.update(file.read_bytes())
    return total.hexdigest()


# Execution


class BookCache(JupyterCacheBase):
    """A jupyter-cache that records each chapter's digest with its outputs, in the same step."""

    def __init__(self, path: Path, digests: dict[str, str]) -> None:
        super().__init__(path)
        self.digests = digests

    def cache_notebook_bundle(
        self, bundle: CacheBundleIn, *args: Any, **kwargs: Any
    ) -> NbCacheRecord:
        bundle.data["digest"] = self.digests[bundle.uri]
        return super().cache_notebook_bundle(bundle, *args, **kwargs)

    def is_fresh(self, record: NbCacheRecord, expected: str) -> bool:
        """Whether the record belongs to `expected` and its outputs were written to the end."""
        if (record.data or {}).get("digest") != expected:
            return False
        try:
            nbformat.read(self._get_notebook_path_cache(record.hashkey), nbformat.NO_CONVERT)
        except Exception:
            return False
        return True

    def forget(self, record: NbCacheRecord) -> None:
        shutil.rmtree(self._get_notebook_path_cache(record.hashkey).parent, ignore_errors=True)
        NbCacheRecord.remove_records([record.pk], self.db)


def cache_of(build: Path, digests: dict[str, str]) -> BookCache:
    """The cache of a build's folder; an empty one where its own making was interrupted."""
    folder = build / ".jupyter_cache"
    try:
        BookCache(folder, digests).list_cache_records()
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
    return BookCache(folder, digests)


@contextlib.contextmanager
def locked(build: Path) -> Iterator[Path]:
    """The folder of a build, made if need be, for one at a time."""
    build.mkdir(exist_ok=True)
    with (build / ".lock").open("w", encoding="utf8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another build is running: waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield build


def see_source(root: Path) -> None:
    """Chapters and API pages see the source of this checkout, whatever else is installed."""
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(root / "src"), os.environ.get("PYTHONPATH")])
    )


def end_with_parent(threads: int) -> None:
    """In a worker: leave when the build is killed, its kernel too, so that nothing runs twice."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Executor(JupyterExecutorLocalMproc):
    """jupyter-cache's `local-parallel`, fed one chapter at a time, with a line as each one ends."""

    def run_and_cache(
        self,
        *,
        filter_uris: list[str] | None = None,
        filter_pks: list[int] | None = None,
        timeout: int | None = 30,
        allow_errors: bool = False,
        force: bool = False,
        **kwargs: Any,
    ) -> ExecutorRunResult:
        result = ExecutorRunResult()
        records = self.get_records(filter_uris, filter_pks, force=force)
        jobs = [ProcessData(r.pk, r.uri, self.cache, timeout, allow_errors) for r in records]
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        workers = max(1, min(cores, len(jobs)))
        print(f"Executing {len(jobs)} chapter(s) on {workers} of {cores} cores", flush=True)
        multiprocessing.log_to_stderr(logging.CRITICAL)
        with multiprocessing.Pool(workers, end_with_parent, [max(1, cores // workers)]) as pool:
            for n, (status, uri) in enumerate(
                pool.imap_unordered(self._EXECUTION_WORKER(), jobs), 1
            ):
                (result.succeeded, result.excepted, result.errored)[status].append(uri)
                says = "FAILED"
                if status == 0:
                    record = self.cache.get_cached_project_nb(uri)
                    says = "edited while it ran"  # then the cache has no record of it
                    if record:
                        says = f"{record.data['execution_seconds']:.0f} s"
                print(f"  [{n}/{len(jobs)}] {Path(uri).stem}: {says}", flush=True)
        return result


def execute(root: Path, build: Path, timeout: int) -> bool:
    """Run the chapters whose digest has changed; False where one failed."""
    notebooks = {str(path): nbformat.read(path, nbformat.NO_CONVERT) for path in chapters(root)}
    digests = {uri: digest(root, Path(uri), notebook) for uri, notebook in notebooks.items()}
    cache = cache_of(build, digests)
    records = cache.list_cache_records()

    expected = {
        cache.create_hashed_notebook(notebook)[1]: digests[uri]
        for uri, notebook in notebooks.items()
    }
    seconds = {record.uri: (record.data or {}).get("execution_seconds", 0) for record in records}
    for record in records:
        if not cache.is_fresh(record, expected.get(record.hashkey, "")):
            cache.forget(record)
    for project in cache.list_project_records():
        if project.uri not in notebooks:
            cache.remove_nb_from_project(project.pk)
    for uri in sorted(notebooks, key=lambda uri: seconds.get(uri, 0), reverse=True):
        cache.add_nb_to_project(uri)

    missing = cache.list_unexecuted()
    if not missing:
        print(f"Executed outputs of all {len(notebooks)} chapters are in the cache", flush=True)
        return True
    started = time.monotonic()
    result = Executor(cache).run_and_cache(
        filter_pks=[record.pk for record in missing], timeout=timeout
    )
    print(f"Executed in {time.monotonic() - started:.0f} s", flush=True)
    failed = result.excepted + result.errored
    for uri in failed:
        print(f"\n{Path(uri).relative_to(root)} failed:", file=sys.stderr)
        print(cache.get_project_record(uri).traceback or "it could not be run", file=sys.stderr)
    if failed:
        names = ", ".join(sorted(Path(uri).stem for uri in failed))
        print(f"\n{len(failed)} chapter(s) failed: {names}. Nothing was rendered.", file=sys.stderr)
    return not failed


# Rendering


def edition_folder(build: Path, edition: str) -> Path:
    """Where an edition is rendered; all share the executed outputs."""
    if edition == "public":
        return build
    folder = build / edition / "_build"
    folder.mkdir(parents=True, exist_ok=True)
    shared = folder / ".jupyter_cache"
    if not shared.is_symlink():
        shared.symlink_to(build / ".jupyter_cache", target_is_directory=True)
    return folder


def render(root: Path, build: Path, edition: str = "public") -> bool:
    """Render with warnings as errors; False where there was one.

    Sphinx says a warning only when it reads the page, and takes a page that it has read for
    written. So what a rendering that did not end well has read is not trusted: the next one reads
    every page again.
    """
    folder = edition_folder(build, edition)
    unfinished = folder / ".rendering"
    program = Path(sys.executable).with_name("jupyter-book")
    command = [str(program), "build", str(root), "-W", "--keep-going", "-q"]
    os.environ["LINEAR_TIME_EDITION"] = edition
    if edition != "public":
        command += ["--path-output", str(folder.parent)]
    if unfinished.exists():
        command.append("--all")
    unfinished.touch()
    print("Rendering", flush=True)
    started = time.monotonic()
    if subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL).returncode != 0:
        print("The book was not rendered without warnings: see above.", file=sys.stderr)
        return False
    unfinished.unlink()
    print(f"Rendered in {time.monotonic() - started:.0f} s", flush=True)
    return True


# What a site was rendered of, and what it is


def hashed(path: Path) -> str:
    """The hash of a file; nothing where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def files_in(folder: Path) -> Iterator[Path]:
    """All files of a folder, but what is hidden, built or compiled in it."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir():
            if not path.name.startswith(".") and path.name not in ("_build", "__pycache__"):
                yield from files_in(path)
        else:
            yield path


def commit(root: Path) -> str:
    """The commit, by whose history pages are dated, and whether there is more before it."""
    command = ["git", "rev-parse", "HEAD", "--is-shallow-repository"]
    try:
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""


def browser(root: Path) -> str | None:
    """What draws the cards."""
    if not (root / "book" / "cards.py").is_file():
        return None
    import cards

    return cards.chromium()


def inputs(root: Path, build: Path, edition: str) -> str:
    """One hash of all that the pages, cards and slides of an edition may come of.

    These are all files of the checkout, whether a page shows them or not, the executed outputs and
    when they were, the commit, Python, the installed packages, and the browser.
    """
    folders = [Path(folder) for folder in sys.path if folder]
    packages = sorted(found.name for folder in folders for found in folder.glob("*-info"))
    given = [edition, sys.version, os.environ.get("SOURCE_DATE_EPOCH"), commit(root), browser(root)]
    cache = cache_of(build, {})
    executed = sorted(
        [record.uri, record.hashkey, str(record.created), json.dumps(record.data)]
        for record in cache.list_cache_records()
    )
    outputs = files_in(build / ".jupyter_cache" / "executed")
    files = [[str(path.relative_to(root)), hashed(path)] for path in (*files_in(root), *outputs)]
    return hashlib.sha256(json.dumps([given, packages, executed, files]).encode()).hexdigest()


def note_rendered(folder: Path, given: str) -> None:
    """Write down what a site was rendered of, and what it is."""
    site, noted = folder / "html", folder / ".rendered.json"
    paths = (path for path in site.rglob("*") if path.is_file())
    made = {path.relative_to(site).as_posix(): hashed(path) for path in paths}
    written = noted.with_suffix(".new")
    written.write_text(json.dumps({"inputs": given, "outputs": made}), encoding="utf8")
    written.replace(noted)


def as_rendered(folder: Path, given: str) -> bool:
    """Whether the site of a build's folder is whole, and what would be rendered again.

    A file that is not what was written goes. Then every page is read and written again, unless it
    is of the cards and slides, which are made anew in any case.
    """
    site, noted, unfinished = folder / "html", folder / ".rendered.json", folder / ".rendering"
    try:
        before = json.loads(noted.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return False
    spoilt = [name for name, made in before["outputs"].items() if hashed(site / name) != made]
    if not spoilt and before["inputs"] == given and not unfinished.exists():
        return True
    noted.unlink()
    for name in spoilt:
        (site / name).unlink(missing_ok=True)
        if not name.startswith(("slides/", "_static/cards/")):
            unfinished.touch()
    return False


def main() -> int:
    """Build the book of the current checkout."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="the checkout to build (default: this one)"
    )
    parser.add_argument(
        "--execute-only", action="store_true", help="fill the cache, render nothing"
    )
    parser.add_argument(
        "--edition",
        default="public",
        choices=("public", "without-solutions", "instructor"),
        help="solutions folded (default), none at all, or all shown with notes for teaching",
    )
    options = parser.parse_args()
    root = options.root.resolve()
    see_source(root)
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf8"))
    with locked(root / "_build") as build:
        if not execute(root, build, config["execute"]["timeout"]):
            return 1
        if options.execute_only:
            return 0
        folder = edition_folder(build, options.edition)
        site, given = folder / "html", inputs(root, build, options.edition)
        if as_rendered(folder, given):
            print("Nothing that a page is made of has changed: the site is as it was", flush=True)
        else:
            if not render(root, build, options.edition):
                return 1
            if (root / "book" / "cards.py").is_file():  # a small book has none, nor slides
                import cards

                cards.build(site)
            if (root / "book" / "slides").is_dir():
                import slides  # not before: a small book has no decks, and needs none of it

                try:
                    slides.build(site)
                except (FileNotFoundError, ValueError) as error:
                    print(f"slides: {error}", file=sys.stderr)
                    return 1
        if (root / "book" / "status.py").is_file():
            import status

            status.tell(root, site)
        note_rendered(folder, given)
    print(f"\nThe book is at {(site / 'index.html').as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
