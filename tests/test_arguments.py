"""Arguments: every one of a layer changes something, and every default is what it was.

A wrapper that forgets to hand an argument on still builds and runs. So each optional argument is
given another value, and something must differ: a shape, a start, an output or a mark.
"""

import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import contract
import linear_time
from book import ROOT
from contract import D, draw, features, picture, sequence, tokens
from linear_time import (
    attention,
    compression,
    decoder,
    delta,
    dhen,
    hybrid,
    mamba,
    mamba2,
    mamba3,
    mixer,
    perceiver,
    perceiver_ar,
    perceiver_io,
    pyramid,
    recurrent,
    s4,
    selective,
)
from linear_time.training import parameter_groups

DEFAULTS = ROOT / "tests" / "defaults.json"


def whole(batch: int, length: int) -> tuple[torch.Tensor, ...]:
    """A query and what it reads, (batch, length, 8) both."""
    return draw(batch, 5, D), draw(batch, length, D, seed=2)


def read(batch: int, length: int) -> tuple[torch.Tensor, ...]:
    return draw(batch, length, D), draw(batch, 4, 6, seed=2)


def fused(n_in: int = 6, **options: Any) -> nn.Module:
    return dhen.FactorizationMachine(n_in, 3, D, **options)


def layers(**options: Any) -> nn.Module:
    return dhen.DHENLayer(
        [dhen.CrossNetwork(6, 3, D), compression.LinearCompression(6, 3)], D, **options
    )


def wukong(**options: Any) -> nn.Module:
    return dhen.Wukong(6, D, 2, 3, 3, **options)


def llama(**options: Any) -> nn.Module:
    return decoder.LlamaLM(11, D, 2, **{"n_heads": 4, "n_kv_heads": 2, "d_ff": 12} | options)


def ar(**options: Any) -> nn.Module:
    own = {"n_heads": 4, "n_kv_heads": 2, "d_ff": 12} | options
    return perceiver_ar.PerceiverAR(11, D, 3, 4, **own)


def latents(**options: Any) -> nn.Module:
    return perceiver.Perceiver(D, 4, 12, **{"n_cross": 2} | options)


def asking(**options: Any) -> nn.Module:
    return perceiver_io.PerceiverIO(D, 4, 12, 6, **options)


def masked_lm(**options: Any) -> nn.Module:
    own = {"n_latents": 3, "d_latent": 8} | options
    return perceiver_io.PerceiverMaskedLM(11, D, 100, **own)


def images(**options: Any) -> nn.Module:
    return perceiver_io.PerceiverImageClassifier(5, 8, **{"n_latents": 4, "n_bands": 4} | options)


def hybrid_lm(**options: Any) -> nn.Module:
    own = {"m": {"N": 6, "P": 4}, "a": {"n_heads": 2, "n_kv_heads": 2}}
    return hybrid.HybridLM("mma", 11, D, **own, **options)


def language(**options: Any) -> nn.Module:
    return mixer.LanguageModel(lambda: mixer.Residual(recurrent.GRU(D)), 11, D, 2, **options)


def classifier(**options: Any) -> nn.Module:
    return mixer.SequenceClassifier(lambda: mixer.Residual(recurrent.GRU(D)), D, 5, D, 2, **options)


def cross(**options: Any) -> nn.Module:
    return perceiver.CrossAttention(D, **{"d_kv": D} | options)


