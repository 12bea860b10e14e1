"""Mathematics of the pages and the slides: TeX to MathML when the book is built, and its font."""

from __future__ import annotations

import functools
import html
import logging
import re
from collections.abc import Iterable
from pathlib import Path

from fontTools import subset
from math_core import LatexError, LatexToMathML

FONT = Path(__file__).resolve().parent / "math" / "linear-time-math.woff2"
# A single letter is set in italics: code points of a MathML `<mi>x</mi>` as a browser draws it.
ITALICS = {
    **{ord("A") + i: 0x1D434 + i for i in range(26)},
    **{ord("a") + i: 0x1D44E + i for i in range(26)},
    **{0x391 + i: 0x1D6E2 + i for i in range(25)},
    **{0x3B1 + i: 0x1D6FC + i for i in range(25)},
    ord("h"): 0x210E,
    0x3F5: 0x1D716,
    0x2202: 0x1D715,
}
logging.getLogger("fontTools").setLevel(logging.ERROR)
# What tells a browser how to set, and has no glyph.
SILENT = {0x2061, 0x2062, 0x2063, 0x2064, 0xFE00}


@functools.cache
def converter() -> LatexToMathML:
    return LatexToMathML(annotation=True, fancy_error=False)


@functools.cache
def mathml(tex: str, display: bool) -> str:
    r"""MathML of an equation, with its TeX as an annotation.

    Lines that are parted by `\\` outside an environment are aligned. An environment that would
    number its lines does not: the book numbers its equations itself.

    Raises:
        ValueError: an unknown macro, or another error of TeX, with the equation.
    """
    said = tex.strip()
    tex = re.sub(r"\\(begin|end)\{(align|gather|equation|multline)\}", r"\\\1{\2*}", said)
    if display and r"\\" in tex and not tex.startswith(r"\begin"):
        tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    try:
        made: str = converter().convert_with_local_state(tex, displaystyle=display)
    except LatexError as error:
        raise ValueError(f"{' '.join(str(error).split())} in {said!r}") from None
    # A prime is high in the font already: as a script it would float above its letter, and shrink.
    made = re.sub(
        r"<mo>([′″‴])</mo>(</msu(?:p|bsup)>)",
        r'<mpadded height="0.1em" voffset="-0.5em"><mo mathsize="140%">\1</mo></mpadded>\2',
        made,
    )
    # A fence of a given size that has a script: alone in a row, or Chromium draws it small.
    return re.sub(
        r"(<m(?:sub|sup|subsup)>)(<mo minsize=[^>]*>[^<]*</mo>)", r"\1<mrow>\2</mrow>", made
    )


def drawn(page: str) -> set[int]:
    """Code points of the glyphs that the mathematics of a page needs."""
    found: set[int] = set()
    for equation in re.findall(r"<math\b.*?</math>", page, re.DOTALL):
        equation = re.sub(r"<annotation.*?</annotation>", "", equation, flags=re.DOTALL)
        letters = re.findall(r"<mi>([^<])</mi>", equation)
        found.update(ITALICS[ord(letter)] for letter in letters if ord(letter) in ITALICS)
        found.update(map(ord, html.unescape(re.sub(r"<[^>]*>", "", equation))))
        if re.search("<m(sqrt|root)", equation):
            found.add(ord("√"))  # drawn by the browser, not written
    return found - SILENT


def cut_font(characters: Iterable[int], target: Path) -> None:
    """Write the font with these characters alone.

    Raises:
        ValueError: the font has no glyph for one of them.
    """
    options = subset.Options(flavor="woff2", layout_features=[])
    font = subset.load_font(str(FONT), options)
    wanted = set(characters)
    if missing := wanted - font.getBestCmap().keys():
        names = ", ".join(f"U+{code:04X} {chr(code)}" for code in sorted(missing))
        raise ValueError(f"{FONT.name}: no glyph for {names}: see math/README.md")
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=wanted)
    cutter.subset(font)
    target.parent.mkdir(parents=True, exist_ok=True)
    subset.save_font(font, str(target), options)
