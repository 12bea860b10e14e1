"""A reader's tools: results that are asserted, terms, symbols, status of a build, citation."""

import importlib
import json
import re
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page

import linear_time
from book import CHAPTERS, ROOT, load

status = load(ROOT / "book" / "status.py")
STATIC = ROOT / "book" / "_static"
GLOSSARY = (ROOT / "book" / "glossary.md").read_text(encoding="utf8")
#: The words of each entry, and its senses, one a paragraph.
ENTRIES = [
    (words, re.findall(r"  (.+)\n", senses))
    for words, senses in re.findall(
        r"((?:^\S.*\n)+)((?:  .*\n\n?)+)", GLOSSARY.split("```{glossary}\n")[1], re.MULTILINE
    )
]


@pytest.fixture(scope="module")
def results():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "book" / "_ext")
        yield importlib.import_module("linear_time_results")


@pytest.fixture(scope="module")
def reader():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "book" / "_ext")
        yield importlib.import_module("linear_time_reader")


# Results


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_result_of_a_chapter_stands_above_an_assertion(results, path):
    """`counted` raises where it does not; a mark in a text or in a solution would go unseen."""
    chapter = results.counted(path)
    marks = len(re.findall(r'"\s*# result:', path.read_text(encoding="utf8")))
    assert len(chapter.results) == marks
    for result in chapter.results:
        assert result.text[0].isupper() or not result.text[0].isalpha()
        assert result.text.endswith(".") and 20 < len(result.text) < 160
    assert len({result.text for result in chapter.results}) == len(chapter.results)


def test_the_book_states_at_least_sixty_results(results):
    assert sum(len(results.counted(path).results) for path in CHAPTERS) >= 60


def test_a_result_is_read_with_its_assertion(results):
    source = (
        "%time\nx = 1\n# result: One is\n#   one.\n# As everybody knows.\nassert x == 1, 'no'\n"
        "for y in (1, 2):\n    # result: All are positive.\n    assert y > 0\n"
    )
    with pytest.raises(ValueError, match="expected an assertion below “One is one"):
        results.results_of(source)
    source = source.replace("# As everybody knows.\n", "")
    assert results.results_of(source) == [
        ("One is one.", "assert x == 1, 'no'"),
        ("All are positive.", "assert y > 0"),
    ]
    called = "# result: Close.\ntorch.testing.assert_close(a, b)"
    assert results.results_of(called) == [("Close.", "torch.testing.assert_close(a, b)")]
    with pytest.raises(ValueError, match="expected an assertion"):
        results.results_of("# result: Printed.\nprint(1)")
    with pytest.raises(ValueError, match="expected an assertion"):
        results.results_of("assert True\n# result: Nothing below.")


@pytest.mark.parametrize(
    ("assertion", "how"),
    [
        ("assert sp.simplify(a - b) == 0", "by algebra"),
        ("assert (a - b).expand() == zero", "by algebra"),
        ("assert torch.allclose(a, b, rtol=0, atol=1e-12)", "to 1e-12"),
        ("assert gap(a, b) < 1e-10", "to 1e-10"),
        ("assert torch.allclose(a, b)", "to rounding"),
        ("torch.testing.assert_close(a, b)", "to rounding"),
        ("assert torch.equal(a, b)", "exactly"),
        ("assert flops == 4 * d * L", "exactly"),
        ("assert (leak > 0).all()", "exactly"),
        ("assert share > 0.9", "within a margin"),
        ("assert abs(slope - (2 if dense == 1 else 1)) < 0.1", "within a margin"),
    ],
)
def test_how_an_assertion_holds(results, assertion, how):
    assert results.how(assertion) == how


HELPERS = """
def equal(one, other):
    \"\"\"Equal in the sense of torch.equal, not of isclose.\"\"\"
    close = torch.allclose(one, other, atol=1e-10)
    return close
def near(one, other): return torch.allclose(one, other)
def bounded(one, other, atol=1e-7): return (one - other).abs().max() <= atol
def twice(one, other): return near(one, other) and near(other, one)
def same(one, other):
    \"\"\"Not to a tolerance, as isclose has it.\"\"\"
    return torch.equal(one, other)
def little(one): return abs(one) < 0.1
def symbolic(one): return sp.simplify(one) == 0
def lost(one): return nowhere(one)
"""


