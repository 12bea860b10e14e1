"""Answers that are right within limits: estimates with a unit, values read off a figure, words quoted from a text."""

from typing import Any

from linear_time.exercises import expect

#: unit -> (what it measures, its size in seconds, bytes, operations or as many times one)
UNITS = {
    "s": ("time", 1.0),
    "ms": ("time", 1e-3),
    "µs": ("time", 1e-6),
    "us": ("time", 1e-6),
    "min": ("time", 60.0),
    "h": ("time", 3600.0),
    "day": ("time", 86_400.0),
    "B": ("memory", 1.0),
    "kB": ("memory", 1e3),
    "MB": ("memory", 1e6),
    "GB": ("memory", 1e9),
    "TB": ("memory", 1e12),
    "KiB": ("memory", 2.0**10),
    "MiB": ("memory", 2.0**20),
    "GiB": ("memory", 2.0**30),
    "FLOP": ("work", 1.0),
    "GFLOP": ("work", 1e9),
    "TFLOP": ("work", 1e12),
}


def expect_quantity(
    got: Any,
    value: float | int,
    unit: str,
    what: str,
    factor: float | int = 1.3,
    slips: dict[str, float | int] | None = None,
) -> None:
    """Fail unless ``got`` is a pair (number, unit) within a factor of ``value``.

    Args:
        got: the student's pair, such as ``(12, "ms")``.
        value: the right number, in ``unit``.
        unit: a name from :data:`UNITS`; the student may choose another of its kind.
        what: what is estimated, for the message.
        factor: how far off an estimate may be, either way.
        slips: what went wrong -> the number that comes of it, in ``unit``.
    """
    pair = isinstance(got, tuple | list) and len(got) == 2
    expect(
        pair and _number(got[0]) and type(got[1]) is str,
        f'{what}: expected a pair of a number and a unit, such as (12, "ms").',
    )
    number, named = got
    known = ", ".join(name for name in UNITS if name != "us")
    expect(named in UNITS, f"{what}: expected a unit among {known}.")
    kind, size = UNITS[unit]
    have, own = UNITS[named]
    expect(
        have == kind,
        f"{what}: {named} is a unit of {have}, and what is asked for is {kind}.",
    )
    _judge(number * own / size, value, what, factor, slips or {})


def expect_reading(
    got: Any,
    value: float | int,
    what: str,
    factor: float | int = 1.1,
    slips: dict[str, float | int] | None = None,
) -> None:
    """Fail unless a number that was read off a figure is within a factor of ``value``; see :func:`expect_quantity`."""
    expect(_number(got), f"{what}: expected a number.")
    _judge(float(got), value, what, factor, slips or {})


def expect_quote(
    got: Any, text: str, what: str, words: tuple[str, ...]
) -> None:
    """Fail unless ``got`` stands in ``text`` word for word, line breaks aside, and has all of ``words`` in it.

    Args:
        got: the student's quotation.
        text: what is quoted.
        what: its name, for the message.
        words: what decides, and has to be in the quotation.
    """
    expect(type(got) is str, f"{what}: expected a quotation, a string.")
    said = " ".join(got.split())
    expect(
        len(said.split()) >= 3 and said in " ".join(text.split()),
        f"{what}: what you quote does not stand there word for word.",
    )
    expect(
        all(word in said for word in words),
        f"{what}: that stands there, and does not decide the question.",
    )


def _number(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1e300


def _judge(
    have: float,
    value: float | int,
    what: str,
    factor: float | int,
    slips: dict[str, float | int],
) -> None:
    if value / factor <= have <= value * factor:
        return
    for name, wrong in slips.items():
        expect(not wrong / 1.05 <= have <= wrong * 1.05, f"{what}: {name}.")
    side = "large" if have > value else "small"
    expect(
        False,
        f"{what}: too {side}, by more than a factor of {factor:g}, which is "
        "what is allowed.",
    )
