"""Reading what longer runs left: rows, filters, values, the rate that is best, one a seed."""

import dataclasses
import json
import statistics
from importlib.resources import files

import pytest

from linear_time import records
from linear_time.records import Record, read

NAMES = sorted(path.name[:-5] for path in files("linear_time").joinpath("recorded").iterdir())


def record(*rows):
    return Record("some", "python some.py", ({"device": "CPU"},), {"batch": 8}, rows)


def sweep(**losses):
    """Rows of rates "0.1", …, with a loss for each seed."""
    return record(
        *(
            {"lr": float(rate.replace("_", ".").strip("r")), "seed": seed, "test": {"loss": loss}}
            for rate, ofs in losses.items()
            for seed, loss in enumerate(ofs)
        )
    )


# --- the records that ship -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_record_is_whole(name):
    found = read(name)
    script = name.removesuffix("_small").removesuffix("_controls").removesuffix("_after")
    script = "paper_tables" if name.startswith("paper_") else script
    assert found.name == name and f"{script}.py" in found.command
    assert found.settings and found.machines and len(found) == len(list(found)) > 2
    for machine in found.machines:
        assert {"device", "python", "torch", "date"} <= machine.keys()
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.rows = ()
    raw = json.loads(
        (files("linear_time") / "recorded" / f"{name}.json").read_text(encoding="utf8")
    )
    assert json.loads(json.dumps(found.rows)) == raw["runs"]


def test_a_reading_by_hand():
    """The rows of one setting, the mean of each rate, the least of them: nothing of the library."""
    raw = json.loads(
        (files("linear_time") / "recorded" / "perceiver_io.json").read_text(encoding="utf8")
    )
    by_rate = {}
    for row in raw["runs"]:
        if row["task"] == "both" and row["queries"] == 16:
            by_rate.setdefault(row["lr"], []).append(row)
    assert len(by_rate) == 3
    best = min(
        by_rate.values(), key=lambda rows: statistics.mean(r["validation"]["mse"] for r in rows)
    )
    picked = read("perceiver_io").where(task="both", queries=16).chosen("validation.mse")
    assert picked.values("test.mse") == [row["test"]["mse"] for row in best]
    assert picked.values("seed") == [0, 1, 2] and set(picked.values("lr")) == {0.004}
    assert picked.settings["read"] == 24


# --- filters and values --------------------------------------------------------------------------


def test_where_and_by():
    rows = record({"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 1}, {"c": {"d": (3, 4)}})
    assert rows.where(a=1).values("b") == [1, 2]
    assert list(rows.where(a=1, b=2)) == [{"a": 1, "b": 2}]
    assert rows.where(**{"c.d": (3, 4)})[0] == rows[3]
    assert {at: len(own) for at, own in rows.by("a").items()} == {1: 2, 2: 1}
    assert list(rows.by("b", "a")) == [(1, 1), (2, 1), (1, 2)]  # in the order of the rows
    assert rows.by("c.d")[3, 4].rows == (rows[3],)
    assert rows.where(a=2).name == "some" and rows.where(a=2).settings == {"batch": 8}


def test_values_at_a_dotted_key():
    assert sweep(r0_1=(1.0, 3.0)).values("test.loss") == [1.0, 3.0]
    assert record({"x": None}).values("x") == [None]


# --- the rate ------------------------------------------------------------------------------------


def test_chosen_is_the_least_mean_of_whole_groups():
    rows = sweep(r0_1=(1.0, 3.0), r0_2=(1.5, 1.7), r0_3=(0.1,), r0_4=(None, 0.1))
    picked = rows.chosen("test.loss")  # neither the rate with one seed nor the one that diverged
    assert picked.values("lr") == [0.2, 0.2] and picked.values("seed") == [0, 1]
    assert rows.chosen("test.loss", largest=True).values("lr") == [0.1, 0.1]
    assert rows.where(seed=0).chosen("test.loss").values("test.loss") == [0.1]
    assert rows.where(seed=1).chosen("test.loss").values("lr") == [0.4]


def test_runs_without_a_rate_are_a_group():
    assert record({"loss": 2.0}).chosen("loss").values("loss") == [2.0]


# --- writing -------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path):
    written = record({"lr": 0.1, "shape": (1, 2), "name": "Δ"}, {"lr": 0.2, "test": {"a": None}})
    written.write(tmp_path / "new")
    assert read("some", tmp_path / "new") == written
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["some.json"]
    (tmp_path / "new" / "some.json").read_text(encoding="ascii")


def test_a_machine_has_no_name_of_its_own():
    found = records.machine(threads=2, packages=["numpy"])
    assert list(found) == ["device", "python", "torch", "numpy", "date"]
    assert found["device"].endswith("cores, 2 threads")


# --- bad input -----------------------------------------------------------------------------------

TABLE = record({"a": 1, "b": {"c": 2}}, {"a": 3})


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: read("perceiver_oi"), r"name: expected one of .*cost, .*, scan, .*'perceiver_oi'"),
        (lambda: TABLE.where(A=1), "some: expected keys that its rows have, such as a, b.c; got A"),
        (lambda: TABLE.where(a=2), "a: expected one of 1, 3, got 2"),
        (
            lambda: TABLE.where(a=1, **{"b.c": 3}),
            "b.c: expected one of 2 where a=1, got 3",
        ),
        (lambda: TABLE.values("b.c"), "got b.c, which 1 of 2 rows do not have"),
        (lambda: TABLE.values("a.c"), "got a.c, which 2 of 2 rows do not have"),
        (lambda: TABLE.by("a", "d"), "got a, d, which 2 of 2 rows do not have"),
        (lambda: TABLE.chosen("a"), "some: expected rows of one setting, .*lr None and seed None"),
        (lambda: TABLE.chosen("loss"), "got loss, which"),
        (lambda: sweep(r1=(None,)).chosen("test.loss"), "did not diverge, got 1 without a value"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.bad_input
def test_a_folder_is_a_path():
    with pytest.raises(TypeError, match="folder: expected a Path or None, got 'records'"):
        read("hybrids", "records")


@pytest.mark.bad_input
@pytest.mark.parametrize("text", ["", "[]", '{"runs": []}', '{"command": "", "machines": [], "r'])
def test_a_damaged_file(tmp_path, text):
    (tmp_path / "some.json").write_text(text, encoding="utf8")
    with pytest.raises(ValueError, match=r"some.json: expected command, .*, got a damaged file"):
        read("some", tmp_path)


def test_a_damaged_text_of_numbers_is_refused():
    """Signs that are none of base64's are not passed over."""
    for damaged in ("A?==", "AAAA$AAA="):
        with pytest.raises(ValueError):
            records.unpacked(damaged)