@pytest.mark.parametrize(
    ("assertion", "how"),
    [
        ("assert equal(a, b)", "to 1e-10"),
        ("assert near(a, b)", "to rounding"),
        ("assert twice(a, b)", "to rounding"),
        ("assert bounded(a, b)", "to 1e-07"),
        ("assert a and (not near(a, b))", "to rounding"),
        ("assert all((near(a, b) for a in c))", "to rounding"),
        ("assert all([same(a, b) for a in c])", "exactly"),
        ("assert same(a, b)", "exactly"),
        ("assert same(a, b) and little(a)", "within a margin"),
        ("assert symbolic(a - b)", "by algebra"),
        ("assert equal(a, b) is c", "exactly"),
        ("assert near(a, b) and gap(a, b) < 1e-10", "to 1e-10"),
        ("assert near(a, b) and share > 0.9", "within a margin"),
        ("assert not (near(a, b) or same(a, b))", "to rounding"),
        ("assert torch.equal(a, b) and isinstance(a, int)", "exactly"),
    ],
)
def test_a_helper_holds_as_its_body_says(results, assertion, how):
    cells = [{"cell_type": "code", "metadata": {}, "source": [HELPERS]}]
    assert results.how(assertion, results.functions_of(cells, ROOT)) == how


@pytest.mark.parametrize(("assertion", "name"), [("unknown(a)", "unknown"), ("lost(a)", "nowhere")])
def test_a_helper_whose_body_is_not_there_is_refused(results, assertion, name):
    cells = [{"cell_type": "code", "metadata": {}, "source": [HELPERS]}]
    with pytest.raises(ValueError, match=f"expected the body of {name}, which “assert {name}"):
        results.how(f"assert {assertion}", results.functions_of(cells, ROOT))


def test_functions_of_a_chapter_are_its_own_and_the_package_s(results):
    one = "from linear_time.convolution import toeplitz as t, nothing\nimport torch\nx = 1"
    two = "def t2(): return 1"
    cells = [
        {"cell_type": "code", "metadata": {"tags": ["imports"]}, "source": [one]},
        {"cell_type": "code", "metadata": {"tags": ["solution"]}, "source": ["def answer(): 1"]},
        {"cell_type": "code", "metadata": {}, "source": [two]},
        {"cell_type": "markdown", "metadata": {}, "source": ["def words(): 1"]},
    ]
    assert set(results.functions_of(cells, ROOT)) == {"t", "t2"}


def test_no_result_is_called_exact_that_a_tolerance_holds(results):
    """Chapter 21's `equal` is an allclose, chapter 13's `is_toeplitz` another."""
    for number, word, how in (("21", "equal(kda", "to 1e-10"), ("13", "is_toeplitz", "to 1e-09")):
        (path,) = (path for path in CHAPTERS if path.stem.startswith(number))
        found = [one for one in results.counted(path).results if word in one.assertion]
        assert found and {one.how for one in found} == {how}


def test_assertions_are_counted_once_each(results):
    source = (
        "assert all(f(x) for x in y)\nif z:\n    assert z\ntorch.testing.assert_close(a, b)\nf(1)"
    )
    assert len(results.assertions(results.parsed(source))) == 3
    assert results.assertions(results.parsed("%%bash\nassert x y")) == []


def test_the_ledger_is_counted_by_whose_mistakes(results):
    text = (ROOT / "book" / "ledger.md").read_text(encoding="utf8")
    others, own = results.ledger_rows(ROOT)
    assert others + own == len(re.findall(r"(?m)^\|.*`test_\w+\.py::", text))
    assert own == len(re.findall(r"(?m)^\|[^|]*\|[^|]*\d November 2026[^|]*\|", text))


def test_the_last_lines_of_the_tests(tmp_path):
    assert status.last_tests(tmp_path) == []
    logs = tmp_path / "_build" / "logs"
    logs.mkdir(parents=True)
    (logs / "unit.log").write_text("…\n===== 7 passed, 1 skipped in 3.1s =====\n", encoding="utf8")
    (logs / "nbval.log").write_text("killed in the middle\n", encoding="utf8")
    (logs / "site.log").write_text("= 1 failed, 3 passed in 9s =\n", encoding="utf8")
    assert status.last_tests(tmp_path) == [
        ("unit", "7 passed, 1 skipped in 3.1s"),
        ("site", "1 failed, 3 passed in 9s"),
    ]


