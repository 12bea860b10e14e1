"""The question bank: every answer agrees with the library, seeds differ, sheets hide answers.

A sheet is printed on one day and its key on another: what the questions of a seed are is kept in
`questions.json`. Where a question was changed on purpose, `python tests/test_bank.py` renews it.
"""

import hashlib
import json
import math
import re
import sys

import pytest

from book import ROOT, load

bank = load(ROOT / "book" / "bank.py")
QUESTIONS = sys.modules["questions"]
KEPT = ROOT / "tests" / "questions.json"
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


def told(name: str) -> str:
    """A digest of what the sheets and keys of twenty seeds say of a question."""
    drawn = [bank.question(name, seed) for seed in range(20)]
    said = [[a.text, bank.number(a.answer), a.working, a.unit, a.tolerance] for a in drawn]
    minutes = bank.BANK[name].minutes
    return hashlib.sha256(json.dumps([minutes, *said]).encode()).hexdigest()[:16]


@each
def test_a_key_printed_today_is_that_of_a_sheet_printed_before(name):
    kept = json.loads(KEPT.read_text(encoding="utf8"))
    assert told(name) == kept.get(name), "changed on purpose? then python tests/test_bank.py"


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


# --- a small bank


@pytest.fixture
def small(monkeypatch):
    """Four questions of two chapters, which draw one number each."""
    made = {}
    for name, minutes in (("01-a", 5), ("01-b", 4), ("02-a", 3), ("02-b", 9)):

        def draw(r, name=name, minutes=minutes):
            n = r.randrange(10**6)
            unit, tolerance = ("m", 0.05) if name == "01-a" else ("", 0)
            return bank.Asked(f"Ask {name} {n}?", n / 4, f"Work {n}.", lambda: n, unit, tolerance)

        made[name] = QUESTIONS.Question(name, minutes, draw)
    monkeypatch.setattr(bank, "BANK", made)
    return made


def drawn(name, seed):
    return bank.random.Random(f"{name} {seed}").randrange(10**6)


@pytest.mark.parametrize(
    ("minutes", "chapters", "chosen"),
    [
        (21, None, ["01-a", "01-b", "02-a", "02-b"]), (3, None, ["02-a"]), (2, None, []),
        (4, ["01"], ["01-b"]), (9, ["01", "77"], ["01-a", "01-b"]), (12, ["02"], ["02-a", "02-b"]),
        (20, [], None),
    ],
)  # fmt: skip
def test_what_fits_is_chosen(small, minutes, chapters, chosen):
    for seed in range(8):
        found = bank.choose(seed, chapters, minutes)
        assert found == sorted(found) and sum(small[n].minutes for n in found) <= minutes
        assert found == (chosen if chosen is not None else found) and len(set(found)) == len(found)
        assert chosen is not None or len(found) == 3


def test_each_chapter_has_its_turn(small):
    """Before a second question of one the other has had its first, whatever is drawn."""
    found = {tuple(bank.choose(seed, None, 8)) for seed in range(40)}
    assert {"01-a", "01-b"} not in map(set, found)
    assert len(found) >= 2


def test_a_sheet_and_its_key_word_by_word(small):
    a, b = drawn("01-a", 7), drawn("02-b", 7)
    assert bank.sheet(iter(["01-a", "02-b"]), 7) == (
        "# Examination 7\n\n14 minutes, a point a minute. Show your working.\n\n"
        f"**1.** (5 points) Ask 01-a {a}?\n\nAnswer in m, within 5%: ________\n\n"
        f"**2.** (9 points) Ask 02-b {b}?\n\nAnswer, a whole number: ________\n"
    )
    assert bank.key(["01-a", "02-b"], 7) == (
        f"# Key of examination 7\n\n**1.** `01-a`: **{bank.number(a / 4)} m**. Work {a}.\n\n"
        f"**2.** `02-b`: **{bank.number(b / 4)}**. Work {b}.\n"
    )


