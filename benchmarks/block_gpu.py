"""Mamba beside attention on one GPU: a layer, a block and a model, in training and generation.

Run ``python benchmarks/block_gpu.py`` where torch, Triton and a CUDA GPU are. Everything is
bfloat16 (A and the bias of Δ float32), one sequence, random weights: neither time nor memory
depends on them. All that is timed at a length is called in turn; a time is the median of the
repeats between two events on the GPU, beside the lower and the upper quartile.

- A *layer* is the mixer alone: Mamba, or causal attention with rotary positions and heads of 128
  channels. Equal widths, not equal parameters.
- A *block* is a part of a model, with norms and residuals: two Mamba blocks beside one of a Llama,
  whose MLP is as wide as makes the parameters equal.
- A *model* is a language model over 256 bytes, of the same blocks.

Attention is torch's, by FlashAttention or by cuDNN; "grouped" has a key for four queries. The
Llama's norms are torch's, its rotary embedding and its gate compiled into one kernel each. A
training step is forward, a loss, and all gradients, that of the input among them. A prefill leaves
the state after the last position. A token is a step from a state as large as after ``length``
tokens. "graph" is the same work replayed as a CUDA graph; without it Python asks for every kernel,
and bounds what is short.

transformers' Mamba runs its slow path: the package of the official kernels, which it asks for
otherwise, is not installed (nor does it build where this was recorded). It has our weights and is
checked to give our outputs. Its loop is quadratic in the length under autograd, so it stops early;
with mambapy's scan inside it fails in bfloat16.
"""

import logging
import math
import time
from functools import partial
from importlib import util

import bench
import torch
from on_gpu import as_graph, peak_bytes, times
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from linear_time import records
from linear_time.attention import join_heads, split_heads
from linear_time.cache import KVCache
from linear_time.decoder import GroupedQueryAttention, LlamaBlock, SwiGLU
from linear_time.mamba import Mamba
from linear_time.mixer import LanguageModel, Residual
from linear_time.records import Record
from linear_time.rotary import rotary_table

# Longer calls from Python take as long as their graphs.
LONGEST_FROM_PYTHON = 8192
LENGTHS = [512 * 2**i for i in range(8)]  # 512 … 65,536
WIDTHS = [1024, 2048]
MODEL = {"d_model": 1024, "mamba_blocks": 8, "vocab_size": 256}
D_HEAD = 128
DEVICE = "cuda"
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
PEER = "transformers"
LONGEST_OF_PEER = {"prefill": 4096, "training": 1024, "token": 0}


@partial(torch.compile, dynamic=True)
def turn(x, cos, sin):
    """``apply_rotary``, its eight kernels made one."""
    left, right = x.float().chunk(2, dim=-1)
    y = torch.cat([left * cos - right * sin, right * cos + left * sin], -1)
    return y.to(x.dtype)


@partial(torch.compile, dynamic=True)
def gated(gate, up):
    return functional.silu(gate) * up


class FastMLP(SwiGLU):
    """The library's, its elementwise part in one kernel."""

    def forward(self, x):
        return self.down(gated(self.gate(x), self.up(x)))


class FastAttention(GroupedQueryAttention):
    """The library's layer, by torch's fused attention: no scores in memory."""

    backend = SDPBackend.FLASH_ATTENTION

    def _mix(self, x, state, mask=None, last=None, causal=True):
        k, v, q = self.turned(x, 0)
        with sdpa_kernel(self.backend):
            y = functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=self.n_heads > self.n_kv_heads
            )
        return self.out(join_heads(y)), KVCache(k, v)

    def turned(self, x, past):
        """Keys, values and queries of x, at the positions after the past."""
        end = past + x.shape[1]
        cos, sin = (
            t[past:end] for t in rotary_table(end, self.d_head, self.base, x.device, torch.float32)
        )
        k = turn(split_heads(self.key(x), self.n_kv_heads), cos, sin)
        q = turn(split_heads(self.query(x), self.n_heads), cos, sin)
        return k, split_heads(self.value(x), self.n_kv_heads), q

    def step(self, x_t, state):
        """The last position of a cache that is as long as it gets, so a graph can hold it."""
        past = state.k.shape[2] - 1
        k, v, q = self.turned(x_t[:, None], past)
        state.k[:, :, past:] = k
        state.v[:, :, past:] = v
        with sdpa_kernel(self.backend):
            y = functional.scaled_dot_product_attention(
                q, state.k, state.v, enable_gqa=self.n_heads > self.n_kv_heads
            )
        return self.out(join_heads(y))[:, 0], state


