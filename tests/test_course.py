"""What chapters say of themselves is read rightly; objectives and exercises belong together."""

import importlib.util
import pydoc
import re
import shutil
from io import StringIO
from types import SimpleNamespace

import nbformat
import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

from book import ROOT, load
from linear_time import records

course = load(ROOT / "book" / "course.py")

TEXT = """# 12 · Small

After this chapter you can

- hold a value (exercises `12-hold` and *A bound*);
- say *why*, with the detours (`12-why`).

**Builds on** [chapter 11](11-state-space.ipynb), and [14](14-hippo.ipynb) later. \
**Reading time** 25 minutes, and 30 for the detours. **Running time** short.

## Exercises

:::{exercise} Hold
:label: 12-hold

**Objective:** hold a value. · **Difficulty:** ●● · **Time:** 15 min · **Kind:** code

Do it.
:::

:::{exercise} A bound
:label: 12-bound

**Objective:** bound it. · **Difficulty:** ●●● · **Time:** 5 min · **Kind:** proof
:::

:::{exercise} Why
:label: 12-why

**Objective:** say why. · **Difficulty:** ● · **Time:** 5 min · **Kind:** written
:::
"""


def test_a_chapter_is_read():
    read = course.parse("12-small", TEXT)
    assert (read.number, read.title, read.core, read.detours) == ("12", "Small", 25, 30)
    assert read.builds_on == {"11"}
    assert read.objectives[0] == ("hold a value", ("12-hold", "12-bound"))
    assert read.objectives[1] == ("say *why*, with the detours", ("12-why",))
    assert read.exercises["12-bound"] == ("12-bound", "A bound", "bound it", 3, 5, "proof")
    assert course.faults(read) == []


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("`12-why`", "`12-how`", "names 12-how"),
        (" (`12-why`)", "", "no exercise tests the objective: say *why*"),
        (" and *A bound*", "", "12-bound (bound it) belongs to no objective"),
    ],
)
def test_what_does_not_belong_together_is_named(before, after, says):
    assert before in TEXT
    found = course.faults(course.parse("12-small", TEXT.replace(before, after)))
    assert any(says in fault for fault in found), found


@pytest.mark.parametrize(
    ("words", "minutes"),
    [
        (" 25 minutes, and 30 for the detours. ", (25, 30)),
        (" 30 minutes; the detours 15 more. ", (30, 15)),
        (" 20 minutes for the questions and 30 for the sections; the detours 10 more.", (50, 10)),
    ],
)
def test_minutes_are_read(words, minutes):
    assert course.minutes_of("00-x", words) == minutes


def test_a_statement_without_its_line_is_refused():
    with pytest.raises(ValueError, match="12-bound: expected Objective"):
        course.parse("12-small", TEXT.replace("**Time:** 5 min", "**Time:** soon", 1))


@pytest.mark.parametrize("number", course.stems())
def test_a_chapter_of_the_book_is_read(number):
    read = course.chapter(number)
    assert 3 <= len(read.objectives) <= 6
    assert 10 <= read.core <= 60 and 5 <= read.detours <= 60
    titles = [made.title for made in read.exercises.values()]
    assert len(titles) == len(set(titles)), "an objective names exercises by their titles"


@pytest.mark.parametrize("number", course.stems())
def test_every_objective_has_an_exercise_and_every_exercise_an_objective(number):
    assert course.faults(course.chapter(number)) == []


# ---- the teaching pages

TEACHING = (ROOT / "book" / "teaching.md").read_text(encoding="utf8")
PROJECTS = (ROOT / "book" / "projects.md").read_text(encoding="utf8")
WEEKS = course.weeks(TEACHING)
DAYS = ("workshop", "second")  # courses of sessions of 90 minutes
each_week = pytest.mark.parametrize(
    "week", WEEKS, ids=lambda w: f"{w.course} {'-'.join(w.chapters)}"
)


def in_course(name):
    return [week for week in WEEKS if week.course == name]


