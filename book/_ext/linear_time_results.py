"""What the chapters assert, and what ran: lists that a build makes from the notebooks themselves.

A comment `# result: …` in a cell, which further lines `#   …` continue, states what the assertion
below it holds. `{results}` lists all of them, `{proved}` counts them, `{status}` says what this
build executed, and `{citation}` is CITATION.cff.
"""

from __future__ import annotations

import ast
import builtins
import json
import platform
import re
import textwrap
import zlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import yaml
from docutils import nodes
from docutils.statemachine import StringList
from jupyter_cache import get_cache
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

STATUS = "book/status"
PACKAGES = ("torch", "numpy", "sympy", "scipy", "scikit-learn", "transformers", "matplotlib")
NOT_COMPARED = {"nbval-ignore-output", "nbval-skip", "solution"}


class Result(NamedTuple):
    """A statement, the assertion that holds it and how, and its anchor on the chapter's page."""

    text: str
    assertion: str
    anchor: str
    how: str


class Counted(NamedTuple):
    """What a chapter asserts and shows."""

    title: str
    results: tuple[Result, ...]
    assertions: int
    compared: int


# Reading a chapter


def is_assertion(node: ast.AST) -> bool:
    """An `assert`, or a call of torch's or numpy's testing."""
    if isinstance(node, ast.Assert):
        return True
    called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    return bool(re.search(r"\btesting\.assert_|\bgradcheck$", called))


def assertions(node: ast.AST) -> list[ast.AST]:
    """The assertions in a piece of source; what an assertion calls is a part of it."""
    if is_assertion(node):
        return [node]
    return [found for child in ast.iter_child_nodes(node) for found in assertions(child)]


def parsed(source: str) -> ast.Module:
    """A cell as Python, its magics and shell lines left blank."""
    lines = source.split("\n")
    if lines[0].startswith("%%"):
        lines = []
    return ast.parse("\n".join(re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in lines))


def results_of(source: str) -> list[tuple[str, str]]:
    """The results that a cell states, each with the source of its assertion.

    Raises:
        ValueError: what follows a statement is no assertion.
    """
    lines = source.split("\n")
    marks = [n for n, line in enumerate(lines) if re.match(r"\s*# result:", line)]
    if not marks:
        return []
    asserted = {node.lineno: node for node in assertions(parsed(source))}  # type: ignore[attr-defined]
    found = []
    for n in marks:
        text = [lines[n].partition("# result:")[2].strip()]
        n += 1
        while n < len(lines) and re.match(r"\s*#   \S", lines[n]):
            text.append(lines[n].strip().removeprefix("#").strip())
            n += 1
        if n + 1 not in asserted:
            raise ValueError(f"expected an assertion below “{' '.join(text)}”")
        found.append((" ".join(text), ast.unparse(asserted[n + 1])))
    return found


def asked(node: ast.AST) -> list[ast.Call]:
    """The calls whose truth an expression takes, not those whose value it compares."""
    match node:
        case ast.BoolOp(values=parts):
            return [call for part in parts for call in asked(part)]
        case ast.UnaryOp(op=ast.Not(), operand=part):
            return asked(part)
        case ast.Call(
            func=ast.Name(id="all" | "any"),
            args=[ast.GeneratorExp(elt=part) | ast.ListComp(elt=part)],
        ):
            return asked(part)
        case ast.Call():
            return [node]
    return []


def to_tolerance(source: str) -> str:
    """By algebra, or to which tolerance, as source says; else nothing."""
    if re.search(r"\bsp\.|\.expand\(\)|is_zero_matrix", source):
        return "by algebra"
    bound = re.search(r"(?:atol=|rtol=|<=? )(1e-\d+)", source)
    if bound:
        return f"to {bound[1]}"
    return "to rounding" if re.search("allclose|isclose|assert_close", source) else ""


def within(source: str) -> str:
    measured = re.search(r"\babs\(.*<|[<>]=? (?!0\b(?!\.))", source, re.DOTALL)
    return "within a margin" if measured else "exactly"


