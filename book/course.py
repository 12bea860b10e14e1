"""What the chapters say of themselves: objectives, what they build on, minutes, exercises.

All that a teaching page prints of a chapter is read here, from the chapter's own cells, so that
no page can say otherwise.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Exercise(NamedTuple):
    """An exercise, as its statement describes it; `kind` is empty where it names none."""

    name: str
    title: str
    objective: str
    difficulty: int
    minutes: int
    kind: str


class Objective(NamedTuple):
    """An objective: its words without the names of exercises, and the exercises that test it."""

    text: str
    exercises: tuple[str, ...]


class Chapter(NamedTuple):
    """A chapter: minutes of its core and of its detours, and the earlier chapters it needs."""

    number: str
    stem: str
    title: str
    objectives: tuple[Objective, ...]
    builds_on: frozenset[str]
    core: int
    detours: int
    exercises: dict[str, Exercise]
    headings: tuple[str, ...]


def stems() -> dict[str, str]:
    """Chapter number -> name of its page."""
    return {path.stem[:2]: path.stem for path in sorted((ROOT / "chapters").glob("*.ipynb"))}


@cache
def chapter(number: str) -> Chapter:
    """Read a chapter's notebook.

    Raises:
        ValueError: a statement that is not of the house's form.
    """
    stem = stems()[number]
    path = ROOT / "chapters" / f"{stem}.ipynb"
    cells = json.loads(path.read_text(encoding="utf8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return parse(stem, text)


def parse(stem: str, text: str) -> Chapter:
    """What a chapter's Markdown says of itself."""
    exercises = {made.name: made for made in exercises_of(stem, text)}
    head = re.search(
        r"(?i)after this chapter you can\n+(.*?)\n\n\*\*Builds on\*\*", text, re.DOTALL
    )
    line = re.search(r"\*\*Builds on\*\*(.*?)\*\*Reading time\*\*(.*?)\*\*Running", text, re.DOTALL)
    if not head or not line:
        raise ValueError(f"{stem}: expected objectives, **Builds on** and **Reading time**")
    named = re.findall(r"\((\d\d)-[\w-]+\.ipynb", line[1])
    core, detours = minutes_of(stem, line[2])
    return Chapter(
        number=stem[:2],
        stem=stem,
        title=re.search(r"^# \d\d · (.*)", text, re.MULTILINE)[1],
        objectives=tuple(
            objective(bullet, exercises) for bullet in re.split(r"(?:^|\n)- ", head[1])[1:]
        ),
        builds_on=frozenset(other for other in named if other < stem[:2]),
        core=core,
        detours=detours,
        exercises=exercises,
        headings=tuple(re.findall(r"^#{2,3} (.*)", text, re.MULTILINE)),
    )


def minutes_of(stem: str, words: str) -> tuple[int, int]:
    """Minutes of the core and of the detours, from the words after **Reading time**."""
    core, _, detours = words.partition("detours")
    before = [int(n) for n in re.findall(r"\d+", core)]
    after = [int(n) for n in re.findall(r"\d+", detours)]
    if not after and len(before) == 2:  # "25 minutes, and 30 for the detours"
        return before[0], before[1]
    if not before or len(after) != 1:
        raise ValueError(f"{stem}: expected the minutes of core and detours, got {words!r}")
    return sum(before), after[0]


def exercises_of(stem: str, text: str) -> list[Exercise]:
    """The exercises that a chapter's Markdown states, in its order."""
    found = []
    for title, name, line in re.findall(
        r":::\{exercise\} ([^\n]*)\n:label: (\S+)\n\n([^\n]*)", text
    ):
        said = dict(re.findall(r"\*\*(\w+):\*\* (.*?)(?: · (?=\*\*)|$)", line))
        minutes = re.match(r"(\d+) min\b", said.get("Time", ""))
        dots = said.get("Difficulty", "")
        if not minutes or not re.fullmatch("●{1,3}", dots) or "Objective" not in said:
            raise ValueError(f"{name}: expected Objective, Difficulty and Time, got {line!r}")
        found.append(
            Exercise(
                name,
                title,
                said["Objective"].rstrip("."),
                len(dots),
                int(minutes[1]),
                said.get("Kind", "").rstrip("."),
            )
        )
    return found


def objective(bullet: str, exercises: dict[str, Exercise]) -> Objective:
    """An objective, and which exercises it names, by label (`12-hold`) or by title (*A budget*)."""
    titles = {made.title: made.name for made in exercises.values()}
    named = []
    for label, title in re.findall(r"`(\d\d-\w+)`|(?<!\*)\*([^*\n]+)\*(?!\*)", bullet):
        if label or title in titles:
            named.append(label or titles[title])
    words = re.sub(r" \([^()]*(?:`\d\d-\w+`|\*[^*\n]+\*)[^()]*\)", "", bullet)
    return Objective(words.strip().rstrip(";."), tuple(named))


