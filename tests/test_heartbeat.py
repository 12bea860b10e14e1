"""The page that gathers the thread: each of its numbers is one that its chapter prints there."""

import re

import nbformat
import pytest

from book import CHAPTERS, ROOT

PAGE = (ROOT / "book" / "heartbeat.md").read_text(encoding="utf8")
ROWS = re.findall(r"^\| \[(\d\d)\].*\| (.+?) \| .+ \| (\d\.\d+) \|$", PAGE, re.MULTILINE)
STEMS = {path.stem[:2]: path for path in CHAPTERS}


def printed_in_the_thread(number: str) -> str:
    """What the cells below the heading of a chapter's thread print, up to the next heading."""
    texts, inside = [], False
    for cell in nbformat.read(STEMS[number], as_version=4).cells:
        for line in cell.source.splitlines() if cell.cell_type == "markdown" else []:
            if line.startswith("## "):
                inside = "The thread: a heartbeat in 64 numbers" in line
        if inside and cell.cell_type == "code":
            texts += [output.get("text", "") for output in cell.outputs]
    return "\n".join(texts)


@pytest.mark.parametrize(("number", "method", "error"), ROWS, ids=[f"{n}-{m}" for n, m, _ in ROWS])
def test_a_row_is_what_its_chapter_prints(number, method, error):
    assert re.search(rf"(?<![\d.]){re.escape(error)}(?!\d)", printed_in_the_thread(number))


def test_every_chapter_with_a_row_is_on_the_page():
    """A chapter whose thread prints an error has a row, and rows stand in the book's order."""
    numbers = [number for number, _, _ in ROWS]
    assert numbers == sorted(numbers) and len(ROWS) >= 11
    printing = {n for n in STEMS if re.search(r"\b0\.\d{1,2}\b", printed_in_the_thread(n))}
    assert printing == set(numbers)


def test_what_the_page_says_of_its_table():
    errors = {method: float(error) for _, method, error in ROWS}
    choosing = [m for m in errors if errors[m] < 0.5]
    assert len(choosing) == 5 and min(errors, key=errors.get).startswith("32 well-chosen samples")
    rest = sorted(e for m, e in errors.items() if m not in choosing)
    assert rest[0] == 0.50 and rest[-6:-1] == [0.67, 0.74, 0.8, 0.84, 0.93]
    assert rest[-1] > 1  # these are apart