def how(assertion: str, helpers: dict[str, ast.FunctionDef] | None = None) -> str:
    """How an assertion holds: by algebra, exactly, to a tolerance, or within a margin.

    Where it takes the truth of a helper's answer it holds as the helper's body says.

    Raises:
        ValueError: it asks a helper whose body is not among `helpers`.
    """
    found = to_tolerance(assertion) or within(assertion)
    node = ast.parse(assertion).body[0]
    if found != "exactly" or not isinstance(node, ast.Assert):
        return found
    for call in asked(node.test):
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        if not name or hasattr(builtins, name):
            continue
        if name not in (helpers or {}):
            raise ValueError(f"expected the body of {name}, which “{assertion[:60]}” asks")
        body = (helpers or {})[name]
        others = {other: one for other, one in (helpers or {}).items() if other != name}
        returned = [part.value for part in ast.walk(body) if isinstance(part, ast.Return)]
        kinds = [to_tolerance(without_words(body))]
        kinds += [how(f"assert {ast.unparse(value)}", others) for value in returned if value]
        found = next((kind for kind in kinds if kind not in ("", "exactly")), found)
    return found


def without_words(body: ast.FunctionDef) -> str:
    """A function's source without its docstring."""
    first = body.body[0] if len(body.body) > 1 and ast.get_docstring(body) else None
    kept = [part for part in body.body if part is not first]
    return "\n".join(map(ast.unparse, [body.args, *kept]))


def functions_of(cells: list[dict[str, Any]], root: Path) -> dict[str, ast.FunctionDef]:
    """The functions that a chapter's cells define or import from linear_time, by their names."""
    found: dict[str, ast.FunctionDef] = {}
    for cell in cells:
        if cell["cell_type"] != "code" or "solution" in cell["metadata"].get("tags", []):
            continue
        for node in ast.walk(parsed("".join(cell["source"]))):
            if isinstance(node, ast.FunctionDef):
                found[node.name] = node
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "linear_time."
            ):
                path = root / "src" / f"{(node.module or '').replace('.', '/')}.py"
                if path.is_file():
                    there = in_module(path)
                    found |= {
                        a.asname or a.name: there[a.name] for a in node.names if a.name in there
                    }
    return found


@cache
def in_module(path: Path) -> dict[str, ast.FunctionDef]:
    """The functions at the top of a module, by their names."""
    body = ast.parse(path.read_text(encoding="utf8")).body
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef)}


@cache
def counted(path: Path) -> Counted:
    """Read a chapter; its solutions are not the book's assertions.

    Raises:
        ValueError: a statement without an assertion, or one that asks a helper without a body.
    """
    cells = json.loads(path.read_text(encoding="utf8"))["cells"]
    title = re.search(r"^# (.*)", "".join(cells[0]["source"]), re.MULTILINE)
    helpers = functions_of(cells, path.parent.parent)
    results: list[Result] = []
    asserted = compared = 0
    for cell in cells:
        tags = set(cell["metadata"].get("tags", []))
        if cell["cell_type"] != "code" or "solution" in tags:
            continue
        source = "".join(cell["source"])
        asserted += len(assertions(parsed(source)))
        compared += bool(cell["outputs"]) and not tags & NOT_COMPARED
        try:
            for text, assertion in results_of(source):
                anchor = f"result-{path.stem[:2]}-{len(results) + 1}"
                results.append(Result(text, assertion, anchor, how(assertion, helpers)))
        except ValueError as error:
            raise ValueError(f"{path.stem}: {error}") from error
    return Counted(title[1] if title else path.stem, tuple(results), asserted, compared)


def chapters(root: Path) -> list[Path]:
    return sorted((root / "chapters").glob("*.ipynb"))


def ledger_rows(root: Path) -> tuple[int, int]:
    """Rows of the ledger about others, and rows of the book's own errata."""
    text = (root / "book" / "ledger.md").read_text(encoding="utf8")
    rows = {"own": 0, "others": 0}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        kind = "own" if section.startswith("Errata of this book") else "others"
        rows[kind] += len(re.findall(r"^\|.*`test_\w+\.py::", section, re.MULTILINE))
    return rows["others"], rows["own"]


# On the pages