IO = {
    **{"n_self": 2, "n_blocks": 2, "n_heads": 2, "n_cross_heads": 2},
    **{"d_qk": 4, "d_v": 4, "d_query_v": 4, "widening": 2, "query_residual": True},
}
RULE = {
    **{"d_key": 5, "d_value": 2, "key_heads": 2, "taps": 2, "chunk": 3, "reflect": True},
    "eps": 0.1,
}
#: Of each layer: how it is made, what it reads, and another value of every optional argument.
LAYERS: dict[str, tuple[Callable, Callable, dict[str, Any]]] = {
    "ElmanRNN": (lambda **o: recurrent.ElmanRNN(D, **o), sequence, {"spectral_radius": 0.5}),
    "GRU": (lambda **o: recurrent.GRU(D, **o), sequence, {"memory": 50}),
    "MultiHeadAttention": (
        lambda **o: attention.MultiHeadAttention(D, 2, **o),
        *(sequence, {"d_kv": 6, "d_qk": 4, "d_v": 4, "bias": False}),
    ),
    "CausalSelfAttention": (
        lambda **o: attention.CausalSelfAttention(D, 2, **o),
        *(sequence, {"block": 4}),
    ),
    "RMSNorm": (lambda **o: decoder.RMSNorm(D, **o), sequence, {"eps": 0.1}),
    "GroupedQueryAttention": (
        lambda **o: decoder.GroupedQueryAttention(D, 4, 2, **o),
        *(sequence, {"base": 50.0, "d_head": 4}),
    ),
    "LlamaBlock": (
        lambda **o: decoder.LlamaBlock(D, 4, 2, 12, **o),
        *(sequence, {"base": 50.0, "eps": 0.1, "d_head": 4}),
    ),
    "LlamaLM": (
        llama,
        tokens,
        {"tied": False, "eps": 0.1, "base": 50.0, "d_head": 4, "n_heads": 2, "n_kv_heads": 4},
    ),
    "PyramidCompression": (
        lambda **o: pyramid.PyramidCompression((6, 3, 2), **o),
        *(features, {"d": D, "activation": nn.GELU()}),
    ),
    "FactorizationMachine": (
        fused,
        features,
        {"rank": 2, "hidden": (8,), "norm": False, "attentive": (7,)},
    ),
    "CrossNetwork": (lambda **o: dhen.CrossNetwork(6, 3, D, **o), features, {"depth": 2}),
    "SelfAttention": (lambda **o: dhen.SelfAttention(6, 3, D, **o), features, {"n_heads": 2}),
    "Convolution": (lambda **o: dhen.Convolution(6, 3, D, **o), features, {"kernel": 1}),
    "DHENLayer": (layers, features, {"ensemble": "sum", "norm": False}),
    "Wukong": (
        wukong,
        features,
        {"rank": 2, "hidden": (8,), "norm": False, "attentive": (7,)},
    ),
    "CrossAttention": (
        cross,
        whole,
        {
            **{"n_heads": 2, "d_kv": 6, "d_qk": 4, "d_v": 4},
            **{"widening": 2, "query_residual": False},
        },
    ),
    "Perceiver": (
        latents,
        sequence,
        {
            **{"n_cross": 1, "n_self": 2, "n_heads": 2, "n_cross_heads": 2},
            **{"widening": 2, "share": False},
        },
    ),
    "PerceiverIO": (
        asking,
        read,
        {**IO, "d_out": 5, "n_query_heads": 2, "d_query_qk": 4},
    ),
    "PerceiverMaskedLM": (masked_lm, tokens, IO),
    "PerceiverImageClassifier": (
        images,
        picture,
        {
            **{"n_self": 2, "n_blocks": 2, "n_heads": 2, "d_qk": 4, "d_v": 4, "widening": 2},
            **{"channels": 2, "n_bands": 5, "max_frequency": 6},
        },
    ),
    "PerceiverAR": (ar, tokens, {"tied": False, "eps": 0.1, "base": 50.0, "d_head": 4}),
    "S4": (
        lambda **o: s4.S4(D, **{"N": 4} | o),
        sequence,
        {"N": 6, "delta_min": 0.01, "delta_max": 0.9, "lr_scale": 0.5},
    ),
    "S4D": (
        lambda **o: s4.S4D(D, **{"N": 4} | o),
        sequence,
        {
            **{"N": 6, "init": "inv", "rule": "bilinear"},
            **{"delta_min": 0.01, "delta_max": 0.9, "lr_scale": 0.5},
        },
    ),
    "Selective": (
        lambda **o: selective.Selective(D, **{"N": 4} | o),
        sequence,
        {
            **{"N": 6, "rank": 3, "select_delta": False, "select_B_C": False},
            **{"rule": "zero_order_hold", "delta_min": 0.01, "delta_max": 0.9},
        },
    ),
    "Mamba": (
        lambda **o: mamba.Mamba(D, **{"N": 4} | o),
        sequence,
        {
            **{"N": 6, "expand": 3, "taps": 2, "rank": 3, "delta_min": 0.01, "delta_max": 0.9},
            **{"delta_floor": 0.09, "bias": True, "conv_bias": False},
        },
    ),
    "GatedNorm": (
        lambda **o: mamba2.GatedNorm(D, **o),
        *(lambda b, n: (draw(b, n, D), draw(b, n, D, seed=2)), {"groups": 2, "eps": 0.1}),
    ),
    "Mamba2": (
        lambda **o: mamba2.Mamba2(D, **{"N": 6, "P": 4} | o),
        sequence,
        {
            **{"N": 5, "expand": 3, "P": 2, "groups": 2, "taps": 2, "chunk": 3},
            **{"A_min": 2.0, "A_max": 3.0, "delta_min": 0.01, "delta_max": 0.9},
            **{"delta_floor": 0.09, "bias": True, "conv_bias": False, "eps": 0.1},
        },
    ),
    "Mamba3": (
        lambda **o: mamba3.Mamba3(D, **{"N": 8, "P": 4} | o),
        sequence,
        {
            **{"N": 12, "expand": 3, "P": 2, "rank": 2, "chunk": 3},
            **{"delta_min": 0.01, "delta_max": 0.9, "delta_floor": 0.09},
            **{"A_floor": 2.0, "eps": 0.1},
        },
    ),
    "HeadNorm": (lambda **o: delta.HeadNorm(D, **o), sequence, {"eps": 0.1}),
    "DeltaNet": (
        lambda **o: delta.DeltaNet(D, 4, **{"d_key": 6, "d_value": 3} | o),
        *(sequence, RULE),
    ),
    "GatedDeltaNet": (
        lambda **o: delta.GatedDeltaNet(D, 4, **{"d_key": 6, "d_value": 3} | o),
        sequence,
        {
            **RULE,
            **{"A_min": 2.0, "A_max": 3.0, "delta_min": 0.01, "delta_max": 0.9},
            **{"delta_floor": 0.09},
        },
    ),
    "Residual": (
        lambda **o: mixer.Residual(recurrent.GRU(D), **o),
        *(sequence, {"norm": nn.LayerNorm(D)}),
    ),
    "HybridLM": (hybrid_lm, tokens, {"tied": False, "eps": 0.1}),
    "LanguageModel": (language, tokens, {"tied": False, "eps": 0.1, "rows": 16}),
    "SequenceClassifier": (classifier, sequence, {"read": "last"}),
}
#: Arguments whose other value needs another input, by the layer and the argument.
INPUTS: dict[tuple[str, str], Callable] = {
    ("MultiHeadAttention", "d_kv"): lambda b, n: (draw(b, n, D), draw(b, 4, 6, seed=2)),
    ("CrossAttention", "d_kv"): lambda b, n: (draw(b, n, D), draw(b, 4, 6, seed=2)),
    ("PyramidCompression", "d"): features,
    ("PerceiverImageClassifier", "channels"): lambda b, n: (draw(b, 2, 5, 6),),
}
#: What both are made with, where an argument alone changes nothing or is refused.
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    **{(n, "base"): {"d_head": 4} for n in ("GroupedQueryAttention", "LlamaBlock", "LlamaLM")},
    ("PerceiverAR", "base"): {"d_head": 4},
    ("FactorizationMachine", "attentive"): {"rank": 2},
    ("Wukong", "attentive"): {"rank": 2},
}
#: What changes how a result is reached, and not the result.
SAME_RESULT = {
    ("CausalSelfAttention", "block"),
    *((n, "chunk") for n in ("Mamba2", "Mamba3", "DeltaNet", "GatedDeltaNet")),
}
ASKED = [(name, key) for name, (_, _, others) in LAYERS.items() for key in others]


