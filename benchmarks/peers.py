"""The models of the book beside those of other packages, in one run on a CPU.

Run ``python benchmarks/peers.py`` on a quiet machine. Ours and its peers have the same weights,
and are checked to give the same outputs before they are timed; they are called in turn, so that
whatever else the machine does meets all of them. A time is the median of the repeats. A training
step is forward, a squared loss and the gradients of all parameters. Generation is greedy, and
gives the same tokens.

The selective scan alone has a script of its own, ``scan.py``.

perceiver-pytorch gates its MLPs, which is another function: it runs with ours in their place, and
what is compared are its attention, norms and residuals.
"""

import copy
import importlib
import logging
import sys
import tempfile
import types
from functools import partial

import bench
import torch
from torch import nn
from torch.nn import functional

from linear_time.attention import attention, causal_mask, online_softmax_attention
from linear_time.decoder import LlamaLM
from linear_time.dhen import CrossNetwork, factorization_machine
from linear_time.mamba import Mamba, MambaLM
from linear_time.measure import measure
from linear_time.mixer import Residual
from linear_time.perceiver_io import PerceiverIO, PerceiverMaskedLM
from linear_time.s4_kernels import vandermonde_kernel

logging.getLogger("transformers").setLevel(logging.ERROR)
OURS = "linear_time"
# Why ours is slower than a peer, where it is.
WHY = {
    "attention": "written out: scores and softmax in float32, all of them in memory",
    "attention, tiled": "tiles merged in Python, as chapter 02 derives them; one kernel in torch",
    "Llama": "its attention is chapter 02's, written out",
    "Perceiver": "its attention is chapter 02's, written out",
    "Perceiver IO": "its attention is chapter 02's, written out",
    "factorization machine": "torch's gradient of square() takes more passes than that of x · x",
    "cross network": "types and shapes are checked",
    "S4D kernel": "powers by doubling keep ā = 0 and long kernels exact",
    "Mamba": "types and shapes are checked at every step",
}


def same(calls, tolerance=1e-4):
    """The calls, after all were seen to give what ours gives."""
    found = {name: call() for name, call in calls.items()}
    wanted = found.pop(OURS)
    for name, value in found.items():
        if wanted.is_floating_point():
            error = (value - wanted).abs().max() / wanted.abs().max()
            assert error < tolerance, (name, error)
        else:
            assert torch.equal(value, wanted), name
    return calls


def learning(outputs, leaves):
    """Training steps from calls that return outputs."""

    def step(output, leaf):
        return torch.autograd.grad(output().square().mean(), leaf)

    return {name: partial(step, outputs[name], leaves[name]) for name in outputs}


def both(topic, sizes, outputs, leaves):
    """Forward and training step of modules that give the same."""
    with torch.no_grad():
        same(outputs)

    def forward(output):
        with torch.no_grad():
            return output()

    yield topic, "forward", sizes, {n: partial(forward, call) for n, call in outputs.items()}
    yield topic, "training step", sizes, learning(outputs, leaves)


def logits(model, tokens):
    return model(tokens).logits


def parameters(modules):
    return {name: list(module.parameters()) for name, module in modules.items()}


def mamba_block():
    """A block of width 128 over two sequences of 512."""
    import mambapy.mamba
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaBlock

    width, x = 128, torch.randn(2, 512, 128)
    theirs = mambapy.mamba.MambaConfig(d_model=width, n_layers=1)
    modules = {OURS: Residual(Mamba(width)), "mambapy": mambapy.mamba.ResidualBlock(theirs)}
    for name, pscan in (("transformers", False), ("transformers, mambapy", True)):
        config = MambaConfig(
            hidden_size=width,
            num_hidden_layers=1,
            vocab_size=8,
            use_mambapy=pscan,
            residual_in_fp32=False,
        )
        modules[name] = MambaBlock(config, 0)
    for module in modules.values():
        module.load_state_dict(modules[OURS].state_dict())
    outputs = {name: partial(module, x) for name, module in modules.items()}
    forward, training = both("Mamba", "2 × 512, width 128", outputs, parameters(modules))
    # Its loop indexes under autograd, O(L²): seconds a step.
    training[-1].pop("transformers")
    yield from (forward, training)
    yield "Mamba", "token", "1, width 128", mamba_tokens(modules)


def mamba_tokens(modules):
    """A step after the other, from where the last one ended."""
    x_t = torch.randn(1, 128)
    ours, theirs = modules[OURS], modules["mambapy"]
    states = {OURS: ours.initial_state(1), "mambapy": (None, torch.zeros(1, 256, 3))}

    def step(name, module):
        with torch.no_grad():
            y, states[name] = module.step(x_t, states[name])
        return y

    calls = {OURS: partial(step, OURS, ours), "mambapy": partial(step, "mambapy", theirs)}
    return same(calls)


