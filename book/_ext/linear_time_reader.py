"""A reader's tools: terms explained where they are used, symbols that lead to where they begin.

The first use of a term of the glossary on a page is a link to it, whose sentence `reader.js` shows
on hover and focus. On the notation page a symbol links to its first formula in the chapters that a
comment `% in: 11 12` below the heading of its section names, and these are printed there. The foot
of a page says when it was last changed and where to report a mistake, and its head names the card
that `book/cards.py` draws.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from docutils import nodes
from sphinx.application import Sphinx

GLOSSARY, NOTATION = "book/glossary", "book/notation"
#: Pages that are lists themselves.
PLAIN = {GLOSSARY, NOTATION, "book/api", "book/bibliography", "book/results", "book/changes"}
#: A term inside one of these is a name, a title or code.
CLOSED = (
    nodes.reference, nodes.literal, nodes.literal_block, nodes.title, nodes.rubric, nodes.table,
    nodes.math, nodes.math_block, nodes.raw, nodes.caption, nodes.footnote, nodes.field_list,
)  # fmt: skip
#: What sphinx-exercise gives to the content of each, on one page again and again.
OF_EVERY_EXERCISE = (["exercise-content"], ["solution-content"])
ACCENTS = ("\\bar", "\\hat", "\\tilde", "\\dot", "\\mathcal", "\\text", "\\mathrm")


# Terms


#: How a further sense of a word begins, and in which chapters it is meant.
SENSE = re.compile(r"In chapters? (\d\d(?:(?:, | and )\d\d)*), (.+)", re.DOTALL)


def senses_of(paragraphs: list[str]) -> dict[str, str]:
    """Number of a chapter -> a word's sentence there; under "" that of all other pages.

    The sentences are those of the entry, without the name of the chapter at their end.
    """
    found = {}
    for text in paragraphs:
        sentence = text.partition(". Chapter")[0].rstrip(".") + "."
        other = SENSE.fullmatch(sentence)
        for number in re.findall(r"\d\d", other[1]) if other else [""]:
            found[number] = other[2][0].upper() + other[2][1:] if other else sentence
    return found


def terms_of(app: Sphinx) -> dict[str, tuple[str, dict[str, str]]]:
    """Term -> its anchor on the glossary's page and its senses; none where there is no glossary."""
    if GLOSSARY not in app.env.found_docs:
        return {}
    found = {}
    for item in app.env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        senses = senses_of([paragraph.astext() for paragraph in item.findall(nodes.paragraph)])
        entry = list(item.findall(nodes.term))
        found.update({term.astext(): (entry[0]["ids"][0], senses) for term in entry})
    return found


def pattern_of(terms: list[str]) -> re.Pattern[str]:
    """Any of some terms, also in the plural; the longest that fits. An acronym keeps its case."""
    words = []
    for term in sorted(terms, key=len, reverse=True):
        word = re.escape(term).replace(r"\ ", r"\s+")
        words.append(word if term[1:] != term[1:].lower() else f"(?i:{word})")
    return re.compile(rf"(?<![\w-])(?P<term>{'|'.join(words)})(?P<plural>e?s)?(?![\w-])")