def test_the_command_prints_what_it_is_asked_for(small, capsys):
    def said(*words):
        assert bank.main(list(words)) == 0
        return capsys.readouterr().out

    lines = [f"{n} ({q.minutes} min): Ask {n} {drawn(n, 0)}?\n\n" for n, q in small.items()]
    assert said("list") == "".join(lines)
    names = list(small)
    sheet, key = f"{bank.sheet(names, 2)}\n", f"{bank.key(names, 2)}\n"
    assert said("exam", "--seed", "2") == sheet + key
    assert said("exam", "--seed", "2", "--only", "sheet") == sheet
    assert said("exam", "--seed", "2", "--only", "key") == key
    one = f"{bank.sheet(['02-a'], 2)}\n"
    assert said("exam", "--seed", "2", "--minutes", "3", "--only", "sheet") == one
    assert said("exam", "--seed", "2", "02-a", "--only", "sheet") == one
    both = f"{bank.sheet(['02-a', '02-b'], 2)}\n"
    assert said("exam", "--seed", "2", "--chapters", "02", "--only", "sheet") == both
    for words, told in (
        (("--chapters", "77", "x"), "the bank has no 77: see `list`\n"),
        (("x-y", "--chapters", "77"), "the bank has no x-y, 77: see `list`\n"),
        (("--minutes", "2"), "no question fits into so few minutes\n"),
    ):
        given = [word for word in words if word != "x"]
        assert bank.main(["exam", "--seed", "2", *given]) == 2
        assert capsys.readouterr().err == told


def test_sixty_minutes_are_chosen_for_unless_another_number_is_said(small, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(bank, "choose", lambda *given: asked.append(given) or ["02-a"])
    bank.main(["exam", "--seed", "2"])
    bank.main(["exam", "--seed", "3", "--minutes", "5", "--chapters", "01", "02"])
    assert asked == [(2, None, 60), (3, ["01", "02"], 5)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (-1234.0, "-1,234"), (999_999_999_999_999.0, "999,999,999,999,999"),
        (1e15, "1e+15"), (-1e15, "-1e+15"), (1.5, "1.5"), (12345.6, "1.235e+04"), (-0.25, "-0.25"),
    ],
)  # fmt: skip
def test_how_an_answer_is_written(value, text):
    assert bank.number(value) == text


@pytest.mark.parametrize(
    ("answer", "tolerance", "given", "right"),
    [
        (100, 0.01, 101.0, True), (100, 0.01, 98.9, False), (100, 0.01, 101.1, False),
        (5, 0, 5, True),
        (5, 0, 5.0001, False), (0, 0.01, 9e-13, True), (0, 0.01, 1.1e-12, False),
    ],
)  # fmt: skip
def test_which_numbers_are_right(answer, tolerance, given, right):
    asked = bank.Asked("", answer, "", lambda: answer, "", tolerance)
    assert bank.right(asked, given) is right


# --- what the questions ask the library with


def test_products_are_written_as_one_writes_them():
    questions = QUESTIONS
    told = [questions.times(n, "h") for n in (1, -1, 2, -0.5, 1.0)]
    assert told == ["h", "-h", "2h", "-0.5h", "h"]


def test_what_a_state_holds():
    questions, torch = QUESTIONS, QUESTIONS.torch
    real, pair = torch.zeros(2, 3), torch.zeros(2, dtype=torch.complex64)
    assert questions.held(real) == 6 and questions.held(pair) == 4
    assert questions.held((real, (pair, 7), None)) == 10 and questions.held(7) == 0
    assert questions.doubles(1, 2).dtype == torch.float64
    assert questions.parameters(torch.nn.Linear(2, 3)) == 9


@pytest.mark.parametrize("wanted", [1, 2, 7, 63, 64])
def test_the_first_number_of_which_something_holds(wanted):
    first = QUESTIONS.first
    assert first(lambda n: n >= wanted, 64) == wanted
    assert first(lambda n: n >= wanted) == wanted
    seen = []
    first(lambda n: seen.append(n) or n >= wanted, 64)
    assert len(seen) <= 7


def test_scores_are_counted_where_softmaxes_are_taken():
    questions = QUESTIONS
    torch = questions.torch
    grown = torch.ones(2, 5, requires_grad=True)
    made = []

    def call():
        torch.softmax(grown, -1)
        made.append(torch.nn.functional.softmax(grown[0], dim=0).requires_grad)
        torch.exp(grown)

    assert questions.scores_of(call) == 15 and made == [False]
    assert questions.scores_of(lambda: None) == 0


if __name__ == "__main__":
    kept = {name: told(name) for name in sorted(bank.BANK)}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf8")
