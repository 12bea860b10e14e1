"""Detours, answers and predictions: a small site, made by Sphinx and read in a browser."""

import shutil
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, Page
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

from book import ROOT, load

notebooks = load(ROOT / "book" / "notebooks.py")

CONF = """
import sys
sys.path.insert(0, {ext!r})
extensions = ["myst_nb", "linear_time_layers"]
project = "Small"
nb_execution_mode = "off"
nb_merge_streams = True
html_theme = "basic"
html_static_path = ["_static"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
"""


def cell(source: str, *tags: str, printed: str = "", code: bool = False):
    made = nbformat.v4.new_code_cell(source) if code else nbformat.v4.new_markdown_cell(source)
    if code:
        made.outputs = [nbformat.v4.new_output("stream", text=printed)] if printed else []
    made.metadata["tags"] = list(tags)
    return made


CELLS = [
    cell("# 12 · Small\n\nSee [the proof](#a-proof), [its middle](#its-middle)."),
    cell("import math", "imports", code=True),
    cell("## First\n\n> **Predict.** How many steps?"),
    cell("steps = None  # a number of steps", "predict", code=True),
    cell(
        "work()\npredict('steps', steps, 1024, tolerance=0.05)", "answer", code=True,
        printed="begun\nsteps:\n  measured 1,024 steps\n",
    ),
    cell("More than *half* of them wait.", "answer"),
    cell("After the answer.\n\n> **Predict.** Two numbers?"),
    cell("a = None  # the first, in s\nb = None  # the second", "predict", code=True),
    cell(
        "predict('a', a, 0.5, 's')\npredict('b', b, 2.0)", "answer", code=True,
        printed="a:\n  measured 0.5 s\nb:\n  measured 2\n",
    ),
    cell("## A proof\n\nWhat it proves.", "detour"),
    cell("The first words of it."),
    cell("### Its middle\n\nAnd a word in the middle: quagga."),
    cell("proof()", code=True),
    cell("## Last\n\nThe core goes on."),
]  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("layers")
    (root / "conf.py").write_text(CONF.format(ext=str(ROOT / "book" / "_ext")), encoding="utf8")
    shutil.copytree(ROOT / "book" / "_static", root / "_static")
    notebook = nbformat.v4.new_notebook(cells=CELLS)
    notebooks.normalise(notebook)
    nbformat.write(notebook, root / "index.ipynb")
    out = root / "html"
    with docutils_namespace():  # what one Sphinx registers, the next would warn of
        Sphinx(root, root, out, root / "tree", "html", status=None, warningiserror=True).build()
    return out / "index.html"


@pytest.fixture
def page(chromium: Browser, site: Path):
    made = chromium.new_page()
    made.goto(site.as_uri())
    yield made
    made.close()


def seen(page: Page, text: str) -> bool:
    return page.get_by_text(text, exact=False).first.is_visible()


def test_the_core_is_open_and_the_rest_is_folded(page: Page) -> None:
    for text in ("After the answer", "What it proves", "A proof", "The core goes on"):
        assert seen(page, text)
    for text in ("wait", "The first words", "Its middle", "quagga", "proof()", "import math"):
        assert not page.locator("div.body").get_by_text(text).last.is_visible(), text
    assert page.get_by_text("Open the detour, about 2 minutes").is_visible()
    assert page.get_by_text("What this page imports").first.is_visible()
    assert page.locator("details details").count() == 0


def test_the_fold_is_after_the_numbers_and_holds_nothing_else(page: Page) -> None:
    """One fold a run; the words of an answer are not folded twice."""
    assert page.locator("details.lt-answer").count() == 2
    assert page.locator("details.lt-detour").count() == 1
    first = page.locator("details.lt-answer").first
    first.locator("summary").click()
    assert first.get_by_text("More than half of them wait.").is_visible()
    assert first.get_by_text("Hide it again").is_visible()
    assert not seen(page, "quagga")
    assert page.locator("section#last details").count() == 0


@pytest.mark.parametrize("link", ["the proof", "its middle"])
def test_a_link_opens_the_detour(page: Page, link: str) -> None:
    page.get_by_role("link", name=link).first.click()
    assert seen(page, "quagga") and page.get_by_text("Fold the detour").is_visible()


def test_an_address_with_an_anchor_opens_the_detour(chromium: Browser, site: Path) -> None:
    page = chromium.new_page()
    page.goto(f"{site.as_uri()}#its-middle")
    page.get_by_text("quagga").wait_for(state="visible")
    page.close()


def test_printing_opens_every_fold(page: Page) -> None:
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert seen(page, "quagga") and seen(page, "half of them")


@pytest.mark.parametrize(
    ("guess", "says"),
    [
        ("1000", "You said 1000, measured 1,024 steps: close."),
        ("970", "You said 970, measured 1,024 steps: off. Find out why before reading on."),
    ],
)
def test_a_prediction_is_compared_and_the_answer_opens(page: Page, guess: str, says: str) -> None:
    form = page.locator("form.lt-predict").first
    assert not page.get_by_text("steps = None").is_visible()
    field = form.get_by_label("Your prediction: a number of steps")
    form.get_by_role("button").click()  # nothing typed: nothing happens
    assert not page.get_by_text("half of them").is_visible()
    field.fill(guess)
    field.press("Enter")
    assert form.locator("output").inner_text() == says
    assert page.get_by_text("half of them").is_visible()


def test_two_predictions_have_a_box_each(page: Page) -> None:
    form = page.locator("form.lt-predict").nth(1)
    form.get_by_label("the first, in s").fill("0.45")
    form.get_by_label("the second").fill("-3")
    form.get_by_role("button").click()
    assert form.locator("output").inner_text().splitlines() == [
        "You said 0.45, measured 0.5 s: close.",
        "You said -3, measured 2: off. Find out why before reading on.",
    ]


def test_without_its_script_all_is_one_click_away(chromium: Browser, site: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(site.as_uri())
    assert page.get_by_text("steps = None").is_visible()
    page.get_by_text("Reveal what was measured").first.click()
    assert page.get_by_text("half of them").is_visible()
    context.close()


def test_the_page_compares_by_the_rule_of_predict(chromium, site, capsys) -> None:
    """The same guesses are close in Python and on the page, at the edge of the tolerance too."""
    from linear_time.exercises import predict

    page = chromium.new_page()
    page.goto(site.as_uri())
    form = page.locator("form.lt-predict").nth(1)
    for guess in (0.39, 0.41, 0.6, 0.61, -0.5):
        form.get_by_label("the first, in s").fill(str(guess))
        form.get_by_label("the second").fill("2")
        form.get_by_role("button").click()
        predict("a", guess, 0.5)
        close = "close" in capsys.readouterr().out
        assert ("close" in form.locator("output").inner_text().splitlines()[0]) == close
    page.close()