def give_anchors(app: Sphinx, doctree: nodes.document) -> None:
    """In a chapter, let a cell that states results bear their names."""
    docname = app.env.docname
    if not docname.startswith("chapters/"):
        return
    count = 0
    for cell in doctree.findall(nodes.container):
        if "cell" not in cell["classes"] or "tag_solution" in cell["classes"]:
            continue
        source = next(iter(cell.findall(nodes.literal_block)), None)
        for _ in re.findall(r"(?m)^\s*# result:", source.astext() if source else ""):
            count += 1
            cell["ids"].append(f"result-{docname.split('/')[1][:2]}-{count}")


class Listed(SphinxDirective):
    """What the directives share: a root, and Markdown that is parsed in place."""

    has_content = False

    @property
    def root(self) -> Path:
        return Path(str(self.env.srcdir))

    def read(self) -> list[tuple[Path, Counted]]:
        for path in chapters(self.root):
            self.env.note_dependency(str(path))
        try:
            return [(path, counted(path)) for path in chapters(self.root)]
        except (SyntaxError, ValueError) as error:
            raise self.error(str(error)) from error

    def parse(self, lines: list[str]) -> list[nodes.Node]:
        holder = nodes.container()
        source = StringList(lines, str(self.env.docname))
        self.state.nested_parse(source, self.content_offset, holder)
        return holder.children


class ResultsDirective(Listed):
    """Every result, with a link to its assertion and how it holds."""

    def run(self) -> list[nodes.Node]:
        made: list[nodes.Node] = []
        for path, chapter in self.read():
            section = nodes.section(ids=[f"results-{path.stem[:2]}"], names=[])
            section += nodes.title("", chapter.title)
            items = nodes.bullet_list(classes=["lt-results"])
            for result in chapter.results:
                address = f"../chapters/{path.stem}.html#{result.anchor}"
                link = nodes.reference("", result.text, refuri=address, internal=True)
                link["reftitle"] = " ".join(result.assertion.split())[:200]
                line = nodes.paragraph("", "", link, nodes.Text(f" ({result.how})"))
                items += nodes.list_item("", line)
            section += items
            made.append(section)
        return made


class ProvedDirective(Listed):
    """How many results, assertions and corrections there are, and where they stand."""

    def run(self) -> list[nodes.Node]:
        read = [chapter for _, chapter in self.read()]
        self.env.note_dependency(str(self.root / "book" / "ledger.md"))
        others, own = ledger_rows(self.root)
        results = sum(len(chapter.results) for chapter in read)
        asserted = sum(chapter.assertions for chapter in read)
        return self.parse(
            [
                f"- **{results} statements** of the chapters, "
                "[each a link to the assertion that holds it](results.md), by algebra, exactly "
                f"or to a stated tolerance. In all the chapters make {asserted} assertions, and "
                "a page is not rendered while one fails.",
                f"- **{others} places** where papers, their code, tutorials or the source post "
                f"disagree, and **{own} errata of this book**, [each with its test](ledger.md).",
                "- **What ran** for these pages, when, and with which versions: "
                "[status](status.md).",
            ]
        )


class CitationDirective(Listed):
    """CITATION.cff in words and as BibTeX."""

    def run(self) -> list[nodes.Node]:
        path = self.root / "CITATION.cff"
        changes = self.root / "CHANGELOG.md"
        for file in (path, changes):
            self.env.note_dependency(str(file))
        cff = yaml.safe_load(path.read_text(encoding="utf8"))
        words, entry = citation(cff, last_change(changes.read_text(encoding="utf8")))
        return self.parse([words, "", "```bibtex", *entry, "```"])


def last_change(changes: str) -> str:
    """The date of the newest day in the list of changes, which begins with it."""
    found = re.search(r"(?m)^### (\d{1,2} \w+ \d{4})$", changes)
    if not found:
        raise ValueError("CHANGELOG.md: expected a heading “### day month year”")
    return found[1]


