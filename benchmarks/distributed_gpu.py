"""A sequence and a model on two GPUs beside one: exactness, times, bytes.

Every job runs in one process a GPU, through NCCL; a row is the first process's, its times the
slower one's. Without two GPUs nothing is recorded; ``--cpu`` tries the jobs in small, with gloo.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import bench
import torch
from torch import distributed, multiprocessing
from torch.distributed.fsdp import fully_shard
from torch.nn import functional

from linear_time import checks, records
from linear_time.attention import SoftmaxSummary
from linear_time.distributed import (
    Traffic,
    mamba2_shards,
    ring_attention,
    scores_summary,
    ssd_heads,
    ssd_shards,
)
from linear_time.distributed import exchange as swap
from linear_time.duality import ssd
from linear_time.mamba2 import Mamba2, Mamba2Config, Mamba2LM
from linear_time.records import Record
from linear_time.training import Config, train

LENGTHS = [2**n for n in range(13, 19)]  # 8 K … 256 K
HEADS, P, N, CHUNK, D_HEAD = 8, 64, 64, 256, 64
MODEL = {"vocab_size": 256, "d_model": 1024, "n_layer": 16, "N": 64}
TOKENS = 1024  # of a row
# of earlier runs on other hosts: ms at the longest; tokens a second of one GPU and of two
EARLIER = [
    {
        "others_at_work": False,
        "scan_ms": {"one": 125.194, "heads": 89.564},
        "attention_ms": {"one": 166.723, "ring": 169.88, "heads": 84.919},
        "tokens_per_s": [56598, 99564],
    },
    {
        "others_at_work": True,
        "scan_ms": {"one": 148.219, "states": 74.21, "heads": 121.45},
        "attention_ms": {"one": 168.962, "ring": 170.656, "heads": 86.676},
        "tokens_per_s": [55699, 78507],
    },
]


def small():
    """Sizes with which a CPU tries the jobs."""
    globals().update(LENGTHS=[256, 512], HEADS=2, P=8, N=8, CHUNK=16, TOKENS=64)
    MODEL.update(d_model=64, n_layer=2, N=8)


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize()
    if distributed.is_initialized():
        distributed.barrier()


def times(function, device, repeats):
    """Quartiles in ms of a call, from when all are ready until the slowest is."""
    found = []
    for repeat in range(repeats + 2):
        wait(device)
        begin = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        took = torch.tensor(time.perf_counter() - begin, device=device, dtype=torch.float64)
        if distributed.is_initialized():
            distributed.all_reduce(took, op=distributed.ReduceOp.MAX)
        if repeat >= 2:
            found.append(1e3 * took.item())
    return [round(q, 3) for q in statistics.quantiles(found)]


def cut(tensors, dim, rank, world):
    return [t.tensor_split(world, dim)[rank].contiguous() for t in tensors]


def scan_inputs(length, dtype, device):
    torch.manual_seed(0)
    like = {"dtype": dtype, "device": device}
    x = torch.randn(1, length, HEADS, P, **like)
    delta = torch.rand(1, length, HEADS, **like) * 0.1
    B, C = torch.randn(2, 1, length, 2, N, **like)
    return [x, delta, B, C], -torch.rand(HEADS, **like) * 2


SCANS = {"one": ssd, "states": ssd_shards, "heads": ssd_heads}


def scan(job, rank, world, device, repeats):
    """Forward and backward of Mamba-2's map."""
    inputs, A = scan_inputs(job["length"], torch.float32, device)
    leaves = [t.requires_grad_() for t in cut(inputs, 1, rank, world)]
    del inputs
    run = SCANS[job["school"]]

    def both():
        y = run(leaves[0], leaves[1], A, *leaves[2:], chunk=CHUNK)
        torch.autograd.grad(y.sum(), leaves)

    with Traffic() as sent:
        both()
    return {"ms": times(both, device, repeats), "bytes": sent.bytes, "rounds": sent.rounds}


def flash_summary(q, k, v, causal):
    """The summary of a block by the fused kernel: its log-sum is a maximum with the total 1."""
    op = torch.ops.aten._scaled_dot_product_flash_attention
    out, log_total = op(q, k, v, 0.0, causal)[:2]
    return SoftmaxSummary(log_total, torch.ones_like(log_total), out.float())


