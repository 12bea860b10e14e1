"""Drawings: text is text, said in a sentence, legible on a telephone, nothing on anything else."""

import functools
import re
from xml.etree import ElementTree

import pytest

from drawn import example, faults, pictures, sheet
from linear_time.drawing import INKS, KINDS, Drawing, markup
from linear_time.pictures.mamba import PARTS, mamba_drawing, part_drawing

SENTENCE = "A box with a word in it and an arrow to a second box."


def small():
    drawing = Drawing("Two boxes", SENTENCE, height=120)
    drawing.box(100, 24, 90, "linear *W*_{in}", kind="weights")
    drawing.arrow((100, 40), (100, 80), label="(length, 2*d*)")
    drawing.box(100, 96, 90, "one\ntwo", h=44, copies=2)
    drawing.sign(300, 60, "+", kind="state")
    return drawing


def parsed(drawing):
    return ElementTree.fromstring(drawing.svg())


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("plain", "plain"),
        ("a < b & c", "a &lt; b &amp; c"),
        ("*x*", '<tspan font-style="italic">x</tspan>'),
        ("h_t", 'h<tspan font-size="75%" dy="0.333em">t</tspan>'),
        (
            "W_{in} x",
            'W<tspan font-size="75%" dy="0.333em">in</tspan><tspan dy="-0.25em"> x</tspan>',
        ),
        ("a^2_i", 'a<tspan font-size="75%" dy="-0.533em">2</tspan>'
         '<tspan font-size="75%" dy="0.867em">i</tspan>'),
    ],
)  # fmt: skip
def test_marks_become_spans_and_the_line_returns_to_its_height(text, html):
    assert markup(text) == html


def test_it_says_what_it_is():
    svg = parsed(small())
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == f"Two boxes. {SENTENCE}"
    assert svg.get("viewBox") == "0 0 380 120"
    assert repr(small()) == "<drawing: Two boxes>"
    words = ["".join(text.itertext()) for text in svg.iter("text")]
    assert words == ["linear Win", "(length, 2d)", "one", "two", "+"]


def test_it_has_no_colour_of_its_own_and_no_id():
    """The page's variables, so that a dark page is dark; two drawings would share an id."""
    svg = small().svg()
    for value in re.findall(r'(?:fill|stroke)="([^"]+)"', svg):
        assert value in {*INKS.values(), "none"} or "background" in value
    assert "id=" not in svg and "url(" not in svg and "<style" not in svg


def test_kinds_are_inks():
    assert set(KINDS.values()) <= set(INKS.values())


def test_a_head_points_along_its_last_stretch():
    drawing = Drawing("An arrow", SENTENCE, height=100)
    drawing.arrow((10, 10), (10, 50), (90, 50))
    line, head = (path.get("d") for path in parsed(drawing).iter("path"))
    assert line == "M10 10L10 50L90 50"
    assert head == "M90 50L82 53.5L82 46.5z"


@pytest.mark.bad_input
def test_a_slip_is_an_error():
    with pytest.raises(ValueError, match="description: expected a full sentence, got 'A box'"):
        Drawing("t", "A box", 10)
    with pytest.raises(ValueError, match=r"size: expected letters of at least 11.5 units, got 9"):
        small().text(10, 10, "tiny", size=9)
    with pytest.raises(ValueError, match="part: expected one of in, conv, select, scan, gate, out"):
        mamba_drawing("attention")


@functools.cache
def window(chromium):
    """One for all: what it showed before is gone with its document."""
    return chromium.new_page()


def look(chromium, *figures, widths=(360,)):
    page, found = window(chromium), []
    page.set_content(sheet(*figures))
    for width in widths:
        page.set_viewport_size({"width": width, "height": 900})
        found += faults(page)
    return found


def planted():
    def outside(d):
        d.text(370, 60, "beyond the edge")

    def wide(d):
        d.box(250, 100, 40, "a long text")

    def edge(d):
        d.text(145, 24, "on an edge")

    def meets(d):
        d.text(130, 62, "words")

    def crossed(d):
        d.line((180, 80), (360, 80))
        d.text(220, 80, "struck")

    answers = {
        outside: "outside the drawing", wide: "wider than its box", edge: "on the edge",
        meets: "meets", crossed: "a line runs through it",
    }  # fmt: skip
    return [pytest.param(fault, answer, id=fault.__name__) for fault, answer in answers.items()]


def test_a_good_drawing_has_no_fault(chromium):
    assert look(chromium, small(), widths=(1280, 360)) == []


@pytest.mark.parametrize(("fault", "answer"), planted())
def test_a_fault_is_found(chromium, fault, answer):
    drawing = small()
    fault(drawing)
    assert any(answer in line for line in look(chromium, drawing))


def test_small_letters_and_a_missing_sentence_are_found(chromium):
    drawing = small()
    drawing.WIDTH = 500
    assert any("px high" in line for line in look(chromium, drawing))
    drawing = small()
    drawing.description = "Short"
    assert look(chromium, drawing) == ["no sentence"]


DRAWINGS = pictures("_drawing") | {"gate-drawing": lambda: example("gate_drawing")}


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_books_drawings_are_legible(chromium, name):
    assert look(chromium, DRAWINGS[name](), widths=(1280, 360)) == []


@pytest.mark.parametrize("part", PARTS[1:])
def test_a_part_of_the_block_is_pointed_at(part):
    """It keeps its ink, the rest is quiet; the words and places stay."""
    whole, pointed = parsed(mamba_drawing()), parsed(mamba_drawing(part))
    text = ["".join(t.itertext()) for t in whole.iter("text")]
    assert text == ["".join(t.itertext()) for t in pointed.iter("text")]
    inks = [[e.get("stroke") for e in svg.iter() if e.get("stroke")] for svg in (whole, pointed)]
    kept = sum(a == b for a, b in zip(*inks, strict=True))
    assert 0 < kept < len(inks[0]) and set(inks[1]) - {INKS["grey"]} <= set(inks[0])


@pytest.mark.parametrize("part", PARTS[1:])
def test_a_part_that_is_cut_out_is_legible(chromium, part):
    """All of its own ink is in the cut, and no word that the whole does not have."""

    def words(drawing, quiet):
        texts = parsed(drawing).iter("text")
        return ["".join(t.itertext()) for t in texts if (t.get("fill") == INKS["grey"]) == quiet]

    cut, whole = part_drawing(part), mamba_drawing(part)
    assert look(chromium, cut, widths=(1280, 360)) == []
    assert cut.height < 250 and set(words(cut, True)) <= set(words(whole, True))
    own = [kind for kind in re.findall(r'stroke="([^"]+)"', cut.svg()) if kind != INKS["grey"]]
    assert len(own) > 2
