"""A bank of examination questions, each drawn from a seed and answered twice.

    python book/bank.py list
    python book/bank.py exam --seed 7 --chapters 11 12 13 --minutes 45
    python book/bank.py exam --seed 7 12-left 17-compose --only key

A question is a function of a random generator: it draws its numbers, writes its text, and answers
by the formula that a student should use. Beside the formula stands the same number by the library
(`library`), which the tests compare for many seeds; so the key is not typed anywhere.
Answers are numbers, right within the stated tolerance. The questions stand in `questions.py`.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from questions import BANK, Asked


def question(name: str, seed: int) -> Asked:
    """The question of that name with the numbers of that seed.

    Raises:
        ValueError: the bank has no question of that name.
    """
    if name not in BANK:
        raise ValueError(f"name: expected one of {', '.join(BANK)}, got {name!r}")
    return BANK[name].draw(random.Random(f"{name} {seed}"))


def right(asked: Asked, given: float) -> bool:
    """Whether a student's number is the answer, within its tolerance."""
    return math.isclose(given, asked.answer, rel_tol=asked.tolerance, abs_tol=1e-12)


def choose(seed: int, chapters: Iterable[str] | None, minutes: int) -> list[str]:
    """Questions for a number of minutes: one of each chapter in turn, until they are spent."""
    wanted = set(chapters) if chapters else {entry.chapter for entry in BANK.values()}
    draw = random.Random(f"exam {seed}")
    piles = {
        chapter: draw.sample(names, len(names))
        for chapter in sorted(wanted)
        if (names := [entry.name for entry in BANK.values() if entry.chapter == chapter])
    }
    chosen: list[str] = []
    left = minutes
    while any(piles.values()):
        for chapter in draw.sample(list(piles), len(piles)):
            if piles[chapter] and BANK[piles[chapter][-1]].minutes <= left:
                left -= BANK[piles[chapter][-1]].minutes
                chosen.append(piles[chapter].pop())
            elif piles[chapter]:
                piles[chapter].pop()  # too long; a shorter one may fit
    return sorted(chosen)


def number(value: float) -> str:
    """An answer as a key writes it: whole numbers whole, others to four digits."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"


def sheet(names: Iterable[str], seed: int) -> str:
    """The students' sheet, in Markdown."""
    chosen = list(names)
    total = sum(BANK[name].minutes for name in chosen)
    parts = [f"# Examination {seed}\n\n{total} minutes, a point a minute. Show your working."]
    for i, name in enumerate(chosen, 1):
        asked = question(name, seed)
        within = f"within {asked.tolerance:.0%}" if asked.tolerance else "a whole number"
        unit = f" in {asked.unit}" if asked.unit else ""
        points = BANK[name].minutes
        parts.append(f"**{i}.** ({points} points) {asked.text}\n\nAnswer{unit}, {within}: ________")
    return "\n\n".join(parts) + "\n"


def key(names: Iterable[str], seed: int) -> str:
    """The examiner's key, in Markdown."""
    parts = [f"# Key of examination {seed}"]
    for i, name in enumerate(names, 1):
        asked = question(name, seed)
        answer = f"{number(asked.answer)} {asked.unit}".strip()
        parts.append(f"**{i}.** `{name}`: **{answer}**. {asked.working}")
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Print the bank's table, or a sheet and its key."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name, minutes and text of every question, seed 0")
    exam = commands.add_parser("exam", help="a sheet and its key")
    exam.add_argument("names", nargs="*", help="questions; without any they are chosen")
    exam.add_argument("--seed", type=int, required=True, help="another seed, other numbers")
    exam.add_argument("--chapters", nargs="+", help="of which to choose (default: all)")
    exam.add_argument("--minutes", type=int, default=60, help="for which to choose (default: 60)")
    exam.add_argument("--only", choices=("sheet", "key"))
    options = parser.parse_args(arguments)
    if options.command == "list":
        for entry in BANK.values():
            print(f"{entry.name} ({entry.minutes} min): {question(entry.name, 0).text}\n")
        return 0
    unknown = [name for name in options.names if name not in BANK]
    chapters = {entry.chapter for entry in BANK.values()}
    unknown += [number for number in options.chapters or [] if number not in chapters]
    if unknown:
        print(f"the bank has no {', '.join(unknown)}: see `list`", file=sys.stderr)
        return 2
    names = options.names or choose(options.seed, options.chapters, options.minutes)
    if not names:
        print("no question fits into so few minutes", file=sys.stderr)
        return 2
    if options.only != "key":
        print(sheet(names, options.seed))
    if options.only != "sheet":
        print(key(names, options.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
