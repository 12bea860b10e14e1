"""Mathematics of the book: MathML with its TeX, errors named, every character in the font."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fontTools.ttLib import TTFont

from book import NOTEBOOKS, ROOT

sys.path.insert(0, str(ROOT / "book"))
import mathematics


def shown(tex: str, display: bool = False) -> str:
    """What an equation shows, its TeX left out."""
    made = re.sub(r"<annotation.*?</annotation>", "", mathematics.mathml(tex, display))
    return "".join(ElementTree.fromstring(made).itertext())


def test_an_equation_shows_its_signs_and_carries_its_tex():
    made = mathematics.mathml(r"h_t < \bar A h_{t-1}", False)
    assert made.startswith("<math>")
    assert r"h_t &lt; \bar A h_{t-1}</annotation>" in made
    assert shown(r"h_t < \bar A h_{t-1}") == "ht<A¯ht−1"
    assert mathematics.mathml("x", True).startswith('<math display="block">')


@pytest.mark.parametrize("tex", [r"\nosuchmacro x", r"\frac{1}", r"\left( x", "x^2^3", "}{"])
def test_an_error_names_the_equation(tex: str):
    with pytest.raises(ValueError, match=re.escape(repr(tex))):
        mathematics.mathml(tex, False)


def test_lines_are_aligned_and_never_numbered():
    for tex in (r"a &= b \\ c &= d", r"\begin{align}a &= b \\ c &= d\end{align}"):
        made = mathematics.mathml(tex, True)
        assert made.count("<mtr") == 2
        assert "(1)" not in made
    assert shown(r"\begin{equation}x\end{equation}", True) == "x"


def test_a_large_bracket_keeps_its_size_below_a_script():
    made = mathematics.mathml(r"\Bigl[ x \Bigr]_0^1", True)
    assert re.search(r"<msubsup><mrow><mo minsize=[^>]*>]</mo></mrow>", made)


def test_a_page_s_characters_are_its_letters_upright_and_in_italics():
    page = mathematics.mathml(r"h \mathbb{R} \alpha, \operatorname{rank}", False)
    assert {chr(code) for code in mathematics.drawn(f"<p>Zz{page}Zz</p>")} == set("hℎℝα𝛼,rank")


def test_the_sign_of_a_root_is_in_the_font_although_no_equation_writes_it():
    for tex in (r"\sqrt{2}", r"\sqrt[3]{x}"):
        assert ord("√") in mathematics.drawn(mathematics.mathml(tex, False))


def test_the_font_is_cut_and_a_missing_character_is_named(tmp_path: Path):
    used = mathematics.drawn(mathematics.mathml(r"\sum_{i=1}^n x_i", True))
    mathematics.cut_font(used, tmp_path / "some" / "cut.woff2")
    cut = TTFont(tmp_path / "some" / "cut.woff2")
    assert set(cut.getBestCmap()) == used
    assert "MATH" in cut
    with pytest.raises(ValueError, match=r"no glyph for U\+4E2D 中"):
        mathematics.cut_font({ord("x"), 0x4E2D}, tmp_path / "cut.woff2")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_s_equations_are_in_the_font(path: Path):
    have = set(TTFont(mathematics.FONT).getBestCmap())
    text = re.sub(r"```.*?```|`[^`]*`", "", "\n".join(markdown(path)), flags=re.DOTALL)
    found = re.findall(r"\$\$(.+?)\$\$|(?<![\\$])\$([^$]+)\$", text, re.DOTALL)
    assert found
    for display, inline in found:
        used = mathematics.drawn(mathematics.mathml(display or inline, bool(display)))
        assert used <= have, (display or inline, used - have)


def markdown(path: Path) -> list[str]:
    import nbformat

    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "markdown"]