def test_the_courses_are_as_long_as_they_say():
    assert TEACHING.count(":::{week}") == len(WEEKS)
    lengths = {"term": 12, "six": 6, "module": 4, "after": 4, "workshop": 4, "second": 4}
    assert {name: len(in_course(name)) for name in lengths} == lengths
    assert sum(lengths.values()) == len(WEEKS)
    for name in ("after", "second"):
        assert [week.chapters for week in in_course(name)] == [("20",), ("21",), ("22",), ("23",)]
    for number, week in enumerate(in_course("term"), 1):
        line = f":::{{week}} {' '.join(week.chapters)}\n:course: term"
        section = TEACHING.index(line)
        heading = TEACHING.rindex("### ", 0, section)
        assert TEACHING[heading:].startswith(f"### Week {number}. ")
    taught = [number for week in in_course("term") for number in week.chapters]
    assert taught == [number for number in course.stems() if number <= "18"]


@each_week
def test_a_week_s_exercises_exist_and_belong_to_its_chapters(week):
    for name in week.exercises:
        assert name[:2] in week.chapters
        assert name in course.chapter(name[:2]).exercises
    assert len(set(week.exercises)) == len(week.exercises)


@each_week
def test_a_week_has_the_hours_that_the_page_states(week):
    assert "at most three hours outside class" in TEACHING
    assert "Four sessions of 90 minutes" in TEACHING
    minutes = sum(course.chapter(number).core for number in week.chapters)
    minutes += sum(course.chapter(name[:2]).exercises[name].minutes for name in week.exercises)
    assert minutes <= (90 if week.course in DAYS else 180)


def test_the_course_of_six_weeks_is_chapters_11_to_18_whole():
    """It skips no chapter on the way, and has a deck every week, as it says."""
    six = in_course("six")
    assert "Chapters 11 to 18 whole" in TEACHING and "Each week has its slides" in TEACHING
    taught = [number for week in six for number in week.chapters]
    assert taught == [number for number in course.stems() if "11" <= number <= "18"]
    assert all((ROOT / "book/slides" / f"{course.stems()[n]}.md").is_file() for n in taught)
    read: set[str] = set()
    for week in six:
        for _, other, _ in course.to_borrow(week.chapters, read):
            assert other < "11"
        read |= set(week.chapters)
    left = {week.chapters for week in six} - {week.chapters for week in in_course("module")}
    assert ("14", "15") in left
    section = TEACHING.split("## A course of six weeks")[1].split("\n## ")[0]
    heads = re.findall(r"(?m)^### Week (\d)\. .*\n\n:::\{week\} ([\d ]+)$", section)
    assert heads == [(str(n), " ".join(week.chapters)) for n, week in enumerate(six, 1)]


def test_a_term_that_ends_after_mamba_has_twelve_weeks():
    """Weeks 4 to 7 give way to the four of Part VI, and what they leave out is not needed there."""
    assert "leaves out weeks 4 to 7 and has them behind week 12" in TEACHING
    kept = [week for n, week in enumerate(in_course("term"), 1) if not 4 <= n <= 7]
    kept += in_course("after")
    assert len(kept) == 12
    read: set[str] = set()
    for week in kept:
        assert course.to_borrow(week.chapters, read) == []
        read |= set(week.chapters)


def test_what_a_chapter_builds_on_can_be_borrowed():
    lacking = {
        (number, other)
        for number in course.stems()
        for other in course.chapter(number).builds_on
        if number >= "20" and (number, other) not in course.BORROWED
    }
    assert not lacking


@pytest.mark.parametrize("name", ["term", "six", "module", "after", "workshop", "second"])
def test_what_a_course_skips_can_be_borrowed(name):
    read: set[str] = set()
    borrowed = []
    for week in in_course(name):
        borrowed += course.to_borrow(week.chapters, read)
        read |= set(week.chapters)
    assert bool(borrowed) == (name != "term")


def test_nothing_is_borrowed_that_is_not_needed_or_not_there():
    for (number, other), half in course.BORROWED.items():
        assert other in course.chapter(number).builds_on
        assert half.heading in course.chapter(other).headings, (other, half.heading)
    with pytest.raises(ValueError, match="chapter 04: nothing to borrow from 01"):
        course.to_borrow(("04",), set())


def test_weeks_have_questions_and_milestones():
    blocks = TEACHING.split(":::{week}")[1:]
    for block, week in zip(blocks, WEEKS, strict=True):
        inside = block.split("\n:::\n")[0]
        assert "**Discuss.** " in inside and inside.count("?") >= 1
        assert ("**Milestone.** " in inside) == (week.course not in DAYS)


