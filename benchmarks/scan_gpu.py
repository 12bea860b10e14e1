"""Time, peak memory and error of the selective scan in Triton, on one GPU.

Run ``python benchmarks/scan_gpu.py`` where torch, Triton and a CUDA GPU are. All that is timed at a
shape is called in turn; a time is the median of the repeats between two events on the GPU, beside
the lower and the upper quartile. Calls from Python are timed ten in a row: short ones are bound by
the host, whose speed "empty" shows, a function of the same inputs that does nothing in autograd.
"graph" is the same work replayed from a CUDA graph, once, the GPU's cache emptied before.

Floors: every input read once and every output written once at the measured speed of a copy; one
exponential a state and step, sixteen a clock on each multiprocessor at the highest clock.

The official kernel is not run here. Its times were taken before on one NVIDIA H100 80GB HBM3 with
torch 2.11, called from Python with the same inputs (bfloat16, time contiguous).
"""

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from linear_time.scan_triton import selective_scan
from linear_time.selective import selective_scan_reference

RESULT = Path(__file__).parent / "results" / "scan_gpu.json"
SHAPES = [(8, 2048, 2048, 16), (1, 2048, 16384, 16), (1, 1536, 1024, 16)]  # batch, d_inner, L, N
OFFICIAL = {  # forward, forward + backward, in ms
    "bfloat16": [(0.532, 2.996), (0.720, 3.535), (0.041, 0.587)],
    "float32": [(1.095, 3.909), (1.365, 4.629), (0.062, 0.419)],
}
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def inputs(shape, dtype, layout):
    """Mamba's start: Δ log-uniform in [1e-3, 1e-1], A = −1 … −N, D = 1."""
    torch.manual_seed(0)
    batch, d_inner, length, N = shape

    def in_time(channels):
        x = torch.randn(batch, length, channels, device="cuda").to(dtype).mT
        return x.contiguous() if layout == "time" else x

    bias = torch.exp(torch.empty(d_inner, device="cuda").uniform_(-6.9, -2.3)).expm1().log()
    A = -torch.arange(1.0, N + 1, device="cuda").repeat(d_inner, 1)
    D = torch.ones(d_inner, device="cuda")
    u, delta, B, C, z = (in_time(n) for n in (d_inner, d_inner, N, N, d_inner))
    return [u, delta / 10, A, B, C, D, z, bias]


class Empty(torch.autograd.Function):
    """As many inputs and outputs, nothing computed."""

    @staticmethod
    def forward(ctx, *tensors):
        ctx.save_for_backward(*tensors)
        return tensors[0].view_as(tensors[0]), tensors[2].view_as(tensors[2])

    @staticmethod
    def backward(ctx, *grads):
        return ctx.saved_tensors


