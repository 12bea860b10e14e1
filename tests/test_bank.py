"""The question bank: every answer agrees with the library, seeds differ, sheets hide answers."""

import math
import re

import pytest

from book import ROOT, load

bank = load(ROOT / "book" / "bank.py")
each = pytest.mark.parametrize("name", bank.BANK)
SEEDS = range(6)


def test_there_are_questions_of_every_chapter():
    chapters = {path.stem[:2] for path in (ROOT / "chapters").glob("*.ipynb")}
    asked = {entry.chapter for entry in bank.BANK.values()}
    assert asked <= chapters
    assert chapters - asked == {"19"}
    assert len(bank.BANK) >= 46
    after = [entry.chapter for entry in bank.BANK.values() if entry.chapter >= "20"]
    assert all(after.count(number) >= 2 for number in ("20", "21", "22", "23"))
    assert all(re.fullmatch(r"\d\d-[a-z]+", name) for name in bank.BANK)


@each
def test_the_answer_is_the_library_s(name):
    for seed in SEEDS:
        asked = bank.question(name, seed)
        assert math.isclose(asked.library(), asked.answer, rel_tol=1e-5, abs_tol=1e-9), (
            f"seed {seed}: {asked.text}"
        )


@each
def test_seeds_differ_and_repeat(name):
    drawn = [bank.question(name, seed) for seed in SEEDS]
    assert len({asked.text for asked in drawn}) >= 3
    assert len({asked.answer for asked in drawn}) >= 2
    assert bank.question(name, 0).text == drawn[0].text


@each
def test_a_question_is_fit_to_print(name):
    asked = bank.question(name, 1)
    assert asked.text.count("$") % 2 == 0 and asked.text.rstrip()[-1] in "?)"
    assert asked.working.endswith(".") and 2 <= bank.BANK[name].minutes <= 10
    if asked.tolerance == 0:
        assert asked.answer == int(asked.answer)
    assert bank.right(asked, asked.answer)
    assert not bank.right(asked, asked.answer * (1 + 3 * asked.tolerance) + 0.001)


def test_a_sheet_has_no_answer_and_the_key_has_all(capsys):
    names = ["12-left", "17-compose", "02-merge"]
    assert bank.main(["exam", "--seed", "3", "--only", "sheet", *names]) == 0
    printed = capsys.readouterr().out
    assert bank.main(["exam", "--seed", "3", "--only", "key", *names]) == 0
    key = capsys.readouterr().out
    for name in names:
        asked = bank.question(name, 3)
        assert asked.text in printed and asked.working not in printed
        assert bank.number(asked.answer) in key and asked.working in key
        assert name not in printed


@pytest.mark.parametrize("seed", SEEDS)
def test_chosen_questions_fill_the_minutes(seed):
    chosen = bank.choose(seed, ["11", "12", "13"], 30)
    spent = sum(bank.BANK[name].minutes for name in chosen)
    assert 24 <= spent <= 30 and len(set(chosen)) == len(chosen)
    assert {name[:2] for name in chosen} == {"11", "12", "13"}
    whole = bank.choose(seed, None, 90)
    assert sum(bank.BANK[name].minutes for name in whole) <= 90
    assert len({name[:2] for name in whole}) >= 12


def test_seeds_choose_other_questions():
    assert len({tuple(bank.choose(seed, None, 45)) for seed in SEEDS}) >= 4


def test_what_is_not_there_is_named(capsys):
    assert bank.main(["exam", "--seed", "1", "12-nothing"]) == 2
    assert bank.main(["exam", "--seed", "1", "--chapters", "77"]) == 2
    assert bank.main(["exam", "--seed", "1", "--minutes", "1"]) == 2
    assert "12-nothing" in capsys.readouterr().err
    with pytest.raises(ValueError, match="name: expected one of"):
        bank.question("12-nothing", 0)


def test_the_list_has_every_question(capsys):
    assert bank.main(["list"]) == 0
    listed = capsys.readouterr().out.strip().split("\n\n")
    assert len(listed) == len(bank.BANK)
    for entry, line in zip(bank.BANK.values(), listed, strict=True):
        assert line.startswith(f"{entry.name} ({entry.minutes} min): ")
        assert bank.question(entry.name, 0).text in line


@pytest.mark.parametrize(("only", "there"), [([], "both"), (["--only", "key"], "key")])
def test_what_is_printed_of_an_examination(only, there, capsys):
    assert bank.main(["exam", "--seed", "3", "--minutes", "20", *only]) == 0
    printed = capsys.readouterr().out
    assert ("# Examination 3" in printed) == (there == "both") and "# Key of" in printed


def test_a_sheet_says_what_is_asked_for():
    names = [n for n in bank.BANK if bank.question(n, 0).tolerance == 0][:1]
    names += [n for n in bank.BANK if bank.question(n, 0).tolerance and bank.question(n, 0).unit][
        :1
    ]
    text = bank.sheet(names, 0)
    minutes = [bank.BANK[name].minutes for name in names]
    assert f"{sum(minutes)} minutes, a point a minute" in text
    assert [f"**{i}.** ({m} points)" in text for i, m in enumerate(minutes, 1)] == [True, True]
    other = bank.question(names[1], 0)
    assert "Answer, a whole number: " in text or "Answer in " in text
    assert f"Answer in {other.unit}, within {other.tolerance:.0%}: " in text


def test_numbers_of_the_key():
    assert [bank.number(x) for x in (3.0, 1234567.0, 0.123456)] == ["3", "1,234,567", "0.1235"]
