"""What the benchmarks share: a command line, and the record that says how it was made."""

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from linear_time import checks, records
from linear_time.measure import Measured
from linear_time.records import Record

RECORDED = Path(__file__).parent.parent / "src" / "linear_time" / "recorded"


def parser(
    doc: str | None, repeats: int | None = None, threads: int | None = None
) -> argparse.ArgumentParser:
    """The command line of all benchmarks, to which each may add its own options."""
    found = argparse.ArgumentParser(description=doc)
    if repeats:
        found.add_argument("--repeats", type=int, default=repeats)
    found.add_argument("--threads", type=int, default=threads or os.cpu_count())
    found.add_argument("--out", type=Path, default=RECORDED, help="folder of the record")
    return found


def start(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, after torch was given its threads; no time holds a search of values."""
    options = parser.parse_args()
    checks(values=False)
    torch.set_num_threads(options.threads)
    return options


def milliseconds(seen: Measured, digits: int) -> dict[str, float]:
    """A row's times: the median of the repeats, the fastest and the slowest."""
    times = {"median": seen.seconds, "fastest": seen.fastest, "slowest": seen.slowest}
    return {f"{name}_ms": round(1e3 * seconds, digits) for name, seconds in times.items()}


def write(
    name: str,
    options: argparse.Namespace,
    settings: dict[str, Any],
    rows: list[dict],
    packages: Iterable[str] = (),
) -> None:
    """Leave the record, which takes the place of the one before."""
    command = "python benchmarks/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    machine = records.machine("cpu", options.threads, packages)
    Record(name, command, (machine,), settings, tuple(rows)).write(options.out)