def test_the_page_counts_the_decks():
    decks = list((ROOT / "book" / "slides").glob("*.md"))
    assert set(course.stems()) - {deck.stem[:2] for deck in decks} == {"00", "19"}
    assert len(decks) == 22 and "Twenty-two chapters have a deck" in TEACHING
    assert "decks of slides](#slides) for twenty-two chapters, all but 00 and 19" in TEACHING


def test_the_commands_of_the_page_run(capsys):
    bank = load(ROOT / "book" / "bank.py")
    commands = [
        line.split()[2:] for line in TEACHING.splitlines() if line.startswith("python book/bank")
    ]
    assert len(commands) == 4
    for arguments in commands:
        assert bank.main(arguments) == 0
        assert len(capsys.readouterr().out) > 100


# ---- the projects

SECTIONS = re.split(r"^## ", PROJECTS, flags=re.MULTILINE)[1:]
COMMON, OWN = SECTIONS[0], SECTIONS[1:]
each_project = pytest.mark.parametrize("text", OWN, ids=lambda text: text.splitlines()[0])


def rubric(text):
    """The points of a rubric's rows."""
    rows = [line for line in text.splitlines() if line.startswith("| **")]
    assert all(row.count("|") == 6 and all(row.strip("| ").split(" | ")) for row in rows)
    return [int(row.split("|")[2]) for row in rows]


def test_there_are_projects_enough_and_points_sum_to_a_hundred():
    assert len(OWN) == 11 and "Eleven projects" in PROJECTS
    part = [
        text for text in OWN if re.search(r"\*\*Build on\.\*\* Chapters? [^\n]*\b2[0-3]\b", text)
    ]
    assert len(part) >= 3, "Part VI has projects of its own"
    assert "Sixty of a hundred" in COMMON and sum(rubric(COMMON)) == 60
    assert {sum(rubric(text)) for text in OWN} == {40}


@each_project
def test_a_project_says_all_that_it_must(text):
    labels = re.findall(r"^\*\*([\w ]+)\.\*\* ", text, re.MULTILINE)
    assert labels == [
        "Question", "Hours", "Build on", "Given", "First milestone", "A good result", "Pitfalls",
    ]  # fmt: skip
    least, most = map(int, re.search(r"\*\*Hours\.\*\* (\d+) to (\d+)", text).groups())
    assert 8 <= least < most <= 40
    assert re.search(r"\*\*Question\.\*\* [^\n]*\?", text)


@each_project
def test_what_a_project_is_given_exists(text):
    given = re.search(r"\*\*Given\.\*\* (.*)", text)[1]
    names = re.findall(r"`([\w./]+)`", given)
    assert len(names) >= 4
    for name in names:
        if "/" in name or name.endswith(".md"):
            assert (ROOT / name).is_file(), name
        elif name.startswith("linear_time."):
            assert pydoc.locate(name) is not None, name
        elif name == "transformers":
            assert importlib.util.find_spec(name)
        else:
            records.read(name)


# ---- the directive, on a small site

CONF = """
import sys
sys.path.insert(0, {ext!r})
extensions = ["myst_nb", "linear_time_layers", "linear_time_course"]
project = "Small"
nb_execution_mode = "off"
html_theme = "basic"
html_static_path = ["_static"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
exclude_patterns = ["_build", "jupyter_execute"]
"""
PAGE = """# Teaching

:::{week} 12
:course: short
:exercises: 12-gate 12-bug

**Discuss.** Why?
:::

:::{week} 13
:course: short
:exercises: 13-leak
:::
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The page of two weeks, and the chapters that it names, of which only the titles are there."""
    folder = tmp_path_factory.mktemp("course")
    (folder / "_static").mkdir()
    (folder / "chapters").mkdir()
    (folder / "book").mkdir()
    for name in ("layers.css", "layers.js"):
        shutil.copy(ROOT / "book" / "_static" / name, folder / "_static")
    (folder / "conf.py").write_text(CONF.format(ext=str(ROOT / "book" / "_ext")), encoding="utf8")
    (folder / "index.md").write_text("# Small\n", encoding="utf8")
    for stem in course.stems().values():
        cell = nbformat.v4.new_markdown_cell(f"# {stem}\n\n**Running time** short.")
        notebook = nbformat.v4.new_notebook(cells=[cell])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, folder / "chapters" / f"{stem}.ipynb")
    return folder


