"""From chapter 04 on: the recorded runs of ``experiments/``, ``benchmarks/``.

Runs that are longer than a chapter's minute leave a table, which ships with
the package: one row a run, beside the command, the settings and the machines.
``read("perceiver_io").where(task="both", queries=16)`` are the runs of one
setting, ``.chosen("validation.mse")`` those of its best learning rate, one a
seed, and ``.values("test.mse")`` the numbers to quote.
"""

import base64
import datetime
import json
import os
import platform
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linear_time import _validate

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """A table of runs, and how it was made.

    Each row has the settings of one run and what came of it. A key may be
    dotted: ``"test.auc"`` is ``row["test"]["auc"]``. Rows need not all have
    the same keys.
    """

    name: str
    command: str  # that made it; the last one, where it was resumed
    machines: tuple[Row, ...]  # device, versions and date
    settings: Row  # what is the same for all rows
    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Row:
        return self.rows[i]

    def where(self, **exact: Any) -> "Record":
        """The rows that have exactly these values.

        Raises:
            ValueError: no row has the key, or none is left; the message says
                which values there are.
        """
        left = self
        for key, wanted in exact.items():
            groups = left.by(key)
            if wanted not in groups:
                before = [f"{k}={v!r}" for k, v in exact.items()]
                among = ", ".join(before[: list(exact).index(key)])
                raise ValueError(
                    f"{key}: expected one of {', '.join(map(repr, groups))}"
                    f"{' where ' + among if among else ''}, got {wanted!r}"
                )
            left = groups[wanted]
        return left

    def by(self, *keys: str) -> dict[Any, "Record"]:
        """The rows of each value of a key, or of each tuple of several.

        In the order of their first rows. Rows without the key are left out.

        Raises:
            ValueError: no row has all keys.
        """
        groups: dict[Any, list[Row]] = {}
        for row in self.rows:
            found = [_look_up(row, key) for key in keys]
            if _MISSING not in found:
                at = found[0] if len(keys) == 1 else tuple(found)
                groups.setdefault(at, []).append(row)
        if not groups:
            raise ValueError(self._unknown(", ".join(keys)))
        return {
            at: replace(self, rows=tuple(rows)) for at, rows in groups.items()
        }

    def values(self, key: str) -> list[Any]:
        """One value a row.

        Raises:
            ValueError: a row does not have the key.
        """
        found = [_look_up(row, key) for row in self.rows]
        if _MISSING in found:
            raise ValueError(self._unknown(key))
        return found

    def chosen(self, key: str, largest: bool = False) -> "Record":
        """The rows, one a seed, of the learning rate that is best by a key.

        Best is the least mean over the seeds. A run that diverged has None
        there: it does not count, and nor does a rate with fewer seeds left
        than another.

        Args:
            key: of a number, such as a loss on validation data.
            largest: the largest mean instead, as of an accuracy.

        Raises:
            ValueError: a row does not have the key, two rows have the same
                rate and seed (so they are of several settings), or every
                run diverged.
        """
        rates: dict[Any, dict[Any, Row]] = {}
        for row, value in zip(self.rows, self.values(key), strict=True):
            rate, seed = row.get("lr"), row.get("seed")
            if value is None:
                continue
            if seed in rates.setdefault(rate, {}):
                raise ValueError(
                    f"{self.name}: expected rows of one setting, one for each "
                    f"rate and seed, got two with lr {rate} and seed {seed}; "
                    "select by where()"
                )
            rates[rate][seed] = row
        if not rates:
            raise ValueError(
                f"{key}: expected a run that did not diverge, "
                f"got {len(self)} without a value"
            )
        most = max(map(len, rates.values()))
        means = {
            rate: statistics.mean(_look_up(row, key) for row in rows.values())
            for rate, rows in rates.items()
            if len(rows) == most
        }
        best = (max if largest else min)(means, key=lambda rate: means[rate])
        return replace(self, rows=tuple(rates[best].values()))

    def write(self, folder: Path) -> None:
        """Leave ``folder/name.json``, one line a row, for ``read``.

        It takes the place of what was there at once: a process that is
        killed while it writes leaves the old one.
        """
        head = json.dumps(
            {
                "command": self.command,
                "machines": self.machines,
                "settings": self.settings,
            },
            indent=2,
        )
        rows = ",\n".join("    " + json.dumps(row) for row in self.rows)
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{self.name}.json.new"
        unfinished.write_text(
            f'{head[:-2]},\n  "runs": [\n{rows}\n  ]\n}}\n', encoding="utf8"
        )
        unfinished.replace(folder / f"{self.name}.json")

    def _unknown(self, key: str) -> str:
        """The message where rows lack a key."""
        keys = dict.fromkeys(
            name for row in self.rows for name in _names(row, "")
        )
        lacking = sum(
            _MISSING in [_look_up(row, one) for one in key.split(", ")]
            for row in self.rows
        )
        return (
            f"{self.name}: expected keys that its rows have, such as "
            f"{', '.join(keys)}; got {key}, which {lacking} of "
            f"{len(self)} rows do not have"
        )


