"""Two layers on a page: detours and answers, folded by the tags of their cells; and drawings.

A section whose heading's cell is tagged `detour` is folded below what stands in that cell;
neighbouring cells tagged `answer` are folded together, and so is a `rubric`. All happens after
numbers, contents and references are made, so that nothing changes for them. `layers.js` opens a
fold that a link leads into, and puts a box for the reader's number in the place of a cell tagged
`predict`.
"""

from __future__ import annotations

import re
import sys
import zlib
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_nb.sphinx_ import SphinxNbRenderer
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

WORDS_A_MINUTE = 150  # of prose and code together
RUNS = {  # tags whose neighbouring cells become one fold, and what it says closed and open
    "answer": ("Reveal what was measured", "Hide it again"),
    "rubric": ("Rubric", "Rubric"),
}


def render_markdown_cell(self: SphinxNbRenderer, token: Any) -> None:
    """A Markdown cell, its tags as classes, as a code cell has: on its section or its blocks."""
    tags = [f"tag_{tag}" for tag in token.meta["metadata"].get("tags", [])]
    if "tag_caption" in tags:
        return  # for plain Jupyter: the page has it below the figure
    parent, before = self.current_node, len(self.current_node)
    self.render_children(token)
    made: list[nodes.Node] = parent.children[before:]
    if tags and token.children and token.children[0].type == "heading":
        level = int(token.children[0].tag[1]) + self._heading_offset
        section = self._level_to_section[level]
        section["shown"] = len(section)  # of a detour: its heading, and what stands in its cell
        made = [section]
    for node in made:
        if isinstance(node, nodes.Element):
            node["classes"] += tags


def has_tag(node: nodes.Node | None, tag: str) -> bool:
    return isinstance(node, nodes.Element) and f"tag_{tag}" in node["classes"]


def is_own_fold(node: nodes.Node) -> bool:
    """The `<details>` that such a cell brings along for Jupyter: a page folds the whole run."""
    return isinstance(node, nodes.raw) and bool(
        re.fullmatch(r"\s*(<details>\s*(<summary>.*</summary>)?|</details>)\s*", node.astext())
    )


def folded(children: list[nodes.Node], kind: str, says: str, hides: str) -> list[nodes.Node]:
    """The nodes inside one `<details>`."""
    opening = (
        f'<details class="lt-fold lt-{kind}"><summary><span class="lt-open">{escape(says)}</span>'
        f'<span class="lt-close">{escape(hides)}</span></summary>\n'
    )
    closing = nodes.raw("", "</details>\n", format="html")
    return [nodes.raw("", opening, format="html"), *children, closing]


def fold_runs(parent: nodes.Element, tag: str) -> None:
    """Each run of cells with the tag becomes one fold."""
    kept: list[nodes.Node] = []
    run: list[nodes.Node] = []
    for child in [*parent.children, None]:
        if child is not None and has_tag(child, tag):
            run.append(child)
            continue
        if run:
            kept += folded([node for node in run if not is_own_fold(node)], tag, *RUNS[tag])
            run = []
        if child is not None:
            kept.append(child)
    parent.children = []
    parent.extend(kept)


def fold_detour(section: nodes.section) -> None:
    """All of a section but its heading and the words in the heading's cell."""
    shown, rest = section.children[: section["shown"]], section.children[section["shown"] :]
    words = sum(len(re.findall(r"\w+", node.astext())) for node in rest)
    minutes = max(2, round(words / WORDS_A_MINUTE))
    says = f"Open the detour, about {minutes} minutes"
    section.children = []
    section.extend([*shown, *folded(rest, "detour", says, "Fold the detour")])


def fold_page(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Fold what the tags of a page say."""
    if app.builder.format != "html":
        return
    for parent in list(doctree.findall(nodes.Element)):
        for tag in RUNS:
            if any(has_tag(child, tag) for child in parent.children):
                fold_runs(parent, tag)
    for section in list(doctree.findall(nodes.section)):
        if has_tag(section, "detour"):
            fold_detour(section)


class DrawingDirective(SphinxDirective):
    """`{drawing} home.paths_drawing` on a page without code: what `linear_time.pictures` draws.

    Its content is the caption.
    """

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        name, _, function = self.arguments[0].partition(".")
        try:
            module = import_module(f"linear_time.pictures.{name}")
            drawing = getattr(module, function)()
        except (ImportError, AttributeError) as error:
            raise self.error(f"expected a drawing of linear_time.pictures, got {error}") from error
        for source in (module, sys.modules[type(drawing).__module__]):
            self.env.note_dependency(str(source.__file__))
        figure = nodes.container(classes=["lt-figure"])
        figure += nodes.raw("", drawing.svg(), format="html")
        self.state.nested_parse(self.content, self.content_offset, figure)
        return [figure]


def setup(app: Sphinx) -> dict[str, bool | int]:
    app.add_directive("drawing", DrawingDirective)
    SphinxNbRenderer.render_nb_cell_markdown = render_markdown_cell
    app.connect("doctree-resolved", fold_page, priority=900)
    app.add_css_file("layers.css")
    app.add_js_file("layers.js", loading_method="defer")
    version = zlib.crc32(Path(__file__).read_bytes())  # a change here reads every page again
    return {"env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}