def built(folder, page):
    """The page as HTML, and what Sphinx says of it."""
    (folder / "book" / "teaching.md").write_text(page, encoding="utf8")
    says = StringIO()
    out = str(folder / "_build")
    tree = f"{out}/.doctrees"
    with docutils_namespace():  # what one Sphinx registers, the next would warn of
        Sphinx(str(folder), str(folder), out, tree, "html", status=None, warning=says).build()
    text = (folder / "_build" / "book" / "teaching.html").read_text(encoding="utf8")
    said = [line for line in says.getvalue().splitlines() if "toctree" not in line]
    return BeautifulSoup(text, "html.parser"), "\n".join(said)


def test_a_week_prints_what_the_chapters_say(site):
    page, said = built(site, PAGE)
    assert not said.strip()
    first, second = page.select(".lt-week")
    chapter = course.chapter("12")
    words = first.get_text()
    assert f"12 · {chapter.title} ({chapter.core} min; detours {chapter.detours}, slides)" in words
    assert "the section The solution" in words and "**" not in words
    total = sum(chapter.exercises[name].minutes for name in ("12-gate", "12-bug"))
    rows = [[cell.get_text() for cell in row.select("td")] for row in first.select("tbody tr")]
    assert [row[0] for row in rows] == ["12-gate", "12-bug", ""]
    assert rows[0][2] == str(chapter.exercises["12-gate"].minutes) and rows[-1][2] == str(total)
    assert len(first.select("details li")) == len(chapter.objectives)
    assert first.get_text().rstrip().endswith("Why?")
    borrowed = second.find("strong", string="Borrow").parent.get_text()
    assert "Toolbox" in borrowed and "Discretization" not in borrowed, "12 was read a week before"
    links = {link["href"] for link in first.select("a[href]")}
    assert {"../chapters/12-discretization.html", "../slides/12-discretization.html"} <= links


def test_a_chapter_with_a_deck_links_to_it(site):
    built(site, PAGE)
    for stem, there in (("12-discretization", True), ("19-tasks", False)):
        text = (site / "_build" / "chapters" / f"{stem}.html").read_text(encoding="utf8")
        assert (f'href="../slides/{stem}.html"' in text) == there


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [("12-gate", "12-nothing", "12-nothing"), ("{week} 13", "{week} 04", "nothing to borrow")],
)
def test_a_week_that_does_not_hold_fails_the_build(site, before, after, says):
    _, said = built(site, PAGE.replace(before, after))
    assert says in said


@pytest.mark.parametrize(
    ("difficulty", "minutes", "points"),
    [(1, 1, 1), (1, 10, 1), (1, 11, 2), (2, 25, 6), (3, 40, 12)],
)
def test_points_are_the_difficulty_for_every_ten_minutes_begun(difficulty, minutes, points):
    made = SimpleNamespace(difficulty=difficulty, minutes=minutes)
    assert course.points(made) == points


# ---- sentence by sentence

HEAD = TEXT.partition("## Exercises")[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("**Builds on**", "expected objectives"), ("**Reading time**", "expected objectives"),
        ("**Running time**", "expected objectives"), ("After this chapter", "expected objectives"),
        ("25 minutes, and 30", "the minutes of core and detours"),
        ("and 30 for the detours", "the minutes of core and detours"),
    ],
)  # fmt: skip
def test_a_chapter_without_its_words_is_refused(words, says):
    assert words in TEXT
    with pytest.raises(ValueError, match=f"^12-small: expected .*{says[9:]}"):
        course.parse("12-small", TEXT.replace(words, "—"))


@pytest.mark.parametrize(
    "words", ["", "no number", " 5 and 6 and 7 detours", "5 detours 6 7", "detours 5", "5"]
)
def test_minutes_that_are_not_said_are_refused(words):
    with pytest.raises(ValueError, match="00-x: expected the minutes of core and detours, got"):
        course.minutes_of("00-x", words)


