"""Answers that are right within limits: units, factors, readings, quotations."""

import pytest

from linear_time.exercises import Wrong
from linear_time.exercises.estimate import (
    UNITS,
    expect_quantity,
    expect_quote,
    expect_reading,
)

#: Of every unit what it is, in seconds, bytes and operations.
SIZES = {
    "time": {"s": 1, "ms": 1e-3, "µs": 1e-6, "us": 1e-6, "min": 60, "h": 60 * 60},
    "memory": {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12},
    "work": {"FLOP": 1, "GFLOP": 1e9, "TFLOP": 1e12},
}
SIZES["time"]["day"] = 24 * SIZES["time"]["h"]
SIZES["memory"] |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def test_the_units_are_what_they_are_called():
    wanted = {unit: (kind, size) for kind, row in SIZES.items() for unit, size in row.items()}
    assert wanted == UNITS


@pytest.mark.parametrize("off", [1 / 1.29, 1.0, 1.29])
@pytest.mark.parametrize(("given", "unit"), [((90, "min"), "h"), ((1.5, "h"), "min")])
def test_a_quantity_may_have_another_unit_of_its_kind(given, unit, off):
    number, named = given
    value = number * UNITS[named][1] / UNITS[unit][1]
    expect_quantity((number * off, named), value, unit, "It")
    expect_quantity([number * off, named], value, unit, "It", slips={"a slip": value * off})


@pytest.mark.parametrize(
    ("got", "says"),
    [
        ((1.35, "s"), "too large, by more than a factor of 1.3"),
        ((1 / 1.35, "s"), "too small, by more than a factor of 1.3"),
        ((2.0, "s"), "that is twice"),
        ((2000 * 1.04, "ms"), "that is twice"),
        ((2.2, "s"), "too large"),
        ((1, "GB"), "GB is a unit of memory, and what is asked for is time"),
        ((1, "parsec"), "expected a unit among s, ms, µs, min, h, day, B"),
        (1.0, "expected a pair"), ((1.0,), "expected a pair"), ((1, "s", 2), "expected a pair"),
        ((0, "s"), "expected a pair"), ((-1, "s"), "expected a pair"), ((1, 1), "expected a pair"),
        ((True, "s"), "expected a pair"), ((1e301, "s"), "expected a pair"),
    ],
)  # fmt: skip
def test_a_quantity_that_is_wrong_is_told_how(got, says):
    with pytest.raises(Wrong, match=f"^It: .*{says}"):
        expect_quantity(got, 1.0, "s", "It", slips={"that is twice": 2.0})


@pytest.mark.parametrize(
    ("got", "right"), [(5.4, True), (4.6, True), (5.6, False), (4.5, False), ("5", False)]
)
def test_a_reading_is_within_a_tenth(got, right):
    if right:
        return expect_reading(got, 5, "It")
    with pytest.raises(Wrong, match=r"^It: (too (large|small), by more .* 1\.1,|expected a num)"):
        expect_reading(got, 5, "It")


TEXT = "One word\nstands beside another, and so on to the end."


@pytest.mark.parametrize(
    ("got", "says"),
    [
        ("word stands  beside", None),
        ("beside another, and", "does not decide"),
        ("stands beside", "word for word"),
        ("word stood beside", "word for word"),
        (3, "a string"),
    ],
)
def test_a_quotation_stands_there_and_decides(got, says):
    if says is None:
        return expect_quote(got, TEXT, "It", ("word", "stands"))
    with pytest.raises(Wrong, match=f"^It: .*{says}"):
        expect_quote(got, TEXT, "It", ("word", "stands"))