def link_terms(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Make the first use of each term in the prose of a page a link to the glossary."""
    if app.builder.format != "html" or docname in PLAIN or docname.startswith("book/api/"):
        return
    if not hasattr(app, "lt_terms"):
        app.lt_terms = terms_of(app)  # type: ignore[attr-defined]
    terms: dict[str, tuple[str, dict[str, str]]] = app.lt_terms
    if not terms:
        return
    pattern = pattern_of(list(terms))
    by_form = {re.sub(r"\s+", " ", term).lower(): term for term in terms}
    to = app.builder.get_relative_uri(docname, GLOSSARY)
    chapter = docname.removeprefix("chapters/")[:2]
    seen: set[str] = set()
    for text in list(doctree.findall(nodes.Text)):
        if not in_prose(text):
            continue
        pieces: list[nodes.Node] = []
        end = 0
        for match in pattern.finditer(str(text)):
            term = by_form[re.sub(r"\s+", " ", match["term"]).lower()]
            anchor, senses = terms[term]
            if anchor in seen:
                continue
            seen.add(anchor)
            link = nodes.reference("", match[0], internal=True, refuri=f"{to}#{anchor}")
            link["classes"] = ["lt-term"]
            link["reftitle"] = senses.get(chapter, senses[""])
            pieces += [nodes.Text(str(text)[end : match.start()]), link]
            end = match.end()
        if pieces:
            pieces.append(nodes.Text(str(text)[end:]))
            text.parent.replace(text, [piece for piece in pieces if piece.astext()])


def in_prose(text: nodes.Node) -> bool:
    """Whether a text stands in a paragraph, outside of links, code, tables and figures."""
    node, prose = text.parent, False
    while node is not None:
        if isinstance(node, CLOSED) or "lt-figure" in node.get("classes", ()):
            return False
        prose = prose or isinstance(node, nodes.paragraph)
        node = node.parent
    return prose


# Symbols


def tokens(tex: str) -> list[str]:
    """TeX as control words, single characters, and `\\text{…}` whole."""
    return re.findall(r"\\(?:text|mathrm|operatorname)\{[^}]*\}|\\[A-Za-z]+|\\.|[^\s{}]", tex)


def first_symbol(tex: str) -> str:
    """What stands before the first comma that is in no bracket: `a_t` of `a_t, b_t`."""
    depth = 0
    for place, letter in enumerate(tex):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            return tex[:place]
    return tex


def holds(formula: list[str], symbol: list[str]) -> bool:
    """Whether a formula has the symbol, with no other accent and no further index."""
    for start in range(len(formula) - len(symbol) + 1):
        end = start + len(symbol)
        before = formula[start - 1] if start else ""
        after = formula[end] if end < len(formula) else ""
        if formula[start:end] == symbol and before not in ACCENTS:
            if after == "_" and "_" not in symbol:
                continue
            return True
    return False


def formulas_of(app: Sphinx, docname: str) -> list[tuple[list[str], str]]:
    """A chapter's formulas in order, each with an anchor: its own, its exercise's or section's."""
    found = []
    for node in app.env.get_doctree(docname).findall(
        lambda node: isinstance(node, (nodes.math, nodes.math_block))
    ):
        holder = node
        while holder is not None and not (
            holder.get("ids")
            and isinstance(holder, (nodes.math_block, nodes.Admonition, nodes.section))
            and holder["ids"] not in OF_EVERY_EXERCISE
        ):
            holder = holder.parent
        if holder is not None:
            found.append((tokens(node.astext()), holder["ids"][0]))
    return found


def no_id_twice(app: Sphinx, doctree: nodes.document, name: str) -> None:
    """Take from each exercise's content an id that all have: Sphinx needs it to number, no more."""
    for section in doctree.findall(nodes.section):
        if section["ids"] in OF_EVERY_EXERCISE:
            section["ids"] = []


def chapters_named(section: nodes.section) -> list[str]:
    """The numbers in a section's comment `% in: 11 12`."""
    for node in section.children:
        if isinstance(node, nodes.comment) and node.astext().startswith("in:"):
            return node.astext().removeprefix("in:").split()
    return []


def link_symbols(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """On the notation page, let each symbol lead to its first formula."""
    if app.builder.format != "html" or docname != NOTATION:
        return
    pages = {name.split("/")[-1][:2]: name for name in app.env.found_docs if "chapters/" in name}
    formulas: dict[str, list[tuple[list[str], str]]] = {}
    for section in list(doctree.findall(nodes.section)):
        say_chapters(app, section, pages)
        for row in (row for table in section.children if isinstance(table, nodes.table)
                    for body in table.findall(nodes.tbody) for row in body.children):  # fmt: skip
            for math in list(row.children[0].findall(nodes.math)):
                place = introduced(
                    app,
                    math.astext(),
                    [pages[n] for n in chapters_named(section) if n in pages],
                    formulas,
                )
                if place:
                    page, anchor = place
                    to = f"{app.builder.get_relative_uri(docname, page)}#{anchor}"
                    link = nodes.reference("", "", math.deepcopy(), internal=True, refuri=to)
                    link["classes"] = ["lt-symbol"]
                    link["reftitle"] = "where it comes in"
                    math.parent.replace(math, link)


def say_chapters(app: Sphinx, section: nodes.section, pages: dict[str, str]) -> None:
    """Below the heading of a table of symbols, the chapters that it is for, in their order."""
    named = [number for number in sorted(chapters_named(section)) if number in pages]
    words: list[nodes.Node] = [nodes.Text("Chapters " if len(named) > 1 else "Chapter ")]
    for place, number in enumerate(named):
        separator = "" if not place else " and " if number == named[-1] else ", "
        to = app.builder.get_relative_uri(NOTATION, pages[number])
        words += [nodes.Text(separator), nodes.reference("", number, internal=True, refuri=to)]
    if named:
        comment = next(iter(section.findall(nodes.comment)))
        section.insert(section.index(comment), nodes.paragraph("", "", *words))


def introduced(
    app: Sphinx, tex: str, pages: list[str], formulas: dict[str, list[tuple[list[str], str]]]
) -> tuple[str, str] | None:
    """The page and the anchor of the first formula with a symbol."""
    symbol = tokens(first_symbol(tex))
    for page in pages:
        if page not in formulas:
            formulas[page] = formulas_of(app, page)
        for formula, anchor in formulas[page]:
            if holds(formula, symbol):
                return page, anchor
    return None


# Head and foot of a page


def head_and_foot(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Where to report a mistake on a page, and its card."""
    repository = app.config.html_theme_options.get("repository_url")
    if doctree is None or not repository:
        return
    title = re.sub(r"<[^>]+>", "", context.get("title", pagename))
    about = urlencode({"title": f"Mistake on “{title}”", "body": f"Page: {pagename}\n\n"})
    context["report_mistake"] = f"{repository}/issues/new?{about}"
    if pagename in app.env.found_docs:
        card = f"{app.config.html_baseurl}_static/cards/{Path(pagename).name}.png"
        picture = {"og:image": card, "og:image:alt": f"A drawing of the page {title}"}
        context["meta"] = {**(context.get("meta") or {}), **picture}


def setup(app: Sphinx) -> dict[str, bool | int]:
    app.connect("doctree-resolved", link_terms)
    app.connect("doctree-resolved", link_symbols)
    app.connect("doctree-resolved", no_id_twice)
    app.connect("html-page-context", head_and_foot, priority=300)  # before opengraph's
    app.add_css_file("reader.css")
    app.add_js_file("reader.js", loading_method="defer")
    version = zlib.crc32(Path(__file__).read_bytes())  # a change here reads every page again
    return {"env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}