def citation(cff: dict[str, Any], changed: str) -> tuple[str, list[str]]:
    """A citation as a sentence, and as the lines of a BibTeX entry.

    A version without a date is not released: in its place stands when the book last changed.
    """
    authors = [
        " ".join(filter(None, (a.get("given-names"), a.get("family-names")))) or a["name"]
        for a in cff["authors"]
    ]
    released = "date-released" in cff
    year = str(cff["date-released"])[:4] if released else changed.split()[-1]
    version = cff["version"] if released else f"{cff['version']}, unreleased, of {changed}"
    names = ", ".join(authors)
    words = f"{names} ({year}). *{cff['title']}*, version {version}. "
    return words + cff["repository-code"], [
        "@software{lineartime,",
        f"  author  = {{{' and '.join('{' + name + '}' for name in authors)}}},",
        *_wrapped(f"title   = {{{cff['title']}}},"),
        f"  version = {{{version}}},",
        f"  year    = {{{year}}},",
        f"  url     = {{{cff['repository-code']}}}",
        "}",
    ]


def _wrapped(line: str) -> list[str]:
    """A field of an entry in lines that fit the page: BibTeX takes a break for a space."""
    return textwrap.wrap(line, 76, initial_indent="  ", subsequent_indent=" " * 13)


# What ran


def executed(env: BuildEnvironment, path: Path) -> tuple[float, str] | None:
    """Seconds and date of the execution whose outputs a page shows."""
    try:
        cache = get_cache(env.mystnb_config.execution_cache_path)  # type: ignore[attr-defined]
        record = cache.match_cache_notebook(nbformat.read(path, nbformat.NO_CONVERT))
    except (AttributeError, KeyError):
        return None
    seconds = (record.data or {}).get("execution_seconds")
    return None if seconds is None else (seconds, f"{record.created:%d %B %Y}")


def versions() -> list[str]:
    """Python's version and those of what the chapters compute with."""
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found


def status_lines(env: BuildEnvironment, root: Path) -> list[str]:
    """The page of the build's status, below its title, as Markdown."""
    lines = [
        "| chapter | executed | seconds | compared cells | assertions | results | exercises |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    total = [0.0, 0, 0, 0, 0]
    for path in chapters(root):
        chapter = counted(path)
        ran = executed(env, path)
        text = path.read_text(encoding="utf8")
        exercises = len(set(re.findall(rf":label: ({path.stem[:2]}-[\w-]+)", text)))
        numbers = (chapter.compared, chapter.assertions, len(chapter.results), exercises)
        total = [a + b for a, b in zip(total, (ran[0] if ran else 0, *numbers), strict=True)]
        when, seconds = (ran[1], f"{ran[0]:.0f}") if ran else ("not by this build", "")
        cells = " | ".join(map(str, (when, seconds, *numbers)))
        lines.append(f"| [{chapter.title}](../chapters/{path.name}) | {cells} |")
    sums = " | ".join(f"**{number:.0f}**" for number in total)
    return [*lines, f"| **together** | | {sums} |", "", f"Computed with {', '.join(versions())}."]


class StatusDirective(Listed):
    """What this build executed, chapter by chapter; `book/status.py` then tells of the tests."""

    def run(self) -> list[nodes.Node]:
        self.read()
        lines = status_lines(self.env, self.root)
        self.env.lt_status = lines  # type: ignore[attr-defined]
        return [*self.parse(lines), nodes.container(classes=["lt-last-tests"])]


def outdated_status(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """The status is read again where something ran since."""
    if STATUS not in env.found_docs:
        return []
    counted.cache_clear()
    same = getattr(env, "lt_status", None) == status_lines(env, Path(str(env.srcdir)))
    return [] if same else [STATUS]


def keep_status(
    app: Sphinx, env: BuildEnvironment, docnames: list[str], other: BuildEnvironment
) -> None:
    """What a process that read a part of the pages remembers of the status."""
    if STATUS in docnames:
        env.lt_status = other.lt_status  # type: ignore[attr-defined]


def setup(app: Sphinx) -> dict[str, bool | int]:
    app.add_directive("results", ResultsDirective)
    app.add_directive("proved", ProvedDirective)
    app.add_directive("status", StatusDirective)
    app.add_directive("citation", CitationDirective)
    app.connect("doctree-read", give_anchors)
    app.connect("env-get-outdated", outdated_status)
    app.connect("env-merge-info", keep_status)
    own = zlib.crc32(Path(__file__).read_bytes())  # a change here reads every page again
    return {"env_version": own, "parallel_read_safe": True, "parallel_write_safe": True}