@pytest.mark.parametrize(
    ("words", "fails"),
    [
        ("**Objective:** hold a value.", True), ("**Difficulty:** ●●", True),
        ("**Time:** 15 min", True), ("**Kind:** code", False),
    ],
)  # fmt: skip
def test_what_an_exercise_must_say(words, fails):
    assert words in TEXT
    less = TEXT.replace(words, "**Other:** x")
    if fails:
        with pytest.raises(ValueError, match=r"^12-hold: expected Objective, Difficulty and Time"):
            course.exercises_of("12-small", less)
    else:
        assert course.exercises_of("12-small", less)[0].kind == ""
    for dots in ("●●●●", "2"):
        with pytest.raises(ValueError, match="12-hold"):
            course.exercises_of("12-small", TEXT.replace("●● ·", f"{dots} ·"))
    with pytest.raises(ValueError, match="12-hold"):
        course.exercises_of("12-small", TEXT.replace("15 min", "15 minutes"))


def test_headings_and_what_comes_later_than_a_chapter():
    text = TEXT.replace("## Exercises", "## Two *words*\n\n### Three\n\n#### Four\n\n# One")
    assert course.parse("12-small", text).headings == ("Two *words*", "Three")
    named = TEXT.replace("[14](14-hippo.ipynb)", "[12](12-small.ipynb), [09](09-a.ipynb)")
    assert course.parse("12-small", named).builds_on == {"11", "09"}
    said = course.parse("12-small", TEXT.replace("After this", "…\n\nafter this"))
    assert (said.number, said.stem, len(said.objectives)) == ("12", "12-small", 2)


@pytest.mark.parametrize(
    ("bullet", "text", "named"),
    [
        ("do (`12-a`, *B*);", "do", ("12-a", "12-b")), ("do it.", "do it", ()),
        ("say *B* (see *C*)", "say *B*", ("12-b",)),
        ("x (plain) y (`12-z`).", "x (plain) y", ("12-z",)),
        ("**B** is (`12-a`)", "**B** is", ("12-a",)), (" a\nb (`12-a`);.", "a\nb", ("12-a",)),
    ],
)  # fmt: skip
def test_an_objective_and_its_exercises(bullet, text, named):
    made = {
        f"12-{n.lower()}": course.Exercise(f"12-{n.lower()}", n, "", 1, 5, "") for n in ("A", "B")
    }
    assert course.objective(bullet, made) == (text, named)


def test_a_diagnostic_needs_no_objective():
    read = course.parse("12-small", TEXT)
    made = {
        name: one._replace(title=f"Diagnostic: {one.title}") for name, one in read.exercises.items()
    }
    assert course.faults(read._replace(objectives=(), exercises=made)) == []
    assert course.faults(read._replace(objectives=())) == [
        f"{one.name} ({one.objective}) belongs to no objective" for one in read.exercises.values()
    ]


def test_weeks_that_a_page_names():
    page = (
        ":::{week} 11 12\n:course: term\n:exercises: 11-a 12-b\n:::\n"
        " :::{week} 13\n:course: x\n:exercises: 13-a\n"
        ":::{week} 14\n:course: six\n:exercises: \n"
    )
    assert course.weeks(page) == [("term", ("11", "12"), ("11-a", "12-b")), ("six", ("14",), ())]


def test_what_is_borrowed_is_in_order_and_read_once():
    read = {"00", "12"}
    found = course.to_borrow(("16", "17"), read)
    assert [(number, other) for number, other, _ in found] == [
        (number, other)
        for number, known in (("16", {"00", "12"}), ("17", {"00", "12", "16"}))
        for other in sorted(course.chapter(number).builds_on - known)
    ]
    assert read == {"00", "12"}
    assert all(half == course.BORROWED[number, other] for number, other, half in found)


def test_a_section_that_was_renamed_cannot_be_borrowed(monkeypatch):
    (key, half) = next(iter(course.BORROWED.items()))
    monkeypatch.setitem(course.BORROWED, key, half._replace(heading="Gone"))
    with pytest.raises(ValueError, match=f"chapter {key[0]}: nothing to borrow from {key[1]}"):
        course.to_borrow((key[0],), set(course.stems()) - {key[1]})


def test_chapters_by_their_numbers():
    found = course.stems()
    assert list(found) == sorted(found) and all(
        stem[:2] == number and (ROOT / "chapters" / f"{stem}.ipynb").is_file()
        for number, stem in found.items()
    )
    read = course.chapter.__wrapped__("12")
    assert read.stem == found["12"] and read.exercises and read.headings
