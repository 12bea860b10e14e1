"""Time and peak memory of the selective scan, beside three peers, in one run.

Run ``python benchmarks/scan.py`` on a quiet machine. All methods compute the same function of the
same float32 inputs (with D, a gate and softplus) and are called in turn, so that whatever else the
machine does meets all of them; a time is the median of the repeats.

Memory is what torch's profiler sees its CPU allocator hand out and take back, its highest value
above that at the call's start, in a call of its own: results and gradients count, inputs do not.
"""

import logging
from functools import partial

import bench
import torch

from linear_time.measure import measure
from linear_time.selective import selective_scan

logging.getLogger("transformers").setLevel(logging.ERROR)
from transformers.models.mamba.modeling_mamba import mamba_selective_scan  # noqa: E402

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


def compare(shape, kind, repeats, target):
    """A row for each method; ours says how it stands to the fastest and to the leanest peer."""
    tensors = inputs(*shape)
    methods = [m for m in METHODS if (m, kind, shape[1]) not in TOO_SLOW]
    wanted = call("linear_time", tensors, "forward")
    for method in methods:
        error = (call(method, tensors, "forward") - wanted).abs().max() / wanted.abs().max()
        assert error < 1e-4, (method, error)
    calls = {method: partial(call, method, tensors, kind) for method in methods}
    seen = measure(calls, repeats, memory=True)
    rows = {method: {"shape": shape, "kind": kind, "method": method} for method in METHODS}
    for method, row in rows.items():
        if method in seen:
            row |= bench.milliseconds(seen[method], 2)
            row["peak_MiB"] = round(seen[method].peak_bytes / 2**20, 2)
        else:
            row["skipped"] = "its indexing under autograd costs O(L^2)"
    ours, *peers = (rows[method] for method in methods)
    time_ratio = min(peer["median_ms"] for peer in peers) / ours["median_ms"]
    memory_ratio = ours["peak_MiB"] / min(peer["peak_MiB"] for peer in peers)
    ours["times_faster_than_the_fastest_peer"] = round(time_ratio, 2)
    ours["target"] = target
    ours["peak_memory_over_the_leanest_peer"] = round(memory_ratio, 3)
    return list(rows.values())


def main():
    options, rows = bench.start(bench.parser(__doc__, repeats=7)), []
    for shape, target in zip(SHAPES, TARGETS, strict=True):
        for kind in ("forward", "forward + backward"):
            rows += (case := compare(shape, kind, options.repeats, target))
            print(f"(batch, length, d_inner, N) = {shape}, {kind}")
            for row in case:
                what = "skipped: " + row.get("skipped", "")
                if "median_ms" in row:
                    what = f"{row['median_ms']:9.1f} ms {row['peak_MiB']:9.1f} MiB"
                print(f"  {row['method']:24} {what}")
            faster, memory = list(case[0].values())[-3::2]
            print(f"  {faster} times faster (target {target}), {memory} of the memory", flush=True)
    settings = {
        "dtype": "float32",
        "repeats": options.repeats,
        "time": "median of the repeats, the methods called in turn",
        "memory": "peak of what torch's CPU allocator holds beyond the inputs, by its profiler",
    }
    bench.write("scan", options, settings, rows, ["transformers", "mambapy"])


if __name__ == "__main__":
    main()
