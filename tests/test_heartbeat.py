"""The page that gathers the thread: each of its numbers is one that its chapter prints there."""

import re

import nbformat
import numpy as np
import pytest

from book import CHAPTERS, ROOT
from linear_time.datasets import ecg

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


def test_the_best_samples_have_half_the_error_of_chapter_16_s():
    """The best 32 that keep both ends, joined by lines: of all paths of 31 lines the cheapest."""
    x = ecg().x.double().numpy()
    n = len(x)
    x = x - x.mean()
    lost = np.full((n, n), np.inf)  # squared error of one line, from the row's sample
    for k in range(n - 1):
        steps, rise = np.arange(1, n - k), x[k + 1 :] - x[k]
        slope = rise / steps
        products = np.cumsum(rise**2) - 2 * slope * np.cumsum(rise * steps)
        lost[k, k + 1 :] = products + slope**2 * np.cumsum(steps**2)
    least, came_from = lost[0], []
    for _ in range(30):
        through = least[:, None] + lost
        came_from.append(through.argmin(0))
        least = through.min(0)
    places = [n - 1]
    for before in reversed(came_from):
        places.insert(0, before[places[0]])
    places.insert(0, 0)

    def error(kept):
        return np.linalg.norm(np.interp(np.arange(n), kept, x[kept]) - x) / np.linalg.norm(x)

    assert len(set(places)) == 32 and places == sorted(places)
    assert error(places) == pytest.approx(np.sqrt(least[-1]) / np.linalg.norm(x))
    assert round(error(places), 2) == 0.11
    for i in range(1, 31):  # no sample of them is better one step further
        for step in (-1, 1):
            moved = [*places[:i], places[i] + step, *places[i + 1 :]]
            assert moved[i] in places or error(moved) > error(places)