@torch.no_grad()
def attention(job, rank, world, device, repeats):
    """Forward of causal attention, bfloat16, by the fused kernel inside each school."""
    torch.manual_seed(0)
    like = {"dtype": torch.bfloat16, "device": device}
    whole = torch.randn(3, 1, HEADS, job["length"], D_HEAD, **like).unbind()
    q, k, v = cut(whole, 2, rank, world)
    del whole
    summary = flash_summary if device.type == "cuda" else scores_summary

    def fused(q, k, v):
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    def heads(q, k, v):
        return swap(fused(*(swap(t, 1, 2) for t in (q, k, v))), 2, 1)

    def ring(q, k, v):
        return ring_attention(q, k, v, summary=summary)

    run = {"one": fused, "ring": ring, "heads": heads}[job["school"]]
    with Traffic() as sent:
        run(q, k, v)
    ms = times(lambda: run(q, k, v), device, repeats)
    return {"ms": ms, "bytes": sent.bytes, "rounds": sent.rounds}


def exact(job, rank, world, device, repeats):
    """The largest difference from one process, of outputs and gradients, over the largest entry."""
    dtype, length = getattr(torch, job["dtype"]), 2048 if device.type == "cuda" else 128
    torch.manual_seed(0)
    layer = Mamba2(4 * P, N=N, P=P, groups=2, chunk=64).to(device, dtype)
    x = torch.randn(2, length, 4 * P, dtype=dtype, device=device)
    inputs, A = scan_inputs(length, dtype, device)
    q, k, v = torch.randn(3, 2, 4, length, 32, dtype=dtype, device=device).unbind()
    cases = {
        "states": (ssd, ssd_shards, [inputs[0], inputs[1], A, *inputs[2:]], 1, (0, 1, 3, 4)),
        "heads": (ssd, ssd_heads, [inputs[0], inputs[1], A, *inputs[2:]], 1, (0, 1, 3, 4)),
        "layer": (layer.forward, lambda x: mamba2_shards(layer, x), [x], 1, (0,)),
        "ring": (
            lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True),
            ring_attention,
            [q, k, v],
            2,
            (0, 1, 2),
        ),
    }
    whole, parts, given, dim, sharded = cases[job["school"]]
    full = [t.detach().clone().requires_grad_(i in sharded) for i, t in enumerate(given)]
    own = [
        cut([t], dim, rank, world)[0].requires_grad_() if i in sharded else t
        for i, t in enumerate(given)
    ]
    found = []
    for function, arguments in ((whole, full), (parts, own)):
        y = function(*arguments)
        leaves = [arguments[i] for i in sharded]
        found.append([y.detach(), *torch.autograd.grad(y.square().sum(), leaves)])
    off = 0.0
    for one, other in zip(*found, strict=True):
        here = one.tensor_split(world, dim)[rank]
        off = max(off, ((here - other).abs().max() / one.abs().max()).item())
    worst = torch.tensor(off, device=device, dtype=torch.float64)
    distributed.all_reduce(worst, op=distributed.ReduceOp.MAX)
    return {"off": worst.item(), "length": length}


def batches(rows):
    """Counting in steps of a random size from a random start: a stream that can be learned."""

    def stream(generator):
        while True:
            start, step = torch.randint(1, 200, (2, rows, 1), generator=generator)
            yield (start + (step % 7 + 1) * torch.arange(TOKENS + 1)) % MODEL["vocab_size"]

    return stream


def next_token(model, tokens):
    return functional.cross_entropy(model(tokens[:, :-1]).mT, tokens[:, 1:], reduction="none")


