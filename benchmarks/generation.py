"""Time and state of each generated token: Mamba up to 100,000, a Llama's cache as far as it goes.

Run ``python benchmarks/generation.py`` on a quiet machine. Both models have two blocks and about
240,000 parameters, those of chapter 18's comparison, and random weights: neither time nor state
depends on the values. A time is the median over the steps around a position; the state is counted.
"""

import statistics
import time

import bench
import torch
from torch import Tensor

from linear_time.decoder import LlamaLM
from linear_time.mamba import MambaConfig, MambaLM

VOCAB = 66
MODELS = {
    "mamba": lambda: MambaLM(MambaConfig(vocab_size=VOCAB, d_model=128, n_layer=2)),
    "llama": lambda: LlamaLM(VOCAB, 96, 2, n_heads=4, n_kv_heads=4, d_ff=277),
}
POSITIONS = (10, 100, 1000, 10_000, 50_000, 100_000)


def state_bytes(state) -> int:
    """What the layers carry, in bytes."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if hasattr(state, "k"):
        state = (state.k, state.v)
    return sum(state_bytes(part) for part in state)


@torch.no_grad()
def measure(name: str, positions: list[int]) -> list[dict]:
    """Generate greedily; at each position, the time of a step and the size of the state."""
    torch.manual_seed(0)
    model = MODELS[name]()
    state, token = model.initial_state(1), torch.zeros(1, dtype=torch.int64)
    times, rows = [], []
    for position in range(1, positions[-1] + 1):
        begin = time.perf_counter()
        logits, state = model.step(token, state)
        token = logits.argmax(-1)
        times.append(time.perf_counter() - begin)
        if position in positions:
            near = times[-max(9, min(1000, position // 5)) :]
            assert torch.isfinite(logits).all()
            row = {
                "model": name,
                "position": position,
                "step_ms": round(1000 * statistics.median(near), 4),
                "state_bytes": state_bytes(state),
            }
            print(row, flush=True)
            rows.append(row)
    return rows


def main() -> None:
    parser = bench.parser(__doc__, threads=1)
    parser.add_argument("--longest", type=int, default=100_000, help="tokens of Mamba")
    parser.add_argument("--longest-llama", type=int, default=10_000)
    options = bench.start(parser)
    longest = {"mamba": options.longest, "llama": options.longest_llama}
    rows = []
    for name, most in longest.items():
        rows += measure(name, [p for p in POSITIONS if p <= most])
    time_of = "median over the steps before the position, a fifth of them, at most 1000"
    bench.write("generation", options, {"time": time_of}, rows)


if __name__ == "__main__":
    main()
