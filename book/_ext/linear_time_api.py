"""`{names}`: every public name of the package, by topic, with a link to where it is explained.

A page of `book/api` is a topic. What it documents joins the list when it is read.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PAGES = "book/api/"


class names(nodes.General, nodes.Element):
    """The place of the list, until every page is read."""


class NamesDirective(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [names()]


def documented(app: Sphinx) -> dict[str, list[tuple[str, str]]]:
    """Page -> the names that its modules define, each with its anchor, in the page's order."""
    objects = app.env.get_domain("py").objects  # type: ignore[attr-defined]
    modules = {name for name, entry in objects.items() if entry.objtype == "module"}
    found: dict[str, list[tuple[str, str]]] = {}
    for name, entry in objects.items():
        module, _, own = name.rpartition(".")
        if module in modules and entry.docname.startswith(PAGES) and entry.objtype != "module":
            found.setdefault(entry.docname, []).append((own, entry.node_id))
    return found


def chapter_first(title: str) -> tuple[int, str]:
    """In the order of the chapters that the titles name; then what serves all of them."""
    number = re.search(r"chapters? (\d+)", title)
    return (int(number[1]) if number else 99, title)


def listed(app: Sphinx, docname: str) -> nodes.definition_list:
    """The list as it stands on a page."""
    offered = documented(app)
    pages = {page for page in app.env.found_docs if page.startswith(PAGES)}
    made = nodes.definition_list(classes=["lt-names"])
    for page in sorted(pages, key=lambda page: chapter_first(app.env.titles[page].astext())):
        to = app.builder.get_relative_uri(docname, page)
        title = nodes.reference("", app.env.titles[page].astext(), internal=True, refuri=to)
        said = nodes.paragraph()
        for own, anchor in offered.get(page, []):
            link = nodes.reference("", "", internal=True, refuri=f"{to}#{anchor}")
            link += nodes.literal("", own)
            said += [nodes.Text(", ")] * bool(said.children) + [link]
        made += nodes.definition_list_item(
            "", nodes.term("", "", title), nodes.definition("", said)
        )
    return made


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for place in list(doctree.findall(names)):
        place.replace_self(listed(app, docname))


def setup(app: Sphinx) -> dict[str, bool | int]:
    app.add_node(names)
    app.add_directive("names", NamesDirective)
    app.connect("doctree-resolved", fill)
    version = zlib.crc32(Path(__file__).read_bytes())  # a change here reads every page again
    return {"env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}