def training(job, rank, world, device, repeats):
    """``train`` of the book's Mamba-2; sharded where there is more than one process."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high" if job["goal"] == "speed" else "highest")
    model = Mamba2LM(Mamba2Config(**MODEL)).to(device)
    count = sum(p.numel() for p in model.parameters())
    if world > 1:
        for block in model.blocks:
            fully_shard(block)
        fully_shard(model)
    rows = job["rows"] * (world if job["goal"] == "speed" else 1)
    config = Config(steps=job["steps"], lr=1e-3, progress=False)
    with Traffic() as sent:
        train(model, batches(rows), next_token, Config(steps=1, lr=1e-9, progress=False))
    if job["goal"] == "equal":
        found = {"loss": train(model, batches(rows), next_token, config).loss.tolist()}
    else:
        train(model, batches(rows), next_token, Config(steps=2, lr=1e-9, progress=False))
        wait(device)
        begin = time.perf_counter()
        train(model, batches(rows), next_token, config)
        wait(device)
        took = (time.perf_counter() - begin) / job["steps"]
        found = {"tokens_per_s": round(rows * TOKENS / took), "s": round(took, 4)}
    held = sum(p.to_local().numel() if world > 1 else p.numel() for p in model.parameters())
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    torch.set_float32_matmul_precision("highest")
    return {
        **found,
        "parameters": count,
        "held": held,
        "peak_GiB": round(peak, 2),
        "bytes": sent.bytes,
        "rounds": sent.rounds,
    }


def piece(job, rank, world, device, repeats):
    """What a plan is made of: a product of matrices, and a gather between the GPUs."""
    if job["of"] == "product":
        n = 8192 if device.type == "cuda" else 256
        a, b = torch.randn(2, n, n, dtype=torch.bfloat16, device=device).unbind()
        ms = times(lambda: a @ b, device, repeats)
        return {"ms": ms, "TFLOPs": round(2 * n**3 / ms[1] / 1e9, 1)}
    part = torch.empty(2**28 if device.type == "cuda" else 2**16, dtype=torch.uint8, device=device)
    parts = [torch.empty_like(part) for _ in range(world)]
    ms = times(lambda: distributed.all_gather(parts, part), device, repeats)
    return {"ms": ms, "GBps": round((world - 1) * len(part) / ms[1] / 1e6, 1)}


PARTS = {
    "exact": exact,
    "piece": piece,
    "scan": scan,
    "attention": attention,
    "training": training,
}


def jobs():
    """All jobs, by the number of processes."""
    found = {2: [], 1: []}
    for dtype in ("float64", "float32"):
        for school in ("states", "heads", "layer", "ring"):
            found[2].append({"part": "exact", "school": school, "dtype": dtype})
    found[1].append({"part": "piece", "of": "product"})
    found[2].append({"part": "piece", "of": "gather"})
    equal = {"part": "training", "goal": "equal", "rows": 4, "steps": 20}
    speed = {"part": "training", "goal": "speed", "rows": 8, "steps": 8}
    for world, rows in found.items():
        rows += [equal, speed]
        for part, other in (("scan", "states"), ("attention", "ring")):
            for school in ("one",) if world == 1 else (other, "heads"):
                rows += [{"part": part, "school": school, "length": n} for n in LENGTHS]
    return found


def work(rank, world, todo, store, file, options):
    """One process: the jobs in order; the first writes a line for each."""
    torch.set_num_threads(1)
    device = torch.device("cpu" if options.cpu else f"cuda:{rank}")
    if options.cpu:
        small()
    else:
        torch.cuda.set_device(device)
    checks(values=False)
    if world > 1:
        os.environ.update(WORLD_SIZE=str(world), RANK=str(rank), LOCAL_RANK=str(rank))
        distributed.init_process_group(
            "gloo" if options.cpu else "nccl",
            init_method=f"file://{store}",
            rank=rank,
            world_size=world,
        )
    begin = time.perf_counter()
    for job in todo:
        late = torch.tensor(float(time.perf_counter() - begin > options.seconds), device=device)
        if world > 1:
            distributed.all_reduce(late)
        if late.item():
            break
        if not options.cpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        row = {
            **job,
            "ranks": world,
            **PARTS[job["part"]](job, rank, world, device, options.repeats),
        }
        if rank == 0:
            with file.open("a", encoding="utf8") as lines:
                print(json.dumps(row), file=lines)
            print(round(time.perf_counter() - begin, 1), row, flush=True)
    if world > 1:
        distributed.destroy_process_group()


def main():
    parser = bench.parser(__doc__, repeats=7, threads=1)
    parser.add_argument("--seconds", type=float, default=90, help="of each number of processes")
    parser.add_argument("--cpu", action="store_true", help="try the jobs in small, with gloo")
    options = bench.start(parser)
    if not options.cpu and torch.cuda.device_count() < 2:
        print("left out: fewer than two GPUs")
        return
    if options.cpu:
        small()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for world, todo in jobs().items():
            file = Path(folder, f"rows{world}")
            store = Path(folder, f"store{world}")
            try:
                multiprocessing.spawn(work, (world, todo, str(store), file, options), nprocs=world)
            except Exception as error:  # what was measured before is kept
                print(error, file=sys.stderr)
            if file.exists():
                lines = file.read_text(encoding="utf8").splitlines()
                rows += [json.loads(line) for line in lines]
            write(options, rows)


def write(options, rows):
    settings = {
        "ms": "quartiles of wall time, from when all are ready until the slowest is",
        "repeats": options.repeats,
        "scan": {"heads": HEADS, "P": P, "N": N, "groups": 2, "chunk": CHUNK, "dtype": "float32"},
        "attention": {"heads": HEADS, "d_head": D_HEAD, "dtype": "bfloat16", "forward": "only"},
        "training": {**MODEL, "tokens": TOKENS, "equal": "float32", "speed": "TF32"},
        "bytes": "that leave a process, of a ring",
        "earlier": EARLIER,
    }
    machine = records.machine("cpu" if options.cpu else "cuda")
    command = "python benchmarks/distributed_gpu.py"
    Record("distributed_gpu", command, (machine,), settings, tuple(rows)).write(options.out)


if __name__ == "__main__":
    main()