def test_the_status_tells_of_the_last_tests(tmp_path):
    """In the one place of the page, as often as a build ends; the rest of it stays."""
    page = tmp_path / "html" / "book" / "status.html"
    page.parent.mkdir(parents=True)
    around = '<div class="a">b</div>{}<div class="c">\n<p>d</p></div>'
    place = '<div class="lt-last-tests docutils container">{}</div>'
    page.write_text(around.format(place.format("\n")), encoding="utf8")
    (logs := tmp_path / "_build" / "logs").mkdir(parents=True)
    make = "The last make test in this checkout, before this build, ended so:"
    for log, wanted in (
        (None, ["No make test ended in this checkout before this build."]),
        ("= 1 failed, 3 passed in 9s =\n", [make, "unit: 1 failed, 3 passed in 9s"]),
        ("= 4 passed in 9s (a < b) =\n", [make, "unit: 4 passed in 9s (a < b)"]),
    ):
        if log:
            (logs / "unit.log").write_text(log, encoding="utf8")
        for _ in range(2):
            status.tell(tmp_path, tmp_path / "html")
        text = page.read_text(encoding="utf8")
        soup = BeautifulSoup(text, "html.parser")
        told = soup.select(".lt-last-tests > p, .lt-last-tests > ul > li > p")
        assert [line.get_text() for line in told] == wanted
        assert status.PLACE.sub("{}", text) == around
        assert soup.select_one("code.literal").get_text() == "make test"
    for broken in (around.format(""), around.format(2 * place.format(""))):
        page.write_text(broken, encoding="utf8")
        with pytest.raises(ValueError, match="expected one place"):
            status.tell(tmp_path, tmp_path / "html")


def test_the_citation_is_that_of_the_file(results):
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf8"))
    words, entry = results.citation(cff, "26 November 2026")
    for value in (cff["title"], cff["version"], cff["repository-code"], "2026"):
        assert value in words and value in " ".join(" ".join(entry).split())
    assert max(map(len, entry)) <= 76
    two = {**cff, "authors": [{"given-names": "Ada", "family-names": "L"}, {"name": "The others"}]}
    assert "  author  = {{Ada L} and {The others}}," in results.citation(two, "1 May 2026")[1]
    assert "version 0.1.0, unreleased, of 26 November 2026." in words
    assert "  version = {0.1.0, unreleased, of 26 November 2026}," in entry
    words, entry = results.citation({**cff, "date-released": "2027-01-02"}, "26 November 2026")
    assert "(2027)" in words and "version 0.1.0. " in words
    assert "  version = {0.1.0}," in entry and "  year    = {2027}," in entry


def test_the_last_change_is_the_first_of_the_list(results):
    assert results.last_change("# Changes\n\n### 2 May 2027\n\n### 1 May 2026\n") == "2 May 2027"
    with pytest.raises(ValueError, match="expected a heading"):
        results.last_change("# Changes\n")


def test_a_version_is_released_where_the_changes_say_so():
    """Citation, list of changes, page and package agree: one version, and one date or none."""
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf8")
    page = (ROOT / "book" / "cite.md").read_text(encoding="utf8")
    assert cff["version"] == linear_time.__version__
    version = re.escape(cff["version"])
    released = re.search(rf"(?m)^## {version}, (\d{{4}}-\d\d-\d\d)$", changes)
    assert cff.get("date-released") == (released[1] if released else None)
    unreleased = f"version {cff['version']} has not been released yet"
    assert (unreleased in page) == (released is None)
    assert released or re.search(r"(?m)^## Unreleased$", changes)


# Terms


def test_the_glossary_has_a_sentence_and_a_chapter_for_each_term():
    assert 60 <= len(ENTRIES) <= 100
    names = [name for terms, _ in ENTRIES for name in terms.split("\n") if name]
    assert len(set(map(str.lower, names))) == len(names)
    assert [terms for terms, _ in ENTRIES] == sorted((t for t, _ in ENTRIES), key=str.lower)
    stems = {path.name for path in CHAPTERS}
    for terms, senses in ENTRIES:
        for text in senses:
            sentence = r"([^.]|\d\.\d)+\. \[Chapter (\d\d)\]\(\.\./chapters/(.*)\)"
            found = re.fullmatch(sentence, text)
            assert found, f"{terms}: expected one sentence and its chapter, got {text!r}"
            assert found[3] in stems and found[3].startswith(found[2])