def from_folder(theirs, ours):
    """Their model, and ours with the weights that it saved."""
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.1)
    with tempfile.TemporaryDirectory() as folder:
        theirs.eval().save_pretrained(folder)
        return {OURS: ours.from_pretrained(folder), "transformers": theirs}


def language_models():
    """Greedy generation of a whole model; a Llama's forward and step as well."""
    from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

    none = {"eos_token_id": None, "bos_token_id": None, "pad_token_id": None}
    mamba = MambaConfig(hidden_size=128, num_hidden_layers=2, vocab_size=256, **none)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 344}
    llama = LlamaConfig(**sizes, num_attention_heads=4, vocab_size=256, **none)
    for topic, theirs, ours in (
        ("Mamba", MambaForCausalLM(mamba), MambaLM),
        ("Llama", LlamaForCausalLM(llama), LlamaLM),
    ):
        models = from_folder(theirs, ours)
        tokens = torch.randint(256, (2, 512))
        if topic == "Llama":
            outputs = {
                OURS: partial(models[OURS], tokens),
                "transformers": partial(logits, theirs, tokens),
            }
            yield from both(topic, "2 × 512, 2 blocks of 128", outputs, parameters(models))
        prompt = tokens[:1, :64]
        calls = {
            OURS: partial(models[OURS].generate, prompt, 64, temperature=0),
            "transformers": partial(
                theirs.generate,
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=64,
                do_sample=False,
                pad_token_id=0,
            ),
        }
        yield topic, "64 tokens", "after 64, 2 blocks of 128", same(calls)


def perceiver():
    """The byte-level masked language model of Perceiver IO, 2,048 bytes to 256 latents."""
    from transformers import PerceiverConfig, PerceiverForMaskedLM

    config = PerceiverConfig(
        num_latents=256,
        d_latents=256,
        d_model=128,
        num_blocks=1,
        num_self_attends_per_block=4,
        num_self_attention_heads=8,
        num_cross_attention_heads=8,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=2048,
        vocab_size=262,
    )
    models = from_folder(PerceiverForMaskedLM(config), PerceiverMaskedLM)
    tokens = torch.randint(262, (1, 2048))
    outputs = {
        OURS: partial(models[OURS], tokens),
        "transformers": partial(logits, models["transformers"], tokens),
    }
    sizes = "2048 bytes, 256 latents of 256"
    leaves = parameters(models)
    used = set()
    for name, call in outputs.items():  # what the other task's heads have is not learned
        grads = torch.autograd.grad(call().sum(), leaves[name], allow_unused=True)
        pairs = zip(leaves[name], grads, strict=True)
        leaves[name] = [p for p, g in pairs if g is not None]
        used.add(sum(p.numel() for p in leaves[name]))
    assert len(used) == 1, used
    yield from both("Perceiver", sizes, outputs, leaves)


def perceiver_io():
    """The same sizes without an embedding, by perceiver-pytorch with our MLPs."""
    from perceiver_pytorch import PerceiverIO as Published

    inside = {f"d_{name}": 256 for name in ("qk", "v", "query_qk", "query_v")}
    heads = {f"n_{name}heads": 8 for name in ("", "cross_", "query_")}
    ours = PerceiverIO(128, 256, 256, 128, 262, n_self=4, widening=4, **inside, **heads)
    theirs = Published(
        depth=4,
        dim=128,
        queries_dim=128,
        logits_dim=262,
        num_latents=256,
        latent_dim=256,
        cross_heads=8,
        cross_dim_head=32,
        latent_dim_head=32,
        decoder_ff=True,
    )
    first, layers = theirs.cross_attend_block, [layer.self_attns[0] for layer in theirs.layers]
    reads = [(first.cross_attn, first.cross_ff), *layers]
    reads.append((theirs.decoder_cross_attn, theirs.decoder_ff))
    with torch.no_grad():
        theirs.latents.copy_(ours.latents)
        theirs.to_logits.load_state_dict(ours.head.state_dict())
        for block, (read, mlp) in zip(
            [ours.encoder, *ours.layers, ours.decoder], reads, strict=True
        ):
            own, their = block.attention, read.fn
            for linear in (own.query, own.key, own.value):  # theirs have no bias
                linear.bias.zero_().requires_grad_(False)
            their.to_q.weight.copy_(own.query.weight)
            their.to_kv.weight.copy_(torch.cat([own.key.weight, own.value.weight]))
            their.to_out.load_state_dict(own.out.state_dict())
            read.norm.load_state_dict(block.norm.state_dict())
            if block.context_norm is not None:
                read.norm_context.load_state_dict(block.context_norm.state_dict())
            mlp.norm.load_state_dict(block.mlp_norm.state_dict())
            mlp.fn.net = copy.deepcopy(block.mlp)
    x, queries = torch.randn(1, 2048, 128), torch.randn(1, 2048, 128)
    outputs = {
        OURS: partial(ours, x, queries),
        "perceiver-pytorch": partial(theirs, x, queries=queries),
    }
    modules = {OURS: ours, "perceiver-pytorch": theirs}
    leaves = {n: [p for p in of if p.requires_grad] for n, of in parameters(modules).items()}
    assert len({sum(p.numel() for p in own) for own in leaves.values()}) == 1
    yield from both("Perceiver IO", "2048 in and out, 256 latents of 256", outputs, leaves)