class Stack(nn.Module):
    """Blocks one after the other, without embedding and head."""

    def __init__(self, *blocks, d_model):
        super().__init__()
        self.blocks, self.d_model = nn.ModuleList(blocks), d_model

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x

    def prefill(self, x):
        states = []
        for block in self.blocks:
            x, state = block.prefill(x)
            states.append(state)
        return x, states

    def step(self, x_t, states):
        after = []
        for block, state in zip(self.blocks, states, strict=True):
            x_t, state = block.step(x_t, state)
            after.append(state)
        return x_t, after


class Peer(Stack):
    """Blocks of transformers: a prefill is a forward pass, their state is not asked for."""

    def prefill(self, x):
        return self(x)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def attention_layer(d_model, backend, group=1):
    heads = d_model // D_HEAD
    layer = FastAttention(d_model, heads, heads // group)
    layer.backend = BACKENDS[backend]
    return layer


def llama_block(d_model, backend, group=1):
    """With as many parameters as two Mamba blocks, to the nearest width of the MLP."""
    attention = attention_layer(d_model, backend, group)
    wanted = 2 * parameters(Residual(Mamba(d_model)))
    d_ff = round((wanted - parameters(attention) - 2 * d_model) / (3 * d_model) / 64) * 64
    heads = d_model // D_HEAD
    block = LlamaBlock(d_model, heads, heads // group, d_ff)
    block.attention, block.mlp = attention, FastMLP(d_model, d_ff)
    block.attention_norm, block.mlp_norm = (nn.RMSNorm(d_model, eps=1e-5) for _ in range(2))
    return block


def mamba_blocks(d_model):
    return Stack(Residual(Mamba(d_model)), Residual(Mamba(d_model)), d_model=d_model)


def language_model(block):
    width, vocab = MODEL["d_model"], MODEL["vocab_size"]
    n_layer = MODEL["mamba_blocks"] // (1 if block is None else 2)
    make = block or (lambda: Residual(Mamba(width)))
    return LanguageModel(make, vocab, width, n_layer)


def modules(scope, d_model):
    """The modules of a scope by name, ours first."""
    if scope == "layer":
        found = {"Mamba": Mamba(d_model)}
        found |= {f"attention, {name}": attention_layer(d_model, name) for name in BACKENDS}
    elif scope == "block":
        found = {"Mamba": mamba_blocks(d_model)}
        found |= {f"Llama, {name}": llama_block(d_model, name) for name in BACKENDS}
        found["Llama, flash, grouped"] = llama_block(d_model, "flash", 4)
    else:
        found = {"Mamba": language_model(None)}
        for name in BACKENDS:
            found[f"Llama, {name}"] = language_model(partial(llama_block, d_model, name))
    return {name: module.to(DEVICE, torch.bfloat16) for name, module in found.items()}


def transformers_block(ours):
    """transformers' two blocks with the weights of ours; None where it is not installed."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        from transformers import MambaConfig
        from transformers.models.mamba.modeling_mamba import MambaBlock
    except ImportError:
        return None
    config = MambaConfig(hidden_size=ours.d_model, num_hidden_layers=2, vocab_size=8)
    blocks = Peer(*(MambaBlock(config, i) for i in range(2)), d_model=ours.d_model)
    blocks.load_state_dict(ours.state_dict())
    return blocks.to(DEVICE, torch.bfloat16)


def training(module, length):
    """A call of a training step; of a model over tokens, else over a real input."""
    if isinstance(module, LanguageModel):
        tokens = torch.randint(module.vocab_size, (1, length + 1), device=DEVICE)
        leaves = list(module.parameters())

        def loss():
            logits = module(tokens[:, :-1])[0]
            return functional.cross_entropy(logits.float(), tokens[0, 1:])
    else:
        x = inputs(module, length).requires_grad_()
        leaves = [x, *module.parameters()]

        def loss():
            return module(x).float().square().mean()

    return lambda: torch.autograd.grad(loss(), leaves)


def inputs(module, length):
    sizes = 1, length, module.d_model
    return torch.randn(sizes, device=DEVICE, dtype=torch.bfloat16)


def prefill(module, length):
    if isinstance(module, LanguageModel):
        tokens = torch.randint(module.vocab_size, (1, length), device=DEVICE)
        return lambda: module.prefill(tokens)
    x = inputs(module, length)
    return lambda: module.prefill(x)


def token(module, length, batch):
    """A call of a step whose state is kept in place, so that a graph can hold it."""
    if isinstance(module, LanguageModel):
        x_t = torch.zeros(batch, dtype=torch.int64, device=DEVICE)
    else:
        x_t = inputs(module, batch)[0]
    states = start(module, length, batch)

    def call():
        y, after = module.step(x_t, states)
        put(states, after)
        return y

    return call


def start(module, length, batch):
    """A state as after ``length`` tokens: a full cache, or what does not grow."""
    if isinstance(module, (Stack, LanguageModel)):
        return [start(block, length, batch) for block in module.blocks]
    inner = getattr(module, "attention", module)
    if isinstance(inner, FastAttention):
        sizes = batch, inner.n_kv_heads, length, inner.d_head
        k, v = (torch.randn(sizes, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
        return KVCache(k, v)
    return module.initial_state(batch, DEVICE, torch.bfloat16)


def put(states, after):
    if isinstance(states, torch.Tensor):
        if states is not after:
            states.copy_(after)
    elif isinstance(states, (list, tuple)):
        for one, other in zip(states, after, strict=True):
            put(one, other)


def number_bytes(states):
    if isinstance(states, torch.Tensor):
        return states.nbytes
    if isinstance(states, (list, tuple)):
        return sum(map(number_bytes, states))
    return 0


def case(scope, kind, d_model, length, batch, found, peer, repeats):
    """A row for each module, as graphs and called from Python, all in turn."""
    rows, functions = {}, {}
    modules_now = dict(found)
    if peer is not None and length <= LONGEST_OF_PEER[kind]:
        modules_now[PEER] = peer
    with torch.set_grad_enabled(kind == "training"):
        for name, module in modules_now.items():
            row = {"scope": scope, "kind": kind, "d_model": d_model, "length": length}
            rows[name] = row | {"batch": batch, "model": name, "parameters": parameters(module)}
            try:
                call = calls(kind, module, length, batch)
                rows[name]["peak_MiB"] = round(peak_bytes(call) / 2**20, 1)
                if kind == "token":
                    state = number_bytes(start(module, length, batch))
                    rows[name]["state_MiB"] = round(state / 2**20, 3)
                if name != PEER:
                    functions[name + ", graph"] = as_graph(call)
                if length <= LONGEST_FROM_PYTHON or name == PEER:
                    functions[name] = call
            except Exception as error:  # out of memory; no kernel for it
                rows[name]["skipped"] = f"{type(error).__name__}: {str(error)[:200]}"
                torch.cuda.empty_cache()
        # A call of the peer may take a second: it has fewer.
        slow = {name: functions.pop(name) for name in (PEER,) if name in functions}
        seen = times(functions, repeats, 1) | times(slow, 3, 1)
    for name, row in rows.items():
        for key, label in (("graph_ms", name + ", graph"), ("ms", name)):
            if label in seen:
                row[key] = seen[label]
    functions.clear()
    torch.cuda.empty_cache()
    return list(rows.values())


def calls(kind, module, length, batch):
    if kind == "token":
        return token(module, length, batch)
    return {"training": training, "prefill": prefill}[kind](module, length)


@torch.no_grad()
def check(scope, found, peer):
    """Fused attention gives what the written-out one does, and a step what prefill does."""
    if scope == "model":
        return
    torch.manual_seed(1)
    x = inputs(found["Mamba"], 64)
    for name, module in found.items():
        wanted, _ = module.prefill(x)
        if name != "Mamba":
            inner = getattr(module, "attention", module)
            plain = GroupedQueryAttention._mix(inner, x, None)[0]
            close(name, inner(x), plain)
        state = start(module, 64, 1)
        if "Mamba" in name:
            for x_t in x.unbind(1):
                y_t, state = module.step(x_t, state)
        else:
            _, state = module.prefill(x)
            state.k[:, :, 63:], state.v[:, :, 63:] = 0, 0
            try:
                y_t, _ = module.step(x[:, -1], state)
            except RuntimeError:  # a backend that takes no single query
                continue
        close(name + ", step", y_t, wanted[:, -1])
    if peer is not None:
        close(PEER, peer(x), found["Mamba"](x))


def close(name, found, wanted):
    error = ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()
    assert error < 0.02, (name, error)


def rows_of(options, left):
    plan = [("block", d) for d in WIDTHS] + [("layer", d) for d in WIDTHS]
    plan.insert(1, ("model", MODEL["d_model"]))
    for scope, d_model in plan:
        torch.manual_seed(0)
        found = modules(scope, d_model)
        slow = (scope, d_model) == ("block", WIDTHS[0])
        peer = transformers_block(found["Mamba"]) if slow else None
        check(scope, found, peer)
        for kind in ("training", "prefill", "token"):
            for length in LENGTHS:
                if length > options.longest:
                    continue
                for batch in (1, 16) if kind == "token" else (1,):
                    if left() < 0:
                        return
                    few = min(options.repeats, 2**19 // length)
                    yield from case(scope, kind, d_model, length, batch, found, peer, few)
        del found, peer
        torch.cuda.empty_cache()


def main():
    parser = bench.parser(__doc__, repeats=20)
    parser.add_argument("--longest", type=int, default=65536, help="leave longer sequences out")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so many")
    options = bench.start(parser)
    torch._dynamo.config.recompile_limit = 64  # heads, batches, with and without gradients
    begin, rows = time.perf_counter(), []
    for row in rows_of(options, lambda: begin + options.seconds - time.perf_counter()):
        rows.append(row)
        shown = {k: row[k][1] for k in ("graph_ms", "ms") if k in row}
        what = [row[k] for k in ("scope", "kind", "d_model", "length", "batch", "model")]
        print(*what, shown, row.get("skipped", ""), row.get("peak_MiB"), flush=True)
        write(options, rows)


def write(options, rows):
    settings = {
        "dtype": "bfloat16",
        "repeats": f"{options.repeats}, 8 of the longest, 3 of transformers",
        "ms": "quartiles between two events on the GPU, called in turn",
        "graph_ms": "the same, replayed as a CUDA graph",
        "memory": "peak of what torch's allocator holds beyond weights and input",
        "d_head": D_HEAD,
        "model": MODEL,
    }
    command = "python benchmarks/block_gpu.py"
    packages = [name for name in ("triton", "transformers") if util.find_spec(name)]
    machine = records.machine("cuda", packages=packages)
    Record("block_gpu", command, (machine,), settings, tuple(rows)).write(options.out)


if __name__ == "__main__":
    main()
