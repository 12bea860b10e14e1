"""Mathematics is drawn when the book is built, as MathML: no script, and an error is a warning.

What a page shows is text that can be selected, searched, printed and read aloud.
"""

from __future__ import annotations

import html
import re
import sys
import zlib
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

BOOK = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(BOOK))
import mathematics  # noqa: E402

logger = logging.getLogger(__name__)


def render(node: nodes.Element, display: bool) -> str:
    tex = node.astext()
    try:
        return mathematics.mathml(tex, display)
    except ValueError as error:
        logger.warning("mathematics: %s", error, location=node)
        return f"<code>{html.escape(tex)}</code>"


def visit_math(self: Any, node: nodes.math) -> None:
    self.body.append(self.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    self.body.append(f"{render(node, False)}</span>")
    raise nodes.SkipNode


def visit_math_block(self: Any, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append(f'<div class="equation">{render(node, True)}</div></div>\n')
    raise nodes.SkipNode


def cut_font(app: Sphinx, error: Exception | None) -> None:
    """The site's font has what its mathematics needs, and no more."""
    if error or app.builder.format != "html":
        return
    used: set[int] = set()
    for page in Path(app.outdir).rglob("*.html"):
        used |= mathematics.drawn(page.read_text(encoding="utf8"))
    # The slides are made after the pages, from decks that have mathematics of their own.
    for deck in (BOOK / "slides").glob("*.md"):
        for tex in re.findall(r"\$([^$]+)\$", deck.read_text(encoding="utf8")):
            used |= mathematics.drawn(mathematics.mathml(tex, False))
    try:
        mathematics.cut_font(
            used | set(map(ord, "0123456789")), Path(app.outdir) / "_static/math.woff2"
        )
    except ValueError as missing:
        raise ExtensionError(str(missing)) from missing


def setup(app: Sphinx) -> dict[str, bool | int]:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("build-finished", cut_font, priority=900)
    own = Path(__file__).read_bytes() + Path(mathematics.__file__).read_bytes()
    return {  # a change here reads every page again
        "env_version": zlib.crc32(own),
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