def test_the_further_senses_of_a_word_name_their_chapters(reader):
    """The first is for all other pages; no chapter has two."""
    numbers = {path.stem[:2] for path in CHAPTERS}
    for terms, senses in ENTRIES:
        first, *further = [re.sub(r"\[(Chapter \d\d)\]\(.*\)", r"\1", text) for text in senses]
        assert reader.SENSE.fullmatch(first) is None, terms
        named = [reader.SENSE.fullmatch(text) for text in further]
        assert all(named), f"{terms}: a further sense begins “In chapter NN, ”"
        named = [number for found in named for number in re.findall(r"\d\d", found[1])]
        assert len(set(named)) == len(named) and set(named) <= numbers, terms
        assert set(reader.senses_of([first, *further])) == {"", *named}
    assert {"gate", "kernel", "rank", "residual"} == {t.strip() for t, s in ENTRIES if len(s) > 1}


def test_a_term_occurs_in_its_chapters():
    missing = []
    stems = {path.stem[:2]: path for path in CHAPTERS}
    for terms, senses in ENTRIES:
        forms = [form for form in terms.lower().split("\n") if form]
        text = re.sub(r"chapters/", "", " ".join(senses))
        for number in set(re.findall(r"(?:Chapter|In chapters?|,| and) (\d\d)\b", text)):
            cells = json.loads(stems[number].read_text(encoding="utf8"))["cells"]
            said = " ".join("".join(cell["source"]) for cell in cells).replace("**", "").lower()
            if not any(form in said for form in forms):
                missing.append((number, forms))
    assert missing == []


def test_terms_in_running_text(reader):
    pattern = reader.pattern_of(["gate", "GRU", "mean pooling", "pooling"])
    found = [m[0] for m in pattern.finditer("Gates of a gru, a GRU; mean\npooling, out-gate")]
    assert found == ["Gates", "GRU", "mean\npooling"]


# Symbols


@pytest.mark.parametrize(
    ("formula", "symbol", "there"),
    [
        (r"h'(t) = A h(t) + B x(t)", "x(t)", True),
        (r"h_k = \bar A h_{k-1}", "A", False),
        (r"h_k = \bar A h_{k-1}", r"\bar A", True),
        (r"h_k = \bar{A} h_{k-1}", r"\bar A", True),
        (r"x_{\text{head}} d", "d", True),
        (r"d_{\text{head}}", "d", False),
        (r"d_{\text{head}}", r"d_{\text{head}}", True),
        (r"d_{\text{ff}}", r"d_{\text{head}}", False),
        (r"\Delta^p", "D", False),
        (r"f(x, y)", "f(x, y)", True),
        (r"a_t h", "a_t, b_t", True),
        (r"A_t + A", "A", True),
        (r"\hat A + A", "A", True),
        (r"A", "A", True),
        (r"A_t", "A", False),
        (r"B + A_t", "A_t", True),
        (r"\mathcal A", "A", False),
        (r"x", "x y", False),
        (r"", "x", False),
        (r"f(x, y", "f(x, y), z", False),
        (r"\{a\}", r"\{", True),
    ],
)
def test_a_formula_has_a_symbol(reader, formula, symbol, there):
    wanted = reader.tokens(reader.first_symbol(symbol))
    assert reader.holds(reader.tokens(formula), wanted) is there


@pytest.mark.parametrize(
    ("tex", "first"),
    [
        ("a_t, b_t", "a_t"), ("f(x, y), z", "f(x, y)"), ("[a, {b, c}], d", "[a, {b, c}]"),
        ("a", "a"), (", a", ""), ("(a), b", "(a)"),
    ],
)  # fmt: skip
def test_the_first_of_several_symbols(reader, tex, first):
    assert reader.first_symbol(tex) == first


def test_tex_is_read_token_by_token(reader):
    given = r"\text{a b} \operatorname{rank}x_{ij}\alpha1\, \mathrm{d}t"
    assert reader.tokens(given) == [
        r"\text{a b}", r"\operatorname{rank}", "x", "_", "i", "j", r"\alpha", "1", r"\,",
        r"\mathrm{d}", "t",
    ]  # fmt: skip


def test_a_long_title_is_wrapped_below_its_beginning(results):
    cff = {
        "title": "A title " * 20, "version": "1.2", "repository-code": "https://a.org/b",
        "authors": [{"given-names": "A", "family-names": "B"}, {"family-names": "C"}],
        "date-released": "2027-01-02",
    }  # fmt: skip
    words, entry = results.citation(cff, "1 May 2026")
    assert words == f"A B, C (2027). *{cff['title']}*, version 1.2. https://a.org/b"
    first, *more = [line for line in entry if "itle" in line]
    assert first.startswith("  title   = {A title") and len(more) == 2
    assert all(
        line.startswith(" " * 13 + "A") or line.startswith(" " * 13 + "title") for line in more
    )
    assert max(map(len, (first, *more))) <= 76
    assert entry[0] == "@software{lineartime," and entry[-1] == "}"
    assert entry[1] == "  author  = {{A B} and {C}}," and "  version = {1.2}," in entry
    assert entry[-2] == "  url     = {https://a.org/b}" and entry[-3] == "  year    = {2027},"
    assert results._wrapped("x" * 70 + " " + "y" * 5) == ["  " + "x" * 70, " " * 13 + "y" * 5]
    assert results._wrapped("x" * 68 + " " + "y" * 5) == ["  " + "x" * 68 + " " + "y" * 5]


