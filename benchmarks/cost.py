"""A training step and a generated token against the length, for four layers side by side.

Run ``python benchmarks/cost.py`` on a quiet machine. At every length the layers are called in turn,
so that whatever else the machine does meets all of them; a time is the median of the repeats.

A training step is forward, a squared loss and the gradients of all parameters, on one sequence. A
token is one ``step`` after the other from a state as large as after ``length`` tokens: so many
random keys and values for attention, and for the others, whose state has a fixed size, that after
256 steps.
Memory is what torch's CPU allocator holds beyond the layer and its input, at most, by its profiler.
"""

import time
from functools import partial

import bench
import torch

from linear_time.attention import CausalSelfAttention, KVCache
from linear_time.cost import cost
from linear_time.mamba import Mamba
from linear_time.measure import measure, training_step
from linear_time.recurrent import GRU
from linear_time.s4 import S4D

D_MODEL = 64
TRAINING = [128, 256, 512, 1024, 2048, 4096, 8192]
GENERATION = [256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]
STEPS = 16  # tokens a timing


def models():
    torch.manual_seed(0)
    return {
        "GRU": GRU(D_MODEL),
        "attention": CausalSelfAttention(D_MODEL, n_heads=1),
        "attention, tiled": CausalSelfAttention(D_MODEL, n_heads=1, block=128),
        "S4D": S4D(D_MODEL, N=64),
        "Mamba": Mamba(D_MODEL),
    }


def row(kind, name, length, mixer, seen):
    counted = cost(mixer, length)
    out = {"kind": kind, "model": name, "length": length, **bench.milliseconds(seen, 5)}
    if kind == "training":
        return out | {"peak_bytes": seen.peak_bytes, "forward_flops": counted.forward_flops}
    return out | {"state": counted.state, "step_flops": counted.step_flops}


def show(rows):
    *_, last = rows
    print(f"{last['kind']}, length {last['length']}:", end="")
    for entry in rows:
        print(f"  {entry['model']} {entry['median_ms']:.3g} ms", end="")
    print(flush=True)


def training(lengths, repeats):
    rows, mixers = [], models()
    for length in lengths:
        x = torch.randn(1, length, D_MODEL, generator=torch.Generator().manual_seed(0))
        calls = {name: partial(training_step, mixer, x) for name, mixer in mixers.items()}
        seen = measure(calls, repeats, memory=True)
        rows += [row("training", name, length, mixers[name], seen[name]) for name in mixers]
        show(rows[-len(mixers) :])
    return rows


def generating(mixer, x_t, state):
    """Calls that take a step each from where the last one ended.

    From one state again and again each step would be a second continuation of its cache, which is
    then copied: that is not what generating costs.
    """
    held = [state]

    def call():
        _, held[0] = mixer.step(x_t, held[0])

    return call


@torch.no_grad()
def generation(lengths, repeats):
    mixers = {name: mixer for name, mixer in models().items() if name != "attention, tiled"}
    tokens = torch.randn(256, 1, D_MODEL, generator=torch.Generator().manual_seed(0))
    states = {name: mixer.initial_state(1) for name, mixer in mixers.items()}
    for name, mixer in mixers.items():
        for x_t in tokens:
            _, states[name] = mixer.step(x_t, states[name])
    rows = []
    for length in lengths:
        states["attention"] = KVCache(*torch.randn(2, 1, 1, length, D_MODEL))
        calls = {name: generating(mixer, tokens[0], states[name]) for name, mixer in mixers.items()}
        seen = measure(calls, repeats, number=STEPS)
        rows += [row("generation", name, length, mixers[name], seen[name]) for name in mixers]
        show(rows[-len(mixers) :])
    return rows


def main():
    parser = bench.parser(__doc__, repeats=5)
    parser.add_argument("--longest", type=int, default=65536, help="leave longer sequences out")
    options = bench.start(parser)
    begin = time.perf_counter()
    rows = training([n for n in TRAINING if n <= options.longest], options.repeats)
    rows += generation([n for n in GENERATION if n <= options.longest], options.repeats)
    settings = {
        "seconds": round(time.perf_counter() - begin),
        "dtype": "float32",
        "batch": 1,
        "d_model": D_MODEL,
        "repeats": options.repeats,
        "steps_a_timing": STEPS,
        "parameters": {name: cost(mixer, 1).parameters for name, mixer in models().items()},
        "time": "median of the repeats, the layers called in turn",
        "memory": "peak of what torch's CPU allocator holds beyond layer and input, its profiler",
    }
    bench.write("cost", options, settings, rows)


if __name__ == "__main__":
    main()
