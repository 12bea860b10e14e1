"""Mathematics of the book: MathML with its TeX, errors named, every character in the font."""

import re
import sys
import unicodedata
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


def test_a_prime_is_let_down_to_its_letter():
    """The font draws it raised: raised again it stood above the letter's top, as good as unseen."""
    for tex in ("h'", "c_n''"):
        made = mathematics.mathml(tex, False)
        assert re.search(r'<mpadded height="[^"]+" voffset="-0.5em"><mo [^>]*>[′″]</mo>', made)


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


def test_letters_in_italics_are_those_of_unicode():
    """Latin and Greek, both cases, and the two forms that are signs; the planck constant is h."""
    latin = [chr(code) for code in (*range(65, 91), *range(97, 123))]
    greek = [chr(code) for code in (*range(0x391, 0x3AA), *range(0x3B1, 0x3CA))]
    assert {chr(code) for code in mathematics.ITALICS} == {*latin, *greek, "ϵ", "∂"}
    for code, italic in mathematics.ITALICS.items():
        name = unicodedata.name(chr(italic))
        assert unicodedata.normalize("NFKC", chr(italic)) in (
            chr(code), unicodedata.normalize("NFKC", chr(code))
        ) or code == 0x3A2  # fmt: skip
        assert name.startswith("MATHEMATICAL ITALIC ") or name == "PLANCK CONSTANT"


def test_what_has_no_glyph_is_not_asked_of_the_font():
    marks = "".join(map(chr, (0x2061, 0x2062, 0x2063, 0x2064, 0xFE00)))
    page = f"<math>\n<mi>x</mi><mi>xy</mi><mi>&lt;</mi>{marks}<mn>1</mn></math><p>z</p><math/>"
    assert {chr(code) for code in mathematics.drawn(page)} == set("\n𝑥xy<1")
    assert mathematics.drawn("<math><mroot></mroot></math>") == {ord("√")}
    assert mathematics.drawn("<math><mrow></mrow></math>") == mathematics.drawn("√") == set()


@pytest.mark.parametrize("name", ["align", "gather", "equation", "multline"])
def test_an_environment_is_not_numbered(name: str):
    inside = r"x \\\\ y" if name != "equation" else "x"
    made = mathematics.mathml(rf" \begin{{{name}}}{inside}\end{{{name}}} ", True)
    assert "(1)" not in made and rf"\begin{{{name}*}}" in made
    assert mathematics.mathml("x", False) is mathematics.mathml("x", False)


def test_lines_are_aligned_where_they_are_displayed_alone():
    with pytest.raises(ValueError, match="in 'a &= b'"):
        mathematics.mathml(" a &= b ", True)
    assert "<mtr" not in mathematics.mathml(r"a \\ b", False)
    kept = mathematics.mathml(r"\begin{cases}a \\ b\end{cases}", True)
    assert kept.count("<mtable") == 1


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
