"""The one command: every benchmark beside its peers, their records, and the table of the README.

Run ``python benchmarks/all.py`` (or ``make bench``) on a quiet machine: a quarter of an hour. Each
script is a process of its own and writes its record; those for a GPU are left out where torch sees
none. ``--table`` writes the README's table from the records that are there, and runs nothing.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from linear_time import measure, records
from linear_time.triton_tiles import INSTALLED

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
ON_CPU, ON_GPU = (
    ["scan", "ssd", "peers", "cost", "generation"],
    ["scan_gpu", "block_gpu", "distributed_gpu"],
)
# Of what misses the goal of 4; benchmarks/README.md counts it.
SHORT = "three quarters are calls of torch on small tensors, and states from beyond the cache"
OPTIONS = {"scan": ["--threads", "2", "--repeats", "9"], "ssd": ["--threads", "1"]}


def shape_text(shape):
    return " × ".join(str(n) for n in shape)


def milliseconds(value):
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def line(what, kind, sizes, ours, peer, name, why=""):
    """A row: both times, and how many times as fast ours is."""
    note = f" ({why})" if why else ""
    times = f"{milliseconds(ours)} | {milliseconds(peer)} ({name})"
    return f"| {what}, {kind} | {sizes} | {times} | {milliseconds(peer / ours)}{note} |"


def scan_lines(record):
    for (shape, kind), rows in record.by("shape", "kind").items():
        ours, *peers = (row for row in rows if "median_ms" in row)
        best = min(peers, key=lambda row: row["median_ms"])
        times = ours["median_ms"], best["median_ms"]
        why = SHORT if ours["times_faster_than_the_fastest_peer"] < 4 else ""
        yield line("selective scan", kind, shape_text(shape), *times, best["method"], why)


def ssd_lines(record):
    for (shape, kind), rows in record.by("shape", "kind").items():
        ours, *peers = rows
        best = min(peers, key=lambda row: row["median_ms"])
        times = ours["median_ms"], best["median_ms"]
        yield line("Mamba-2's map", kind, shape_text(shape), *times, best["method"])


def peer_lines(record):
    for (topic, kind, sizes), rows in record.by("topic", "kind", "sizes").items():
        ours, *peers = rows
        best = min(peers, key=lambda row: row["median_ms"])
        times = ours["median_ms"], best["median_ms"]
        yield line(topic, kind, sizes, *times, best["method"], ours.get("why", ""))


def gpu_scan_lines(record):
    for row in record.where(dtype="bfloat16", contiguous="channels"):
        for kind, official in zip(
            ("forward", "forward + backward"), row["official_ms"], strict=True
        ):
            ours = row["ms"][kind][1]
            why = "" if ours <= official else "bound by Python, in a graph "
            why += "" if ours <= official else milliseconds(row["ms"][kind + ", graph"][1])
            name = "official kernel, taken before"
            yield line("selective scan", kind, shape_text(row["shape"]), ours, official, name, why)


def median(row):
    return row["graph_ms"][1]


def slow_path_lines(record):
    """Two Mamba blocks beside the same in transformers without its kernels, call by call."""
    for (d_model, kind), rows in record.where(scope="block", batch=1).by("d_model", "kind").items():
        by_model = rows.by("model")
        if "transformers" not in by_model:
            continue
        *_, last = by_model["transformers"]
        ours = by_model["Mamba"].where(length=last["length"])[0]
        sizes = f"{last['length']} tokens, width {d_model}"
        name = "transformers, without its kernels"
        yield line("two Mamba blocks", kind, sizes, ours["ms"][1], last["ms"][1], name)


def block_lines(record):
    """Two Mamba blocks beside a Llama block of as many parameters, both as CUDA graphs."""
    for (d_model, kind), rows in record.where(scope="block", batch=1).by("d_model", "kind").items():
        by_model = rows.by("model")
        mamba = by_model["Mamba"]
        attention = [by_model[name] for name in ("Llama, flash", "Llama, cuDNN")]
        for length in (mamba.values("length")[0], mamba.values("length")[-1]):
            ours = mamba.where(length=length)[0]
            others = [r for rows in attention for r in rows.where(length=length) if "graph_ms" in r]
            best = min(others, key=median)
            yield line(
                "two Mamba blocks",
                kind,
                f"{length} tokens, width {d_model}",
                median(ours),
                median(best),
                best["model"],
                crossing(mamba, attention) if median(best) < median(ours) else "",
            )


def crossing(mamba, attention):
    """From which length on Mamba is faster than the faster attention."""
    lengths = mamba.values("length")
    times = [
        min(median(r) for rows in attention for r in rows.where(length=n) if "graph_ms" in r)
        for n in lengths
    ]
    at = measure.crossover(lengths, times, [median(row) for row in mamba])
    if at is None:
        return "at all lengths up to " + str(lengths[-1])
    return f"attention reads few positions; from {round(at, -2):.0f} on Mamba is faster"


def table(folder=None):
    """The table, from the records."""
    lines = []
    for title, name, found, beside in (
        ("On a CPU", "scan", scan_lines, "fastest peer"),
        ("On a CPU", "ssd", ssd_lines, "fastest peer"),
        ("On a CPU", "peers", peer_lines, "fastest peer"),
        ("On a GPU, bfloat16", "scan_gpu", gpu_scan_lines, "peer"),
        (
            "On a GPU, bfloat16, as CUDA graphs, beside a block of attention of as many parameters",
            "block_gpu",
            block_lines,
            "the faster attention",
        ),
        (
            "On a GPU, bfloat16, call by call, beside the same blocks as a loop over tokens",
            "block_gpu",
            slow_path_lines,
            "the loop",
        ),
    ):
        record = records.read(name, folder)
        machine = record.machines[0]
        load = "; " + record.settings["load"] if "load" in record.settings else ""
        lines.append(f"\n**{title}** ({machine['device']}, torch {machine['torch']}{load}):\n")
        lines.append(f"| what | sizes | ours, ms | {beside}, ms | times as fast |")
        lines.append("|---|---|---|---|---|")
        lines += found(record)
    return "\n".join(lines).strip() + "\n"


def write_table():
    before, rest = README.read_text(encoding="utf8").split(BEGIN)
    _, after = rest.split(END)
    README.write_text(f"{before}{BEGIN}\n\n{table()}\n{END}{after}", encoding="utf8")


def run(name):
    command = [sys.executable, str(HERE / f"{name}.py"), *OPTIONS.get(name, [])]
    print(f"== {name}", flush=True)
    return subprocess.run(command).returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true", help="only write the README's table")
    options = parser.parse_args()
    failed = []
    if not options.table:
        failed = [name for name in ON_CPU if not run(name)]
        if INSTALLED and torch.cuda.is_available():
            failed += [name for name in ON_GPU if not run(name)]
        else:
            print(f"== {' and '.join(ON_GPU)}: left out, no Triton or no CUDA GPU")
    write_table()
    print(f"The table stands in {README.name}" + (f"; FAILED: {failed}" if failed else ""))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