def s4d_kernel():
    """64 channels of 32 pairs, 4,096 steps; the peer is torch's exp and einsum, written plainly."""
    a = torch.complex(-torch.full((64, 32), 0.5), torch.arange(32) * torch.pi * torch.ones(64, 1))
    a_bar = torch.exp(0.01 * a).requires_grad_()
    weights = torch.randn(64, 32, dtype=torch.complex64).requires_grad_()

    def einsum():
        powers = torch.exp(torch.log(a_bar)[..., None] * torch.arange(4096))
        return 2 * torch.einsum("hn,hnl->hl", weights, powers).real

    outputs = {OURS: partial(vandermonde_kernel, a_bar, weights, 4096), "torch einsum": einsum}
    leaves = {name: [a_bar, weights] for name in outputs}
    yield from both("S4D kernel", "64 channels, 32 pairs, 4096 steps", outputs, leaves)


def attentions():
    """Causal, four heads of 64, 1,024 positions; torch's fused attention."""
    q, k, v = (torch.randn(1, 4, 1024, 64).requires_grad_() for _ in range(3))
    fused = partial(functional.scaled_dot_product_attention, q, k, v, is_causal=True)
    for topic, ours in (
        ("attention", partial(attention, q, k, v, causal_mask(1024))),
        ("attention, tiled", partial(online_softmax_attention, q, k, v, causal=True)),
    ):
        outputs = {OURS: ours, "torch": fused}
        leaves = {name: [q, k, v] for name in outputs}
        yield from both(topic, "4 heads of 64, 1024 positions", outputs, leaves)


def interactions():
    """2,048 rows of 26 features of 16; deepctr-torch asks the index for news when imported."""
    before = sys.modules.get("requests")
    sys.modules["requests"] = types.ModuleType("requests")
    published = importlib.import_module("deepctr_torch.layers.interaction")
    if before is None:
        del sys.modules["requests"]
    else:
        sys.modules["requests"] = before
    x, sizes = torch.randn(2048, 26, 16).requires_grad_(), "2048 rows of 26 × 16"
    fm = published.FM()
    outputs = {
        OURS: lambda: factorization_machine(x).sum(1, keepdim=True),
        "deepctr-torch": partial(fm, x),
    }
    yield from both("factorization machine", sizes, outputs, {name: [x] for name in outputs})
    ours = CrossNetwork(26, 26, 16, 3)
    theirs = published.CrossNet(26 * 16, 3, parameterization="matrix")
    with torch.no_grad():
        for layer, kernel, bias in zip(ours.layers, theirs.kernels, theirs.bias, strict=True):
            kernel.copy_(layer.weight)
            bias.copy_(layer.bias[:, None])
    modules = {OURS: ours, "deepctr-torch": theirs}
    outputs = {
        OURS: lambda: ours(x).flatten(1),
        "deepctr-torch": lambda: theirs(x.flatten(1)),
    }
    yield from both("cross network", sizes, outputs, parameters(modules))


TOPICS = [
    mamba_block,
    language_models,
    perceiver,
    perceiver_io,
    s4d_kernel,
    attentions,
    interactions,
]


def rows_of(topic, kind, sizes, calls, repeats):
    """A row for each method; ours says how it stands to the fastest peer."""
    seen = measure(calls, repeats)
    head = {"topic": topic, "kind": kind, "sizes": sizes}
    rows = {n: head | {"method": n, **bench.milliseconds(seen[n], 3)} for n in calls}
    ours, *peers = rows.values()
    fastest = min(peer["median_ms"] for peer in peers)
    ours["times_as_fast"] = round(fastest / ours["median_ms"], 2)
    if ours["times_as_fast"] < 1:
        ours["why"] = WHY[topic]
    return list(rows.values())


def main():
    options, rows = bench.start(bench.parser(__doc__, repeats=9, threads=1)), []
    for topic in TOPICS:
        torch.manual_seed(0)
        for case in topic():
            rows += (found := rows_of(*case, options.repeats))
            print(*case[:3], {row["method"]: row["median_ms"] for row in found}, flush=True)
    settings = {
        "dtype": "float32",
        "repeats": options.repeats,
        "time": "median of the repeats, the methods called in turn; values are not searched",
    }
    packages = ["transformers", "mambapy", "deepctr-torch", "perceiver-pytorch"]
    bench.write("peers", options, settings, rows, packages)


if __name__ == "__main__":
    main()
