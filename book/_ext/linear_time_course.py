"""Teaching pages made of the chapters' own words, and the link from a chapter to its slides.

`{week} 11 12` on a page prints what two chapters say of themselves: what to read and how long it
takes, what to borrow where the course has skipped a chapter, their objectives, and a table of the
exercises that are named, with their minutes. Its content, the discussion and the milestone,
follows.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

BOOK = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(BOOK))
import course  # noqa: E402


def deck(stem: str) -> bool:
    """Whether a chapter has slides."""
    return (BOOK / "slides" / f"{stem}.md").is_file()


def link(number: str) -> str:
    chapter = course.chapter(number)
    return f"[{number} · {chapter.title}](../chapters/{chapter.stem}.ipynb)"


def reading(number: str) -> str:
    """A chapter, its minutes, and its slides."""
    chapter = course.chapter(number)
    address = f"../slides/{chapter.stem}.html"  # made after the pages, so no page to MyST
    slides = f', <a href="{address}">slides</a>' if deck(chapter.stem) else ""
    return f"{link(number)} ({chapter.core} min; detours {chapter.detours}{slides})"


def borrowed(number: str, other: str, half: course.Half) -> str:
    return f"for {number}, of {link(other)} the section *{half.heading}* ({half.why})"


def exercises(names: tuple[str, ...]) -> list[str]:
    """A table of exercises, with the sum of their minutes.

    Raises:
        KeyError: there is no such exercise.
    """
    chosen = [course.chapter(name[:2]).exercises[name] for name in names]
    rows = [
        f"| `{made.name}` | {made.title} | {made.minutes} | {'●' * made.difficulty} "
        f"| {made.kind or '–'} | {made.objective} |"
        for made in chosen
    ]
    total = sum(made.minutes for made in chosen)
    head = ["| exercise | title | min | | kind | objective |", "|---|---|---|---|---|---|"]
    return [*head, *rows, f"| | **together** | **{total}** | | | |"]


class WeekDirective(SphinxDirective):
    """What a week's chapters say of themselves; see the module."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[dict[str, Any]] = {
        "course": directives.unchanged_required,
        "exercises": directives.unchanged_required,
    }
    has_content = True

    def run(self) -> list[nodes.Node]:
        numbers = tuple(" ".join(self.arguments).split())
        read = self.env.temp_data.setdefault(f"course {self.options['course']}", set())
        try:
            halves = course.to_borrow(numbers, read)
            table = exercises(tuple(self.options["exercises"].split()))
            read.update(numbers)
            chapters = [course.chapter(number) for number in numbers]
        except (KeyError, ValueError) as error:
            raise self.error(f"week {self.arguments[0]}: {error}") from error
        for chapter in chapters:
            self.env.note_dependency(str(course.ROOT / "chapters" / f"{chapter.stem}.ipynb"))
        lines = ["**Read** " + "; ".join(map(reading, numbers)) + "."]
        if halves:
            lines += ["", "**Borrow** " + "; ".join(borrowed(*half) for half in halves) + "."]
        shown = nodes.container(classes=["lt-week"])
        self.parse(lines, shown)
        shown += nodes.raw("", "<details><summary>Objectives</summary>\n", format="html")
        for chapter in chapters:
            stated = [f"- {objective.text}" for objective in chapter.objectives]
            self.parse([f"Chapter {chapter.number}: the student can", "", *stated], shown)
        shown += nodes.raw("", "</details>\n", format="html")
        self.parse(table, shown)
        self.state.nested_parse(self.content, self.content_offset, shown)
        return [shown]

    def parse(self, lines: list[str], into: nodes.Element) -> None:
        self.state.nested_parse(StringList(lines, str(self.env.docname)), 0, into)


def link_slides(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """After a chapter's reading and running time, a link to its deck."""
    folder, _, stem = docname.partition("/")
    if app.builder.format != "html" or folder != "chapters" or not deck(stem):
        return
    for paragraph in doctree.findall(nodes.paragraph):
        if "Running time" in paragraph.astext():
            to = nodes.reference("", "slides", refuri=f"../slides/{stem}.html", internal=False)
            paragraph += [nodes.Text(" For a lecture: "), to, nodes.Text(".")]
            return


def setup(app: Sphinx) -> dict[str, bool | int]:
    app.add_directive("week", WeekDirective)
    app.connect("doctree-resolved", link_slides)
    # A change here, in what a course is, or of the decks that there are, reads every page again.
    decks = " ".join(sorted(path.stem for path in (BOOK / "slides").glob("*.md")))
    own = Path(__file__).read_bytes() + (BOOK / "course.py").read_bytes()
    return {
        "env_version": zlib.crc32(own + decks.encode()),
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