def test_versions_are_of_what_is_installed(results, monkeypatch):
    monkeypatch.setattr(results, "PACKAGES", ("torch", "no-such-package", "numpy"))
    python, torch, numpy = results.versions()
    assert python == f"Python {results.platform.python_version()}"
    assert torch.startswith("torch ") and numpy.startswith("numpy ")


def test_a_chapter_is_counted(results, tmp_path):
    """Its assertions, compared cells and results; solutions and text are not asked."""

    def cell(source, *tags, kind="code", outputs=()):
        made = {"cell_type": kind, "source": [source], "metadata": {"tags": list(tags)}}
        return {**made, "outputs": list(outputs)} if kind == "code" else made

    shown = [{"output_type": "stream"}]
    cells = [
        cell("\n# 97 · A title\n# other", kind="markdown"),
        cell("assert 1\nassert 2", outputs=shown), cell("x = 1"),
        cell("assert 3", "solution", outputs=shown),
        cell("assert 4", "nbval-skip", outputs=shown),
        cell("# result: One is one.\nassert 1 == 1\n# result: Same.\nassert near(1, 1)"),
        cell("def near(a, b):\n    return abs(a - b) < 1e-7", "imports", outputs=shown),
        cell("assert 9", kind="markdown"),
    ]  # fmt: skip
    path = tmp_path / "chapters" / "97-a.ipynb"
    path.parent.mkdir()
    path.write_text(json.dumps({"cells": cells}), encoding="utf8")
    found = results.counted.__wrapped__(path)
    assert found[:1] + found[2:] == ("97 · A title", 5, 2)
    assert [tuple(one) for one in found.results] == [
        ("One is one.", "assert 1 == 1", "result-97-1", "exactly"),
        ("Same.", "assert near(1, 1)", "result-97-2", "to 1e-07"),
    ]
    cells[0]["source"] = ["no title"]
    cells[-2]["source"] = ["# result: Nothing.\nx = 1"]
    path.write_text(json.dumps({"cells": cells}), encoding="utf8")
    with pytest.raises(ValueError, match="97-a: expected"):
        results.counted.__wrapped__(path)
    del cells[-2], cells[5]
    path.write_text(json.dumps({"cells": cells}), encoding="utf8")
    assert results.counted.__wrapped__(path) == ("97-a", (), 3, 1)
    assert results.chapters(tmp_path) == [path]


def test_magics_are_left_blank_and_lines_keep_their_numbers(results):
    tree = results.parsed("%time x\nif y:\n    !ls\n    %cd a\nassert z")
    assert tree.body[-1].lineno == 5 and len(tree.body) == 3
    assert results.parsed("%%time\nx = (").body == []


@pytest.mark.parametrize(
    ("source", "is_one"),
    [
        ("assert x", True), ("torch.testing.assert_close(a)", True), ("gradcheck(f)", True),
        ("torch.autograd.gradcheck(f, x)", True), ("np.testing.assert_allclose(a, b)", True),
        ("gradcheck_of(f)", False), ("assert_close(a)", False), ("x", False), ("f(x)", False),
    ],
)  # fmt: skip
def test_what_is_an_assertion(results, source, is_one):
    node = results.parsed(source).body[0]
    assert results.is_assertion(getattr(node, "value", node)) is is_one
    assert len(results.assertions(node)) == is_one


def test_logs_of_a_test_run_are_read_at_their_ends(tmp_path):
    logs = tmp_path / "_build" / "logs"
    logs.mkdir(parents=True)
    text = "=== 3 passed in 1s ===\nwords 9 passed\n== 1 failed, 2 passed in 2s ==\nend\n"
    for step in ("unit", "nbval", "site", "other"):
        (logs / f"{step}.log").write_text(f"{step}\n{text}", encoding="utf8")
    wanted = "1 failed, 2 passed in 2s"
    assert status.last_tests(tmp_path) == [(step, wanted) for step in ("unit", "nbval", "site")]


