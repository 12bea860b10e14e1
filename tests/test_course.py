"""What chapters say of themselves is read rightly; objectives and exercises belong together."""

import pytest

from book import ROOT, load

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
        ("**Kind:** proof", "**Kind:** poem", "12-bound: expected **Kind:**"),
        (" · **Kind:** proof", "", "12-bound: expected **Kind:**"),
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