def made(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return LAYERS[name][0](**options)


def seen(name: str, key: str | None, module: nn.Module) -> list[torch.Tensor]:
    """What a layer gives, and twice: for what it was made with, and for parameters of one kind."""
    given = INPUTS.get((name, key), LAYERS[name][1])(2, 9)
    found = [module(*given).detach()]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return [*found, module(*given).detach()]


def marks(module: nn.Module) -> list[tuple]:
    groups = parameter_groups(module, 1.0, 1.0)
    return sorted((g["lr_scale"], g["weight_decay"], len(g["params"])) for g in groups)


@pytest.mark.parametrize(("name", "key"), ASKED)
def test_an_argument_changes_something(name, key):
    value = LAYERS[name][2][key]
    beside = BESIDE.get((name, key), {})
    plain, other = made(name, **beside), made(name, **beside, **{key: value})
    shapes = [{k: p.shape for k, p in m.named_parameters()} for m in (plain, other)]
    if (name, key) in SAME_RESULT:
        for one, two in zip(seen(name, key, plain), seen(name, key, other), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
        assert getattr(other, key) == value
        return
    if shapes[0] != shapes[1]:
        seen(name, key, other)  # and it runs
        return
    differ = marks(plain) != marks(other)
    for one, two in zip(seen(name, key, plain), seen(name, key, other), strict=True):
        differ |= one.shape != two.shape or not torch.allclose(one, two, rtol=1e-4, atol=1e-6)
    assert differ, f"{name}({key}={value!r}) is as without it"


def test_no_optional_argument_is_forgotten():
    """A layer of the contract with an optional argument that is not asked above."""
    found: dict[str, set[str]] = {}
    for name in contract.CASES:
        for module in contract.make(name).modules():
            kind = type(module)
            if kind.__module__.startswith("linear_time.") and not kind.__name__.startswith("_"):
                parameters = inspect.signature(kind.__init__).parameters.values()
                optional = {p.name for p in parameters if p.default is not p.empty}
                found.setdefault(kind.__name__, set()).update(optional)
    missing = {
        (name, key)
        for name, keys in found.items()
        for key in keys
        if key not in LAYERS.get(name, ((), (), ()))[2]
    }
    assert not missing


# --- masks, which wrappers hand on ---------------------------------------------------------------


KEYED = {
    "PerceiverClassifier": lambda: perceiver.PerceiverClassifier(latents(), 5),
    "Perceiver": latents,
    "CrossAttention": cross,
    "PerceiverIO": asking,
    "PerceiverMaskedLM": masked_lm,
    "MultiHeadAttention": lambda: attention.MultiHeadAttention(D, 2),
}


@pytest.mark.parametrize("name", KEYED)
@torch.no_grad()
def test_what_a_key_mask_hides_changes_nothing(name):
    """Whatever stands there, and however large: a mask is −∞, not a large negative number."""
    torch.manual_seed(0)
    module = KEYED[name]()
    mask = torch.arange(9) < torch.tensor([[9], [6]])
    if name == "PerceiverMaskedLM":
        (values,) = tokens(2, 9)
        loud = torch.where(mask, values, (values + 3) % 11)
        calls = [module(v, key_mask=mask) for v in (values, loud)]
        without = module(loud)
        calls, without = [c[mask] for c in calls], without[mask]
    else:
        values = draw(2, 9, D)
        big = 1e5 if name == "MultiHeadAttention" else 1e3  # the others' norms lose the size
        loud = torch.where(mask[..., None], values, big)
        rest = {"PerceiverIO": (draw(2, 4, 6, seed=2),)}.get(name, ())
        asks = name in ("CrossAttention", "MultiHeadAttention")
        before = (draw(2, 5, D, seed=3),) if asks else ()
        calls = [module(*before, v, *rest, key_mask=mask) for v in (values, loud)]
        without = module(*before, loud, *rest)
    torch.testing.assert_close(calls[0], calls[1], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(calls[1], without, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("read", ["mean", "last"])
@torch.no_grad()
def test_a_classifier_reads_no_padding(read):
    """Neither in its blocks nor in its mean: a padded row gets what it gets alone."""
    torch.manual_seed(0)
    module = classifier(read=read)
    x = draw(2, 9, D)
    mask = torch.arange(9) >= torch.tensor([[0], [5]])
    loud = torch.where(mask[..., None], x, 1e3)
    alone = torch.cat([module(x[:1]), module(x[1:, 5:])])
    torch.testing.assert_close(module(loud, mask), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [decoder.GroupedQueryAttention, decoder.LlamaBlock])
@torch.no_grad()
def test_a_layer_that_may_read_the_future_does(make):
    """``causal=False`` is handed on: the first position sees a change of the last."""
    torch.manual_seed(0)
    module = make(D, 4, 2) if make is decoder.GroupedQueryAttention else make(D, 4, 2, 12)
    x = draw(1, 6, D)
    other = x.clone()
    other[:, -1] += 1
    for causal in (True, False):
        first = [module(v, causal=causal)[:, 0] for v in (x, other)]
        assert torch.equal(*first) == causal
    both = [module(x, causal=False, last=2), module(x, causal=False)[:, -2:]]
    torch.testing.assert_close(*both)


def test_a_hidden_score_may_be_the_largest():
    """Scores of 10⁶ that the mask hides: neither they nor their values are seen."""
    q, k, v = (draw(1, 1, 6, 4, seed=seed) for seed in (1, 2, 3))
    loud_k, loud_v = k.clone(), v.clone()
    loud_k[..., 4:, :] *= 1e6
    loud_v[..., 4:, :] = 1e6
    wanted = attention.attention(q, k[..., :4, :], v[..., :4, :])
    shown = torch.arange(6) < 4
    masked = attention.attention(q, loud_k, loud_v, shown.expand(6, 6))
    torch.testing.assert_close(masked, wanted, rtol=1e-6, atol=1e-6)
    tiled = attention.online_softmax_attention(q, loud_k, loud_v, block=3, key_mask=shown)
    torch.testing.assert_close(tiled, wanted, rtol=1e-6, atol=1e-6)


# --- scales ---------------------------------------------------------------------------------------


def test_what_is_drawn_has_its_scale():
    """Embeddings, latents and queries start with a standard deviation of 0.02, as documented."""
    torch.manual_seed(0)
    io = {"n_latents": 64, "d_latent": 64}
    masked = perceiver_io.PerceiverMaskedLM(64, 64, 64, **io)
    untied = mixer.LanguageModel(lambda: mixer.Residual(recurrent.GRU(64)), 64, 64, 1, tied=False)
    small = {"n_heads": 4, "n_kv_heads": 2, "d_ff": 12}
    for weight in (
        *(masked.embedding.weight, masked.position.weight, masked.queries, masked.io.latents),
        *(untied.embedding.weight, untied.head.weight),
        decoder.LlamaLM(64, 64, 1, **small).embedding.weight,
        perceiver_ar.PerceiverAR(64, 64, 2, 4, **small).embedding.weight,
        mamba.MambaLM(mamba.MambaConfig(vocab_size=64, d_model=64, n_layer=1)).embedding.weight,
        perceiver.Perceiver(8, 64, 64).latents,
        perceiver_io.PerceiverImageClassifier(5, 4096, n_latents=1, n_bands=1).query,
    ):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.1)
        assert abs(float(weight.detach().mean())) < 0.002


# --- defaults ------------------------------------------------------------------------------------


def defaults() -> dict[str, dict[str, str]]:
    """Of every public function and class of the package, its defaults and the public constants.

    Whether Triton is installed is no promise: it is, wherever torch is a build for CUDA.
    """
    found: dict[str, dict[str, str]] = {}
    for info in pkgutil.iter_modules(linear_time.__path__):
        if (
            info.ispkg
            or info.name.startswith("_")
            or info.name in ("explorer", "drawing", "figures", "panel")
        ):
            continue
        module = importlib.import_module(f"linear_time.{info.name}")
        for name, thing in vars(module).items():
            if name.startswith("_"):
                continue
            if isinstance(thing, (int, float, tuple)) and name.isupper() and name != "INSTALLED":
                found.setdefault(info.name, {})[name] = repr(thing)
            if getattr(thing, "__module__", None) != module.__name__ or not callable(thing):
                continue
            owners = [(name, thing)]
            if inspect.isclass(thing):
                methods = vars(thing).items()
                owners += [
                    (f"{name}.{k}", getattr(m, "__func__", m))
                    for k, m in methods
                    if not k.startswith("_") and callable(getattr(m, "__func__", m))
                ]
            for key, call in owners:
                try:
                    parameters = inspect.signature(call).parameters.values()
                except (TypeError, ValueError):
                    continue
                own = {p.name: repr(p.default) for p in parameters if p.default is not p.empty}
                own = {k: v for k, v in own.items() if " at 0x" not in v}
                if own:
                    found[f"{info.name}.{key}"] = own
    return found


def test_defaults_are_what_they_were():
    """A default is a promise: whoever changes one changes ``tests/defaults.json``, too.

    ``python tests/test_arguments.py`` writes it.
    """
    kept = json.loads(DEFAULTS.read_text(encoding="utf8"))
    now = defaults()
    for name in now.keys() & kept.keys():
        for argument in now[name].keys() & kept[name].keys():
            assert now[name][argument] == kept[name][argument], (name, argument)


if __name__ == "__main__":
    DEFAULTS.write_text(
        json.dumps(defaults(), indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf8"
    )