def test_sections_of_the_notation_name_chapters_that_exist():
    text = (ROOT / "book" / "notation.md").read_text(encoding="utf8")
    named = re.findall(r"^% in: (.*)$", text, re.MULTILINE)
    assert len(named) >= 14
    assert {number for line in named for number in line.split()} == {p.stem[:2] for p in CHAPTERS}
    sections = text.split("\n## ")[1:]
    assert len(named) == len(sections) and all("\n\n% in: " in section for section in sections)


def test_the_tables_of_the_notation_stand_in_the_book_s_order():
    """By the first chapter that a table is for, and where that is the same, by the last."""
    text = (ROOT / "book" / "notation.md").read_text(encoding="utf8")
    named = [sorted(line.split()) for line in re.findall(r"^% in: (.*)$", text, re.MULTILINE)]
    assert named == sorted(named)


def test_no_cell_of_the_notation_has_a_gap_between_commas():
    text = (ROOT / "book" / "notation.md").read_text(encoding="utf8")
    assert not re.findall(r"(?m)^\|.*(?:\| ,|, \||, ,).*", text)


# In the browser

PAGE = """<!doctype html><link rel="stylesheet" href="{static}/reader.css">
<style>body {{ margin: 8px; --pst-color-surface: white; }}</style>
<script src="{static}/reader.js" defer></script>
<article class="bd-article"><p>
A <a class="lt-term" href="g.html" title="Lets through.">gate</a>.</p>
<details><summary>More zebra</summary><p>Outer</p><details><summary>In</summary>
<p style="margin-top: 3000px">Here a Zebra sleeps.</p></details></details>
<div id="result-01-1"><details><summary>Code</summary>assert</details></div></article>"""


@pytest.fixture
def page(chromium: Browser, tmp_path: Path):
    (tmp_path / "p.html").write_text(PAGE.format(static=STATIC.as_uri()), encoding="utf8")
    context = chromium.new_context(viewport={"width": 360, "height": 600})
    page = context.new_page()
    page.goto((tmp_path / "p.html").as_uri())
    yield page
    context.close()


def test_a_definition_shows_on_hover_and_focus_and_goes(page: Page) -> None:
    term, box = page.locator("a.lt-term"), page.locator("#lt-definition")
    assert not box.is_visible()
    term.hover()
    assert box.is_visible() and box.inner_text() == "Lets through."
    page.mouse.move(300, 500)
    assert not box.is_visible()
    page.keyboard.press("Tab")
    assert box.is_visible() and term.get_attribute("aria-describedby") == "lt-definition"
    page.keyboard.press("Escape")
    assert not box.is_visible() and term.get_attribute("aria-describedby") is None
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) == 0


def test_what_was_searched_is_shown_in_a_fold(page: Page) -> None:
    page.goto(f"{page.url}?found=the+zebra")
    mark = page.locator("mark.lt-found")
    assert mark.inner_text() == "Zebra" and mark.is_visible()
    top = mark.evaluate("element => element.getBoundingClientRect().top")
    assert 0 < top < 600 and "found=" not in page.url
    assert page.locator("#result-01-1 details[open]").count() == 0


def test_nothing_opens_where_nothing_is_found(page: Page) -> None:
    page.goto(f"{page.url}?found=quagga")
    assert page.locator("mark").count() == 0 and page.locator("details[open]").count() == 0


def test_a_link_to_a_result_opens_its_cell(page: Page) -> None:
    page.goto(f"{page.url}#result-01-1")
    page.reload()
    assert page.locator("#result-01-1 details[open]").count() == 1


def test_a_link_of_the_search_takes_the_words_along(page: Page) -> None:
    page.evaluate("""() => { document.body.innerHTML =
      '<div id="search-results"><a href="q.html#there">found</a></div>'; }""")
    page.goto(f"{page.url}?q=pooling")
    page.evaluate("""() => {
      const results = document.createElement('div');
      results.id = 'search-results'; document.body.append(results); }""")
    # The script looks for the list once, as the search page has it from the start.
    source = (STATIC / "reader.js").read_text(encoding="utf8")
    page.evaluate("""() => { document.getElementById('search-results').innerHTML =
      '<a href="q.html#there">found</a>'; }""")
    page.evaluate(source)
    page.locator("#search-results a").focus()
    assert (
        page.locator("#search-results a")
        .get_attribute("href")
        .endswith("q.html?found=pooling#there")
    )
