"""Time and peak memory of the selective scan, beside three peers, in one run.

Run ``python benchmarks/scan.py`` on a quiet machine. All methods compute the same function of the
same float32 inputs (with D, a gate and softplus) and are called in turn, so that whatever else the
machine does meets all of them; a time is the median of the repeats.

Memory is what torch's profiler sees its CPU allocator hand out and take back, its highest value
above that at the call's start, in a call of its own: results and gradients count, inputs do not.
"""

import argparse
import datetime
import json
import logging
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from linear_time.selective import selective_scan

logging.getLogger("transformers").setLevel(logging.ERROR)
from transformers.models.mamba.modeling_mamba import mamba_selective_scan  # noqa: E402

RESULT = Path(__file__).parent / "results" / "scan.json"
SHAPES = [(4, 1024, 128, 16), (1, 4096, 256, 16), (16, 256, 64, 16)]  # batch, length, d_inner, N
TARGETS = [3, 3, 2]  # times faster than the fastest peer


def unbound_loop(u, delta, A, B, C, D, z, delta_softplus):
    """The plain loop: everything discretized at once, the steps unbound once, no checks."""
    delta = torch.nn.functional.softplus(delta)
    a = torch.exp(delta.mT.unsqueeze(-1) * A)  # (batch, length, d_inner, N)
    b = (delta * u).mT.unsqueeze(-1) * B.mT.unsqueeze(2)
    h, outputs = torch.zeros_like(a[:, 0]), []
    for a_t, b_t, C_t in zip(a.unbind(1), b.unbind(1), C.unbind(2), strict=True):
        h = a_t * h + b_t
        outputs.append((h * C_t.unsqueeze(1)).sum(-1))
    y = torch.stack(outputs, dim=-1) + D[:, None] * u
    return y * torch.nn.functional.silu(z)


def pscan(*args, **options):
    """transformers' function with mambapy's parallel scan inside."""
    return mamba_selective_scan(*args, **options, use_mambapy=True)


METHODS = {
    "linear_time": selective_scan,
    "unbound loop": unbound_loop,
    "mambapy pscan": pscan,
    "transformers slow path": mamba_selective_scan,
}
# Its loop indexes under autograd, O(L²): minutes a call at these lengths.
TOO_SLOW = {("transformers slow path", "forward + backward", length) for length in (1024, 4096)}


def inputs(batch, length, d_inner, N):
    """Mamba's start: Δ log-uniform in [1e-3, 1e-1], A = −1 … −N."""
    torch.manual_seed(0)
    delta = torch.exp(torch.empty(batch, d_inner, length).uniform_(-6.9, -2.3))
    return {
        "u": torch.randn(batch, d_inner, length),
        "delta": delta.expm1().log(),  # the inverse of softplus
        "A": -torch.arange(1.0, N + 1).repeat(d_inner, 1),
        "B": torch.randn(batch, N, length),
        "C": torch.randn(batch, N, length),
        "D": torch.ones(d_inner),
        "z": torch.randn(batch, d_inner, length),
    }


def call(method, tensors, kind):
    if kind == "forward":
        with torch.no_grad():
            return METHODS[method](*tensors.values(), delta_softplus=True)
    leaves = [x.detach().requires_grad_() for x in tensors.values()]
    y = METHODS[method](*leaves, delta_softplus=True)
    return torch.autograd.grad(y, leaves, tensors["u"])


def seconds(method, tensors, kind):
    begin = time.perf_counter()
    call(method, tensors, kind)
    return time.perf_counter() - begin


def peak_bytes(method, tensors, kind):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call(method, tensors, kind)
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak


def processor():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def measure(shape, kind, repeats):
    tensors = inputs(*shape)
    methods = [m for m in METHODS if (m, kind, shape[1]) not in TOO_SLOW]
    wanted = call("linear_time", tensors, "forward")
    for method in methods:  # also the warm-up
        error = (call(method, tensors, "forward") - wanted).abs().max() / wanted.abs().max()
        assert error < 1e-4, (method, error)
    times = {method: [] for method in methods}
    for _ in range(repeats):
        for method in methods:
            times[method].append(seconds(method, tensors, kind))
    rows = []
    for method in METHODS:
        row = {"shape": shape, "kind": kind, "method": method}
        if method in times:
            ms = sorted(1e3 * t for t in times[method])
            row |= {"median_ms": round(statistics.median(ms), 2)}
            row |= {"fastest_ms": round(ms[0], 2), "slowest_ms": round(ms[-1], 2)}
            row |= {"peak_MiB": round(peak_bytes(method, tensors, kind) / 2**20, 2)}
        else:
            row |= {"skipped": "its indexing under autograd costs O(L^2)"}
        rows.append(row)
    return rows


def compare(rows, target):
    """Our row against the fastest and against the leanest of the peers."""
    ours, *peers = [row for row in rows if "median_ms" in row]
    time_ratio = min(peer["median_ms"] for peer in peers) / ours["median_ms"]
    memory_ratio = ours["peak_MiB"] / min(peer["peak_MiB"] for peer in peers)
    return {
        "shape": ours["shape"],
        "kind": ours["kind"],
        "times_faster_than_the_fastest_peer": round(time_ratio, 2),
        "target": target,
        "peak_memory_over_the_leanest_peer": round(memory_ratio, 3),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs, comparisons = [], []
    for shape, target in zip(SHAPES, TARGETS, strict=True):
        for kind in ("forward", "forward + backward"):
            rows = measure(shape, kind, options.repeats)
            comparisons.append(compare(rows, target))
            runs += rows
            print(f"(batch, length, d_inner, N) = {shape}, {kind}")
            for row in rows:
                if "skipped" in row:
                    print(f"  {row['method']:24} skipped: {row['skipped']}")
                else:
                    print(
                        f"  {row['method']:24} {row['median_ms']:9.1f} ms "
                        f"{row['peak_MiB']:9.1f} MiB"
                    )
            print(f"  {comparisons[-1]}", flush=True)
    record = {
        "command": "python benchmarks/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{processor()}, {os.cpu_count()} cores, {options.threads} threads",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "mambapy")},
        "dtype": "float32",
        "repeats": options.repeats,
        "time": "median of the repeats, the methods called in turn",
        "memory": "peak of what torch's CPU allocator holds beyond the inputs, by its profiler",
    }
    head = json.dumps(record, indent=2)[:-2]
    parts = {"comparisons": comparisons, "runs": runs}
    for name, rows in parts.items():
        lines = ",\n".join("    " + json.dumps(row) for row in rows)
        head += f',\n  "{name}": [\n{lines}\n  ]'
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(head + "\n}\n")


if __name__ == "__main__":
    main()