def read(name: str, folder: Path | None = None) -> Record:
    """A record that ships with the package, or one of another folder.

    Args:
        name: of an experiment or benchmark, ``"perceiver_io"`` for one.
        folder: where ``Record.write`` left it.

    Raises:
        TypeError: folder is not a path.
        ValueError: there is no record of this name (the message lists those
            there are), or its file is damaged.
    """
    if not (folder is None or isinstance(folder, Path)):
        raise TypeError(f"folder: expected a Path or None, got {folder!r}")
    where = files("linear_time") / "recorded" if folder is None else folder
    there = sorted(
        path.name.removesuffix(".json")
        for path in where.iterdir()
        if path.name.endswith(".json")
    )
    _validate.one_of("name", name, there)
    text = (where / f"{name}.json").read_text(encoding="utf8")
    try:
        found = json.loads(text)
        return Record(
            name,
            found["command"],
            _frozen(found["machines"]),
            _frozen(found["settings"]),
            _frozen(found["runs"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{name}.json: expected command, machines, settings and runs, "
            f"got a damaged file ({error})"
        ) from None


STEP = 0.05  # of ``packed`` numbers


def packed(numbers: Tensor) -> str:
    """Numbers such as logits as text: whole multiples of 0.05, in 8 bits.

    What lies beyond ±6.35 is cut off there. ``unpacked`` reads it.
    """
    whole = (numbers.detach().cpu() / STEP).round().clamp(-127, 127)
    return base64.b64encode(whole.to(torch.int8).numpy().tobytes()).decode()


def unpacked(text: str) -> Tensor:
    """The numbers that ``packed`` made a text of; float32.

    Raises:
        ValueError: it is not such a text.
    """
    whole = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.int8)
    return STEP * torch.from_numpy(whole.astype(np.float32))


def machine(
    device: str = "cpu",
    threads: int | None = None,
    packages: Iterable[str] = (),
) -> dict[str, Any]:
    """The machine and the versions, without a name or a path of its own.

    Args:
        device: the kind that did the work, "cpu" or "cuda".
        threads: that worked; None: not said.
        packages: whose versions count, beside Python and torch.
    """
    if device == "cuda":
        what = torch.cuda.get_device_name()
    else:
        what = f"{_processor()}, {os.cpu_count()} cores"
    if threads is not None:
        what += f", {threads} threads"
    return {
        "device": what,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{package: version(package) for package in packages},
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf8") if info.exists() else ""
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "CPU"


_MISSING = object()


def _look_up(row: Row, key: str) -> Any:
    """The value at a dotted key, or ``_MISSING``."""
    value: Any = row
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _names(row: Row, prefix: str) -> Iterator[str]:
    """The dotted keys of a row."""
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from _names(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _frozen(value: Any) -> Any:
    """Lists as tuples, which can be keys and do not change."""
    if isinstance(value, list):
        return tuple(_frozen(one) for one in value)
    if isinstance(value, dict):
        return {key: _frozen(one) for key, one in value.items()}
    return value
