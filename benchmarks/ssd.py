"""Time and peak memory of Mamba-2's map, beside transformers' chunked form and chapter 17's scan.

Run ``python benchmarks/ssd.py`` on a quiet machine. All methods compute the same function of the
same float32 inputs (with D) and are called in turn; ``measure`` and the record are as in
``scan.py``. transformers' form stands there at its default chunk of 256 and at ours. The last rows
time our form and count its operations at every chunk.
"""

import logging
from functools import partial

import bench
import torch

from linear_time.duality import ssd
from linear_time.measure import measure
from linear_time.selective import selective_scan

logging.getLogger("transformers").setLevel(logging.ERROR)
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan  # noqa: E402

SHAPES = [(4, 1024, 8, 64, 64), (1, 4096, 8, 64, 64)]  # batch, length, heads, P, N
CHUNKS = (8, 16, 32, 64, 128, 256, 512)
GOAL = 1  # times as fast as the fastest peer


def scan(x, delta, A, B, C, D):
    """Chapter 17's scan, of one decay a head, as it takes its arguments."""
    P, N = x.shape[3], B.shape[3]
    return selective_scan(
        x.flatten(2).mT,
        delta.repeat_interleave(P, 2).mT,
        A.repeat_interleave(P)[:, None].expand(-1, N),
        B[:, :, 0].mT,
        C[:, :, 0].mT,
        D.repeat_interleave(P),
    ).mT.unflatten(2, (-1, P))


def theirs(x, delta, A, B, C, D, chunk):
    return mamba2_chunk_scan(x, delta, A, B, C, chunk, D=D)


METHODS = {
    "linear_time": ssd,
    "transformers, chunks of 256": partial(theirs, chunk=256),
    "transformers, chunks of 64": partial(theirs, chunk=64),
    "chapter 17's scan": scan,
}


def inputs(batch, length, heads, P, N):
    """Mamba-2's start: Δ log-uniform in [1e-3, 1e-1], −A uniform in [1, 16], one group."""
    torch.manual_seed(0)
    return (
        torch.randn(batch, length, heads, P),
        torch.empty(batch, length, heads).uniform_(-6.9, -2.3).exp(),
        -torch.empty(heads).uniform_(1, 16),
        torch.randn(batch, length, 1, N),
        torch.randn(batch, length, 1, N),
        torch.ones(heads),
    )


def call(method, tensors, kind):
    if kind == "forward":
        with torch.no_grad():
            return method(*tensors)
    leaves = [x.detach().requires_grad_() for x in tensors]
    return torch.autograd.grad(method(*leaves), leaves, tensors[0])


def compare(shape, kind, repeats):
    """A row for each method; ours says how it stands to the fastest and to the leanest peer."""
    tensors = inputs(*shape)
    wanted = call(ssd, tensors, kind)
    for name, method in METHODS.items():
        for got, want in zip(call(method, tensors, kind), wanted, strict=True):
            error = (got - want).abs().max() / want.abs().max()
            assert error < 1e-3, (name, error)
    calls = {name: partial(call, method, tensors, kind) for name, method in METHODS.items()}
    seen = measure(calls, repeats, memory=True)
    rows = [
        {"shape": shape, "kind": kind, "method": name}
        | bench.milliseconds(seen[name], 2)
        | {"peak_MiB": round(seen[name].peak_bytes / 2**20, 2)}
        for name in METHODS
    ]
    ours, *peers = rows
    times = min(peer["median_ms"] for peer in peers) / ours["median_ms"]
    memory = ours["peak_MiB"] / min(peer["peak_MiB"] for peer in peers)
    ours["times_as_fast"], ours["goal"] = round(times, 2), GOAL
    ours["peak_memory_over_the_leanest_peer"] = round(memory, 3)
    return rows


def by_chunk(shape, repeats):
    """Ours at every chunk: the time of it, and the operations that are counted a token."""
    _, _, heads, P, N = shape
    tensors = inputs(*shape)
    calls = {
        str(c): partial(call, partial(ssd, chunk=c), tensors, "forward + backward") for c in CHUNKS
    }
    seen = measure(calls, repeats)
    return [
        {"shape": shape, "chunk": c, "flops": heads * (2 * c * (P + c) + 4 * P * N) + 2 * c * N}
        | bench.milliseconds(seen[str(c)], 2)
        for c in CHUNKS
    ]


def main():
    options, rows = bench.start(bench.parser(__doc__, repeats=5)), []
    for shape in SHAPES:
        for kind in ("forward", "forward + backward"):
            rows += (case := compare(shape, kind, options.repeats))
            print(f"(batch, length, heads, P, N) = {shape}, {kind}")
            for row in case:
                time, peak = row["median_ms"], row["peak_MiB"]
                print(f"  {row['method']:28} {time:9.1f} ms {peak:9.1f} MiB")
            print(f"  {case[0]['times_as_fast']} times as fast (goal {GOAL})", flush=True)
        rows += (case := by_chunk(shape, options.repeats))
        print({row["chunk"]: row["median_ms"] for row in case}, flush=True)
    settings = {
        "dtype": "float32",
        "repeats": options.repeats,
        "load": "beside other work on the machine",
        "time": "median of the repeats, the methods called in turn",
        "memory": "peak of what torch's CPU allocator holds beyond the inputs, by its profiler",
    }
    bench.write("ssd", options, settings, rows, ["transformers"])


if __name__ == "__main__":
    main()
