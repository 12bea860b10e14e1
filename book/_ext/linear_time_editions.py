"""Editions of the book: with every solution open and notes for teaching, or without any solution.

`book/build.py --edition …` says in the environment which one is built. Solutions leave a page when
it has been read, so neither the page nor the search knows them, and the copies of the notebooks
lose theirs at the end.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from pathlib import Path

import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

ROOT = Path(__file__).resolve().parent.parent.parent
EDITION = os.environ.get("LINEAR_TIME_EDITION", "public")


def is_solution(cell: dict) -> bool:
    """Whether a cell is a solution, or the rubric of an answer in prose."""
    return bool({"solution", "rubric"} & set(cell.get("metadata", {}).get("tags", [])))


def without_doors(app: Sphinx, config: Config) -> None:
    """No button of the edition without solutions leads to notebooks that have them."""
    if EDITION == "without-solutions":
        options = config.html_theme_options
        options["launch_buttons"] = {}
        for name in ("repository", "edit_page", "issues", "source"):
            options[f"use_{name}_button"] = name == "issues"


def shown_or_gone(app: Sphinx, doctree: nodes.document) -> None:
    """Open the solutions of a page, or take them away."""
    if EDITION == "public":
        return
    for cell in list(doctree.findall(nodes.container)):
        if "tag_solution" in cell["classes"]:
            if EDITION == "instructor":
                cell.attributes.pop("hide_mode", None)
            else:
                cell.parent.remove(cell)


def copies_too(app: Sphinx, error: Exception | None) -> None:
    """The notebooks that the site offers for download have no solution either."""
    if error or EDITION != "without-solutions" or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.ipynb"):
        notebook = nbformat.read(path, nbformat.NO_CONVERT)
        notebook.cells = [cell for cell in notebook.cells if not is_solution(cell)]
        nbformat.write(notebook, path)


def edit_markdown(app: Sphinx, docname: str, source: list[str]) -> None:
    """A chapter's notes for teaching, below its title; or its text without rubrics.

    The code's cells stay, since the executed outputs belong to them.
    """
    chapter = re.fullmatch(r"chapters/(\d\d)-.*", docname)
    if EDITION == "public" or not chapter:
        return
    notebook = json.loads(source[0])
    cells = notebook["cells"]
    if EDITION == "instructor":
        cells.insert(1, dict(nbformat.v4.new_markdown_cell(notes(chapter[1]))))
    else:
        cells[:] = [c for c in cells if c["cell_type"] == "code" or not is_solution(c)]
    source[0] = json.dumps(notebook)


def notes(number: str) -> str:
    """Minutes and points of a chapter's exercises, what students get wrong, known wrong answers."""
    sys.path.append(str(ROOT / "book"))
    import course

    chapter = course.chapter(number)
    minutes = sum(made.minutes for made in chapter.exercises.values())
    lines = [
        "::::{admonition} For the instructor",
        f"Reading: {chapter.core} minutes, and {chapter.detours} for the detours. "
        f"Exercises: {minutes} minutes in all.",
        "",
        "| exercise | kind | difficulty | minutes | points | objective |",
        "|---|---|---|---|---|---|",
    ]
    for made in chapter.exercises.values():
        dots = "●" * made.difficulty
        lines.append(
            f"| {made.name} · {made.title} | {made.kind or 'code'} | {dots} | {made.minutes} "
            f"| {course.points(made)} | {made.objective} |"
        )
    for title, found in (
        ("What students get wrong", misconceptions(number)),
        ("Wrong answers that a check knows, beside others", wrong_answers(chapter.stem)),
    ):
        if found:
            lines += ["", f"**{title}**", "", *(f"- {text}" for text in found)]
    return "\n".join([*lines, "::::"])


def misconceptions(number: str) -> list[str]:
    """The chapter's lines of "What students get wrong" on the page for instructors."""
    text = (ROOT / "book" / "instructors.md").read_text(encoding="utf8")
    return re.findall(rf"^- {number}: (.*)$", text, re.MULTILINE)


def wrong_answers(stem: str) -> list[str]:
    """What the tests' wrong answers to a chapter's exercises say of themselves."""
    topic = stem.partition("-")[2].replace("-", "_")
    path = ROOT / "tests" / "exercises" / f"{topic}.py"
    tree = ast.parse(path.read_text(encoding="utf8"))
    said = ((n, ast.get_docstring(n)) for n in tree.body if isinstance(n, ast.FunctionDef))
    return [f"`{n.name.strip('_')}`: {' '.join(text.split())}" for n, text in said if text]


def setup(app: Sphinx) -> dict[str, bool | str]:
    app.connect("config-inited", without_doors, priority=900)
    app.connect("source-read", edit_markdown)
    app.connect("doctree-read", shown_or_gone)
    app.connect("build-finished", copies_too)
    return {"version": EDITION, "parallel_read_safe": True, "parallel_write_safe": True}
