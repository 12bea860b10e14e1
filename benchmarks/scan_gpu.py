"""Time, peak memory and error of the selective scan in Triton, on one GPU.

Run ``python benchmarks/scan_gpu.py`` where torch, Triton and a CUDA GPU are. All that is timed at a
shape is called in turn; a time is the median of the repeats between two events on the GPU, beside
the lower and the upper quartile. Calls from Python are timed ten in a row. "graph" is the same work
replayed from a CUDA graph, once, the GPU's cache emptied before. The host's time is what Python
takes to ask for a call, by the clock: it bounds short ones, and depends on the processor, whose
speed "empty" shows, a function of the same inputs that does nothing in autograd.

Floors: every input read once and every output written once at the measured speed of a copy; one
exponential a state and step, sixteen a clock on each multiprocessor at the highest clock.

The official kernel is not run here. Its times were taken before on one NVIDIA H100 80GB HBM3 with
torch 2.11, called from Python with the same inputs (bfloat16, time contiguous).
"""

import statistics
import subprocess
import time

import bench
import torch
from on_gpu import as_graph, peak_bytes, times

from linear_time import records
from linear_time.records import Record
from linear_time.scan_triton import selective_scan
from linear_time.selective import selective_scan_reference

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
    """The functions to time, by name; and the empty one."""
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
    }, lambda: torch.autograd.grad(Empty.apply(*leaves)[0], leaves, upstream)


def host_times(functions, repeats):
    """Quartiles in ms, as ``times``, of what the host takes."""
    taken = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            torch.cuda.synchronize()
            begin = time.perf_counter()
            for _ in range(10):
                function()
            taken[name].append(100 * (time.perf_counter() - begin))
    return {name: [round(q, 4) for q in statistics.quantiles(ms)] for name, ms in taken.items()}


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
    options = bench.start(bench.parser(__doc__, repeats=40))
    bandwidth, rows = copy_speed(), []
    for index, shape in enumerate(SHAPES):
        for dtype in (torch.bfloat16, torch.float32):
            for layout in ("channels", "time"):
                tensors = inputs(shape, dtype, layout)
                functions, empty = calls(tensors)
                on_host = {n: functions[n] for n in ("forward", "forward + backward")}
                host = host_times(on_host | {"empty": empty}, options.repeats)
                functions |= {n + ", graph": as_graph(function) for n, function in on_host.items()}
                name = str(dtype).removeprefix("torch.")
                row = {"shape": shape, "dtype": name, "contiguous": layout}
                row["ms"] = times(functions, options.repeats)
                row["host_ms"] = host
                row["official_ms"] = OFFICIAL[name][index]
                row["floors_ms"] = floors(shape, dtype, bandwidth)
                row["peak_MiB"] = {
                    name: round(peak_bytes(functions[name]) / 2**20, 1)
                    for name in ("forward", "forward + backward", "no states kept", "deterministic")
                }
                row["errors"] = errors(shape, dtype, layout)
                rows.append(row)
                print(shape, name, layout, {n: t[1] for n, t in row["ms"].items()})
                print("  host", {n: t[1] for n, t in host.items()}, flush=True)
                del functions, on_host, empty, tensors
    settings = {
        "repeats": options.repeats,
        "ms": "quartiles of a call between two events on the GPU, called in turn",
        "host_ms": "quartiles of what the host takes to ask for a call",
        "official_ms": "forward, forward + backward; taken before on one NVIDIA H100 80GB HBM3",
        "floors_ms": "of forward: bytes, exponentials",
        "copy_TB_s": round(bandwidth / 1e12, 3),
        "memory": "peak of what torch's allocator holds beyond the inputs",
        "errors": "relative, against float64, of 64 channels and at most 4096 steps",
    }
    command = f"python benchmarks/scan_gpu.py --repeats {options.repeats}"
    machine = records.machine("cuda", packages=["triton"])
    Record("scan_gpu", command, (machine,), settings, tuple(rows)).write(options.out)


if __name__ == "__main__":
    main()