def calls(tensors):
    """The functions to time, by name."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    upstream = torch.randn_like(tensors[0])

    def forward():
        with torch.no_grad():
            return selective_scan(*tensors, delta_softplus=True)

    def both(**options):
        y, _ = selective_scan(*leaves, delta_softplus=True, **options)
        return torch.autograd.grad(y, leaves, upstream)

    return {
        "forward": forward,
        "forward + backward": both,
        "no states kept": lambda: both(keep_states=False),
        "deterministic": lambda: both(deterministic=True),
        "empty": lambda: torch.autograd.grad(Empty.apply(*leaves)[0], leaves, upstream),
    }


def as_graph(function):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            function()
    return graph.replay


def times(functions, repeats):
    """Quartiles in ms of a call of each function, all called in turn."""
    cache = torch.empty(2**26, dtype=torch.int8, device="cuda")
    taken = {name: [] for name in functions}
    for repeat in range(repeats + 3):
        for name, function in functions.items():
            cache.zero_()
            in_a_row = 1 if "graph" in name else 10
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(in_a_row):
                function()
            end.record()
            torch.cuda.synchronize()
            if repeat >= 3:  # before: warm-up
                taken[name].append(begin.elapsed_time(end) / in_a_row)
    return {name: [round(q, 4) for q in statistics.quantiles(ms)] for name, ms in taken.items()}


def peak_bytes(function):
    """What a call takes beyond what stands before it."""
    function()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    return torch.cuda.max_memory_allocated() - before


def errors(shape, dtype, layout):
    """Relative, against the plain form in float64; of a batch of one and few channels."""
    tensors = inputs((1, 64, min(shape[2], 4096), shape[3]), dtype, layout)
    leaves = [x.detach().requires_grad_() for x in tensors]
    wide = [x.detach().double().requires_grad_() for x in tensors]
    y, _ = selective_scan(*leaves, delta_softplus=True)
    wanted = selective_scan_reference(*wide, delta_softplus=True)
    upstream = torch.randn_like(y)
    grads = torch.autograd.grad(y, leaves, upstream)
    wanted_grads = torch.autograd.grad(wanted, wide, upstream.double())
    pairs = zip(("y", *("d" + n for n in NAMES)), (y, *grads), (wanted, *wanted_grads), strict=True)
    return {n: float(f"{(a.double() - b).norm() / b.norm():.1e}") for n, a, b in pairs}


def query(what):
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0]


def floors(shape, dtype, bandwidth):
    """Of forward, in ms: bytes and exponentials."""
    batch, d_inner, length, N = shape
    numbers = batch * length * (4 * d_inner + 2 * N)  # u, Δ, z, y and B, C
    gpu = torch.cuda.get_device_properties(0)
    rate = 16 * gpu.multi_processor_count * float(query("clocks.max.sm")) * 1e6
    exponentials = batch * length * d_inner * N / rate
    return [round(1e3 * x, 4) for x in (numbers * dtype.itemsize / bandwidth, exponentials)]


def copy_speed():
    """Bytes read and written a second by a large copy."""
    x = torch.empty(2**30, dtype=torch.int8, device="cuda")
    y = torch.empty_like(x)
    return 2 * x.nbytes / (1e-3 * times({"copy": lambda: y.copy_(x)}, 20)["copy"][1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    bandwidth, runs = copy_speed(), []
    for index, shape in enumerate(SHAPES):
        for dtype in (torch.bfloat16, torch.float32):
            for layout in ("channels", "time"):
                tensors = inputs(shape, dtype, layout)
                functions = calls(tensors)
                functions |= {
                    name + ", graph": as_graph(functions[name])
                    for name in ("forward", "forward + backward")
                }
                name = str(dtype).removeprefix("torch.")
                row = {"shape": shape, "dtype": name, "contiguous": layout}
                row["ms"] = times(functions, options.repeats)
                row["official_ms"] = OFFICIAL[name][index]
                row["floors_ms"] = floors(shape, dtype, bandwidth)
                row["peak_MiB"] = {
                    name: round(peak_bytes(functions[name]) / 2**20, 1)
                    for name in ("forward", "forward + backward", "no states kept", "deterministic")
                }
                row["errors"] = errors(shape, dtype, layout)
                runs.append(row)
                print(shape, name, layout, {n: t[1] for n, t in row["ms"].items()}, flush=True)
                del functions, tensors
    record = {
        "command": "python benchmarks/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": torch.cuda.get_device_name(),
        "driver": query("driver_version"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "triton")},
        "repeats": options.repeats,
        "ms": "lower quartile, median, upper quartile between two events, called in turn",
        "official_ms": "forward, forward + backward; taken before on one NVIDIA H100 80GB HBM3",
        "floors_ms": "of forward: bytes, exponentials",
        "copy_TB_s": round(bandwidth / 1e12, 3),
        "memory": "peak of what torch's allocator holds beyond the inputs",
        "errors": "relative, against float64, of 64 channels and at most 4096 steps",
    }
    lines = ",\n".join("    " + json.dumps(row) for row in runs)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps(record, indent=2)[:-2] + f',\n  "runs": [\n{lines}\n  ]\n}}\n'
    )


if __name__ == "__main__":
    main()
