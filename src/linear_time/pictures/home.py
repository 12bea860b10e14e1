"""The home page: the book's idea in one drawing, and its paths as a map."""

from typing import NamedTuple

from linear_time.drawing import Drawing
from linear_time.exercises import CHAPTERS

#: Chapters that exist, and the names of their pages.
PAGES = {number: topic.replace("_", "-") for number, topic in CHAPTERS.items()}


class Path(NamedTuple):
    """A way through the book.

    Its chapters, in order; and those that are not on it, of which its page
    says what part to borrow.
    """

    title: str
    glance: str
    chapters: tuple[str, ...]
    borrowed: tuple[str, ...]


PATHS = {
    "mamba": Path(
        "To Mamba",
        "glance-mamba",
        ("11", "12", "13", "16", "17", "18"),
        ("00", "02", "03"),
    ),
    "embeddings": Path(
        "Compressing embeddings",
        "glance-embeddings",
        ("05", "06", "07", "08", "09"),
        ("00", "02"),
    ),
    "perceiver": Path(
        "Perceiver",
        "glance-perceiver",
        ("02", "05", "08", "09", "10"),
        ("00", "01", "03", "04"),
    ),
    "whole": Path("The whole", "glance", tuple(PAGES), ()),
}


def compressors_drawing() -> Drawing:
    """What compresses a long input to a fixed size: the book in four rows."""
    d = Drawing(
        "Four ways to make a long input affordable",
        "In each of four rows a long input of many tokens goes through "
        "something that compresses and comes out at a fixed size: a constant "
        "matrix, a matrix made from the input, a system that reads in order, "
        "and a system that chooses what to keep.",
        height=322,
    )
    d.text(48, 12, "a long input", 12.5)
    d.text(182, 12, "what compresses it", 12.5)
    d.text(325, 12, "a fixed size", 12.5)
    rows = [
        ("a constant matrix", "*y* = *W x*", "LCE", "weights", "05"),
        (
            "a matrix made from *x*",
            "*y* = *W*(*x*) *x*",
            "Perceiver",
            "input",
            "08",
        ),
        (
            "a system, in order",
            "*h*_t = *A h*_{t−1} + *B x*_t",
            "S4",
            "state",
            "15",
        ),
        (
            "a system that chooses",
            "*h*_t = *A*_t *h*_{t−1} + *B*_t *x*_t",
            "Mamba",
            "state",
            "18",
        ),
    ]
    for i, (what, equation, name, kind, number) in enumerate(rows):
        y = 60 + 74 * i
        for k in range(10):
            left = 8 + 9.2 * k
            d.line((left, y - 12), (left, y + 12), kind="quiet", width=5)
        d.arrow((94, y), (108, y), kind="quiet")
        d.box(187, y, 156, f"{what}\n{equation}", h=50, kind=kind, size=12.5)
        if name == "Mamba":  # what is chosen comes from the input
            d.arrow(
                (48, y + 18),
                (48, y + 38),
                (187, y + 38),
                (187, y + 27),
                kind="input",
            )
        d.arrow((266, y), (282, y), kind="quiet")
        for k in range(3):
            left = 291 + 9.2 * k
            d.line((left, y - 12), (left, y + 12), kind=kind, width=5)
        d.text(320, y - 8, name, 12, anchor="start", kind=kind)
        d.text(320, y + 9, number, 12, anchor="start", kind="quiet")
    return d


def paths_drawing() -> Drawing:
    """The paths, each chapter a box that leads to its page."""
    d = Drawing(
        "Four paths through the book",
        "Four rows: each begins with a page of ten minutes and goes on through "
        "the numbered chapters of one path; every box is a link.",
        height=sum(
            74 + 36 * ((len(path.chapters) - 1) // 7) for path in PATHS.values()
        )
        - 2,
    )
    y = 16
    for path in PATHS.values():
        d.text(8, y, path.title, 13, anchor="start")
        href = f"{path.glance}.html"
        d.box(
            45, y + 32, 74, "10 minutes", h=28, kind="input", size=12, href=href
        )
        x, row = 112, y + 32
        for i, number in enumerate(path.chapters):
            if x > 368:
                x, row = 112, row + 36
            if i == 0 or x > 112:
                start = 83 if i == 0 else x - 25
                d.arrow((start, row), (x - 13, row), kind="quiet")
            href = f"../chapters/{number}-{PAGES[number]}.html"
            d.box(x, row, 25, number, h=28, size=12, href=href)
            x += 38
        y = row + 42
    return d