def points(made: Exercise) -> int:
    """An exercise's points: its difficulty, once for every ten minutes begun."""
    return made.difficulty * -(-made.minutes // 10)


def faults(given: Chapter) -> list[str]:
    """Where objectives and exercises of a chapter do not belong together."""
    found = []
    tested: set[str] = set()
    for stated in given.objectives:
        tested.update(stated.exercises)
        if not stated.exercises:
            found.append(f"no exercise tests the objective: {stated.text}")
        found += [
            f"an objective names {name}, which the chapter does not have"
            for name in stated.exercises
            if name not in given.exercises
        ]
    for made in given.exercises.values():
        if made.name not in tested and not made.title.startswith("Diagnostic"):
            found.append(f"{made.name} ({made.objective}) belongs to no objective")
    return found


class Half(NamedTuple):
    """What a class that has skipped a chapter borrows from it: one section, and why."""

    heading: str
    why: str


#: (a chapter, one that it builds on) -> what to borrow where a course leaves the latter out.
BORROWED = {
    ("01", "00"): Half(
        "Vector–Jacobian products", "the chain rule as a product of matrices, for the gradient"
    ),
    ("02", "01"): Half(
        "Bits per character, and three baselines",
        "how a model of text is scored, at its end",
    ),
    ("05", "00"): Half("A roofline on one page", "operations a byte, for what the clock says"),
    ("07", "06"): Half(
        "What goes in, what comes out", "several levels side by side, the idea of an ensemble"
    ),
    ("08", "02"): Half("A dictionary that answers with a mean", "attention in one equation"),
    ("08", "05"): Half("One matrix, on the token axis", "$Y = WX$, which the chapter extends"),
    ("10", "03"): Half("Two residuals", "the block that a Perceiver AR is made of"),
    ("10", "04"): Half("Counting attention", "how operations are counted"),
    ("11", "00"): Half("A linear differential equation", "the scalar case of the solution"),
    ("12", "11"): Half("The solution", "variation of constants, one equation"),
    ("13", "00"): Half("Convolution and the FFT", "that an FFT turns convolution into a product"),
    ("13", "12"): Half("What goes in and what comes out", "the recurrence that is unrolled"),
    ("15", "13"): Half(
        "What the layers use: diagonal $\\bar A$, $d$ channels", "the kernel of a diagonal system"
    ),
    ("16", "12"): Half("$\\Delta$ is a gate", "what a step near zero and a long one do"),
    ("16", "13"): Half("Where it breaks", "the matrix $K[t, s]$ of a system that changes"),
    ("17", "02"): Half("Online softmax", "only for one detour; leave it out with no loss"),
    ("17", "13"): Half("What each costs", "work and depth of a recurrence and of the FFT"),
    ("17", "16"): Half("S6: Δ, B and C are functions of the input", "whose recurrence is scanned"),
    ("18", "03"): Half("Two residuals", "the Llama block that Mamba is compared with"),
    ("20", "02"): Half("A dictionary that answers with a mean", "queries, keys and values"),
    ("20", "17"): Half("A step is a map", "the three passes, which become four steps"),
    ("20", "18"): Half("The block, part by part", "which Mamba-2's block rearranges"),
    ("18", "17"): Half("A step is a map", "why the scan may be computed in any grouping"),
    ("21", "02"): Half("A dictionary that answers with a mean", "queries, keys and values"),
    ("21", "12"): Half("Zero-order hold: solve the step exactly", "the rule that Mamba-3 changes"),
    ("21", "16"): Half(
        "S6: Δ, B and C are functions of the input", "gates that are made from the token"
    ),
    ("21", "20"): Half("Both at once, in chunks", "the four steps of the chunkwise form"),
    ("22", "16"): Half("What no state of fixed size can do", "Fano's inequality, in one picture"),
    ("22", "18"): Half("When is Mamba a bad idea?", "the first version of the last table"),
    ("22", "21"): Half("One slider: forget, project, reflect", "reflections, at a strength of 2"),
    ("23", "02"): Half("Online softmax", "summaries that merge, for the ring"),
    ("23", "17"): Half("A step is a map", "the operator that goes between machines"),
    ("23", "20"): Half("Both at once, in chunks", "the scan that each machine runs"),
    ("23", "21"): Half("Writing is learning", "the delta rule, for one section"),
}


class Week(NamedTuple):
    """A week of a course, or a session of a workshop, as `teaching.md` names it."""

    course: str
    chapters: tuple[str, ...]
    exercises: tuple[str, ...]


def weeks(text: str) -> list[Week]:
    """The weeks that a page's `{week}` directives name, in order."""
    return [
        Week(course, tuple(chapters.split()), tuple(exercises.split()))
        for chapters, course, exercises in re.findall(
            r"^:::\{week\} ([\d ]+)\n:course: (\w+)\n:exercises: ([^\n]*)$", text, re.MULTILINE
        )
    ]


def to_borrow(chapters: tuple[str, ...], read: set[str]) -> list[tuple[str, str, Half]]:
    """What these chapters build on and the class has not read: (chapter, other, the section).

    Raises:
        ValueError: nothing says what to borrow, or the other chapter has no such section.
    """
    known, found = set(read), []
    for number in chapters:
        for other in sorted(chapter(number).builds_on - known):
            half = BORROWED.get((number, other))
            if half is None or half.heading not in chapter(other).headings:
                raise ValueError(f"chapter {number}: nothing to borrow from {other}: {half}")
            found.append((number, other, half))
        known.add(number)
    return found


if __name__ == "__main__":
    for one in stems():
        for fault in faults(chapter(one)):
            print(f"{one}: {fault}")
