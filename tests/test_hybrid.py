"""Chapter 22: hybrids by a pattern are the models they are made of, and their states are counted.

Oracles: the language models of chapters 03, 18 and 20, and transformers' Bamba, a hybrid of
Mamba-2, attention and MLPs whose rotary positions are set to the whole head.
"""

import re
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from transformers import BambaConfig, BambaForCausalLM, JambaConfig, Qwen3NextConfig

from book import experiment
from contract import tensors
from helpers import close, lively, stepped, tokens_of
from linear_time import records
from linear_time.decoder import LlamaLM
from linear_time.hybrid import LETTERS, FeedForward, Held, HybridLM, ratio, trials
from linear_time.mamba import MambaConfig, MambaLM
from linear_time.mamba2 import Mamba2Config, Mamba2LM
from linear_time.records import Record

F64 = torch.float64
V, D = 11, 8
SETTINGS = {
    "m": {"N": 6, "P": 4, "chunk": 4},
    "M": {"N": 4},
    "d": {"heads": 2, "d_key": 6, "d_value": 3, "chunk": 4},
    "a": {"n_heads": 4, "n_kv_heads": 2},
    "f": {"d_ff": 12},
}
patterns = st.text(sorted(LETTERS), min_size=1, max_size=6)


def make(pattern, **options):
    """Away from its start; float64."""
    torch.manual_seed(0)
    used = {letter: of for letter, of in SETTINGS.items() if letter in pattern}
    return lively(HybridLM(pattern, V, D, **used, **options)).to(F64)


# --- of one kind: the models of other chapters ----------------------------------------------------


def same_start(ours, theirs):
    one, other = ours.state_dict(), theirs.state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    tokens = tokens_of(2, 9, V)
    assert torch.equal(ours(tokens), theirs(tokens))


@pytest.mark.parametrize("tied", [True, False])
def test_all_mamba_is_the_books_mamba(tied):
    """Bit for bit, from the same seed: names, start and function; and so for Mamba-2."""
    sizes = {"vocab_size": V, "d_model": D, "n_layer": 3, "eps": 1e-3, "tied": tied}
    for letter, theirs in (
        ("m", lambda: Mamba2LM(Mamba2Config(**sizes, N=6, P=4, chunk=4))),
        ("M", lambda: MambaLM(MambaConfig(**sizes, N=4))),
    ):
        own = SETTINGS[letter] | ({"eps": 1e-3} if letter == "m" else {})
        torch.manual_seed(3)
        ours = HybridLM(f"{letter} {letter}{letter}", V, D, tied, 1e-3, **{letter: own})
        torch.manual_seed(3)
        same_start(ours, theirs())


@pytest.mark.parametrize("tied", [True, False])
def test_attention_and_mlps_are_the_books_llama(tied):
    """Two blocks of ours, "af", are one of its, weight for weight; the states too."""
    ours = make("af" * 3, tied=tied)
    theirs = LlamaLM(V, D, 3, tied, n_heads=4, n_kv_heads=2, d_ff=12).to(F64)
    names = {
        r"blocks\.(\d+)\.attention_norm": lambda i: f"blocks.{2 * i}.norm",
        r"blocks\.(\d+)\.attention": lambda i: f"blocks.{2 * i}.mixer",
        r"blocks\.(\d+)\.mlp_norm": lambda i: f"blocks.{2 * i + 1}.norm",
        r"blocks\.(\d+)\.mlp": lambda i: f"blocks.{2 * i + 1}.mixer.mlp",
    }

    def of_ours(name):
        for theirs, new in names.items():
            found = re.match(theirs + r"(?=\.)", name)
            if found:
                return new(int(found[1])) + name[found.end() :]
        return name

    held = ours.state_dict()
    wanted = {name: of_ours(name) for name in theirs.state_dict()}
    assert sorted(wanted.values()) == sorted(held)
    theirs.load_state_dict({name: held[own] for name, own in wanted.items()})
    tokens = tokens_of(2, 9, V)
    close(ours(tokens), theirs(tokens))
    (mine, state), (their, caches) = ours.prefill(tokens), theirs.prefill(tokens)
    close(mine, their)
    for cache, other in zip(state[::2], caches, strict=True):
        close(cache.k, other.k)
        close(cache.v, other.v)
    assert state[1::2] == [()] * 3


@torch.no_grad()
def test_a_hybrid_is_transformers_bamba():
    """Mamba-2, attention and an MLP behind each, in that order, and padded rows."""
    torch.manual_seed(0)
    theirs = BambaForCausalLM(
        BambaConfig(
            vocab_size=V, hidden_size=16, intermediate_size=12, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, attn_layer_indices=[1],
            mamba_n_heads=8, mamba_d_head=4, mamba_n_groups=2, mamba_d_state=5,
            mamba_chunk_size=16, rms_norm_eps=1e-3, tie_word_embeddings=True,
            rope_parameters={
                "rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 1.0
            },
            eos_token_id=None, bos_token_id=None, pad_token_id=None,
        )
    ).double()  # fmt: skip
    lively(theirs, 0.2)
    pattern = ratio(3, 3, offset=1, after="f")
    assert pattern == "mfafmf"
    ours = HybridLM(
        *(pattern, V, 16, True, 1e-3),
        m={"N": 5, "P": 4, "groups": 2, "chunk": 4, "eps": 1e-3},
        a={"n_heads": 4, "n_kv_heads": 2},
        f={"d_ff": 12},
    ).double()
    parts = {
        "input_layernorm": "{0}.norm",
        "pre_ff_layernorm": "{1}.norm",
        "mamba": "{0}.mixer",
        "self_attn": "{0}.mixer",
        "feed_forward": "{1}.mixer.mlp",
    }
    maps = {
        **{"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"},
        **{"gate_proj": "gate", "up_proj": "up", "down_proj": "down"},
    }
    weights = {
        "embedding.weight": theirs.model.embed_tokens.weight,
        "norm.weight": theirs.model.final_layernorm.weight,
    }
    for name, value in theirs.model.layers.named_parameters():
        layer, part, *rest = name.split(".")
        place = parts[part].format(2 * int(layer), 2 * int(layer) + 1)
        weights[".".join(["blocks", place, *(maps.get(one, one) for one in rest)])] = value
    ours.load_state_dict(weights)
    tokens = tokens_of(2, 23, V)
    # Their angles are float32's.
    close(ours(tokens), theirs(tokens).logits, 2e-5)
    mask = torch.arange(23) >= torch.tensor([[0], [5]])
    wanted = theirs(tokens, attention_mask=mask.long()).logits
    close(ours(tokens, mask)[mask], wanted[mask], 2e-5)


# --- the frame ------------------------------------------------------------------------------------


@given(pattern=patterns)
@torch.no_grad()
def test_a_hybrid_written_out(pattern):
    """x + layer(norm(x)) of each letter's layer in turn, and the head."""
    model, tokens = make(pattern), tokens_of(2, 7, V)
    assert [type(b.mixer) for b in model.blocks] == [LETTERS[x].layer for x in pattern]
    x = model.embedding.weight[tokens]
    for block in model.blocks:
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * block.norm.weight
        x = x + block.mixer(normed)
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * model.norm.weight
    close(model(tokens), functional.linear(x, model.embedding.weight))


@given(pattern=patterns, cut=st.integers(1, 8))
@torch.no_grad()
def test_step_is_forward(pattern, cut):
    """Token after token, a prompt at once, and a prompt in two parts that steps go on from."""
    model, tokens = make(pattern), tokens_of(2, 9, V)
    wanted = model(tokens)
    logits, last = stepped(model, tokens)
    close(logits, wanted, 1e-10)
    found, state = model.prefill(tokens[:, :cut])
    close(found, wanted[:, cut - 1], 1e-10)
    logits, state = stepped(model, tokens[:, cut:], state)
    close(logits, wanted[:, cut:], 1e-10)
    for one, other in zip(tensors(state), tensors(last), strict=True):
        close(one, other, 1e-10)


def test_generate_goes_on_from_a_prompt():
    model = make("mfad")
    prompt = tokens_of(2, 4, V)
    found = model.generate(prompt, 5, temperature=0)
    for t in range(4, 9):
        assert torch.equal(found[:, t], model(found[:, :t])[:, -1].argmax(-1))


def test_every_last_map_starts_smaller():
    """1/√6 of what the layer alone starts with; nothing else does."""
    torch.manual_seed(0)
    model = HybridLM("mMdaff", V, 64, m={"P": 8}, d={"heads": 4}, a=SETTINGS["a"], f={"d_ff": 70})
    for letter, block in zip("mMdaff", model.blocks, strict=True):
        last = block.mixer.get_submodule(LETTERS[letter].last).weight
        for name, p in block.mixer.named_parameters():
            if p.ndim == 2 and "dt_proj" not in name and "A_log" not in name:
                bound = p.shape[1] ** -0.5 / (6**0.5 if p is last else 1)
                assert 0.9 * bound < p.abs().max() <= bound * (1 + 1e-6), (letter, name)


def test_a_feed_forward_layer_remembers_nothing():
    layer = FeedForward(D, 12)
    assert layer.initial_state(2) == ()
    x = torch.randn(2, 5, D)
    y, state = layer.prefill(x)
    assert state == () and torch.equal(y, layer.mlp(x))
    with pytest.raises(ValueError, match=r"^batch_size: expected"):
        layer.initial_state(0)


@pytest.mark.bad_input
def test_a_feed_forward_layer_checks_its_mask():
    layer, x = FeedForward(D, 12), torch.randn(2, 5, D)
    with pytest.raises(ValueError, match=r"^mask: expected"):
        layer(x, torch.ones(2, 4, dtype=torch.bool))


# --- what the state holds -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pattern", ["m", "M", "d", "a", "f", "mfafMdaf"])
@torch.no_grad()
def test_the_state_is_as_large_as_the_tensors_held(pattern, dtype):
    """Numbers and bytes of every tensor after a prompt, and after steps."""
    model = make(pattern).float().to(dtype)
    for length in (1, 6, 13):
        numbers, of_bytes = model.state_numbers(length), model.state_bytes(length)
        tokens = tokens_of(1, length, V)
        for state in (model.prefill(tokens)[1], stepped(model, tokens)[1]):
            held = tensors(state)
            assert sum(numbers) == sum(t.numel() for t in held)
            assert sum(of_bytes) == sum(t.nbytes for t in held)
            caches = [t for one in state if hasattr(one, "k") for t in (one.k, one.v)]
            assert numbers.cache == sum(t.numel() for t in caches)
            assert of_bytes.cache == sum(t.nbytes for t in caches)


def test_the_state_of_letters_adds_up():
    """By hand: 2 · 2 heads · 2 channels a position of attention; S and the window of Mamba-2."""
    model = make("mfmafa")
    window, S = (16 + 2 * 6) * 3, 4 * 4 * 6
    assert model.state_numbers(100) == Held(2 * (window + S), 2 * 8 * 100)
    assert model.state_bytes(100) == Held(16 * (window + S), 8 * 2 * 8 * 100)
    half = make("mfmafa").float().bfloat16()
    assert half.state_bytes(100) == Held(8 * (window + S), 2 * 2 * 8 * 100)
    with pytest.raises(ValueError, match=r"^length: expected a whole number >= 1, got 0"):
        model.state_numbers(0)
    with pytest.raises(ValueError, match=r"^length: expected a whole number >= 1, got 0"):
        model.state_bytes(0)


# --- patterns -------------------------------------------------------------------------------------


def test_the_ratio_of_jamba_and_of_qwen3_next():
    """As transformers lists their layers."""
    letters = {"mamba": "M", "attention": "a", "linear_attention": "d", "full_attention": "a"}
    jamba = JambaConfig()
    listed = "".join(letters[kind] for kind in jamba.layers_block_type)
    assert ratio(32, 8, offset=4, rest="M") == listed
    assert ratio(32, 8, offset=4, rest="M", after="f") == "".join(x + "f" for x in listed)
    qwen = Qwen3NextConfig()
    assert ratio(48, 4, rest="d") == "".join(letters[kind] for kind in qwen.layer_types)


@given(n=st.integers(1, 40), one_in=st.integers(1, 9), offset=st.integers(0, 8))
def test_a_ratio_is_one_in_so_many(n, one_in, offset):
    offset %= one_in
    made = ratio(n, one_in, offset, "d", "ff")
    layers, after = made[::3], made[1::3] + made[2::3]
    assert after == "f" * 2 * n and len(layers) == n
    assert [i for i, letter in enumerate(layers) if letter == "a"] == list(range(offset, n, one_in))
    assert set(layers) <= {"a", "d"}
    assert ratio(n, one_in) == ratio(n, one_in, one_in - 1, "m", "")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_layer": 0}, ValueError, "n_layer: expected a whole number >= 1, got 0"),
        ({"one_in": 0}, ValueError, "one_in: expected a whole number >= 1, got 0"),
        ({"offset": 4}, ValueError, "offset: expected a whole number from 0 to 3, got 4"),
        ({"offset": -1}, ValueError, "offset: expected a whole number from 0 to 3, got -1"),
        ({"offset": True}, ValueError, "offset: expected a whole number from 0 to 3, got True"),
        ({"rest": "x"}, ValueError, "rest: expected letters among m, M, d, a, f, got 'x'"),
        ({"after": "mx"}, ValueError, "after: expected letters among m, M, d, a, f, got 'mx'"),
        ({"rest": ""}, ValueError, "rest: expected letters among m, M, d, a, f, got ''"),
    ],
)
def test_a_ratio_that_is_none(arguments, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        ratio(**{"n_layer": 8, "one_in": 4, **arguments})


ONE = {"m": {"N": 6, "P": 4}}


@pytest.mark.parametrize(
    ("pattern", "settings", "message"),
    [
        ("mx", ONE, "pattern: expected letters among m, M, d, a, f, got 'mx'"),
        (" ", {}, "pattern: expected letters among m, M, d, a, f, got ' '"),
        ("m", {**ONE, "a": {}}, "a: expected settings of letters in the pattern 'm', got {}"),
        ("m", {"m": {"n": 6}}, "m: expected the settings of Mamba2, got {'n': 6} ("),
        ("m", {"m": {"d_model": 6}}, "m: expected the settings of Mamba2, got {'d_model': 6} ("),
        ("a", {}, "a: expected the settings of GroupedQueryAttention, got {} ("),
        ("mm", {"m": {"N": 0}}, "N: expected a whole number >= 1, got 0"),
    ],
)
def test_errors_by_name(pattern, settings, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        HybridLM(pattern, V, D, **settings)


@pytest.mark.bad_input
def test_a_pattern_is_text():
    with pytest.raises(TypeError, match=r"^pattern: expected text, got 3"):
        HybridLM(3, V, D)
    with pytest.raises(TypeError, match=r"^m: expected a dict of settings, got 3"):
        HybridLM("m", V, D, m=3)


# --- the comparison that is recorded --------------------------------------------------------------

#: In the order of attention.
MODELS = (
    *("no attention", "no attention, wide"),
    *("1 in 8", "1 in 4", "1 in 2", "all attention"),
)


def test_a_trial_is_at_the_rate_that_validation_chose(tmp_path):
    """Not at the one that is best on the test, nor on another task."""
    rows = [
        {
            **{"task": task, "model": model, "lr": lr, "seed": seed, "parameters": 7},
            **{"validation": validation, "test": 10 * lr + seed},
            "state": {"64": [5, 64 * attend]},
        }
        for task, best in (("text", 1e-3), ("recall", 1e-2))
        for model, attend in (("half", 2), ("none", 0))
        for lr in (1e-3, 3e-3, 1e-2)
        for seed, validation in ((0, abs(lr - best)), (1, 1.0))
    ]
    patterns = {"none": "mfmf", "half": "afaf"}
    Record("hybrids", "", (), {"patterns": patterns}, tuple(rows)).write(tmp_path)
    none, half = trials("recall", tmp_path)
    assert (none.model, none.attend, half.model, half.attend) == ("none", 0, "half", 2)
    assert half.lr == 1e-2 and half.swept == (1e-3, 3e-3, 1e-2) and half.parameters == 7
    assert half.tests == (0.1, 1.1) and half.state == {64: Held(5, 128)}
    assert [one.lr for one in trials("text", tmp_path)] == [1e-3, 1e-3]
    assert not half.inside and half._replace(lr=3e-3).inside and not half._replace(lr=1e-3).inside
    with pytest.raises(ValueError, match=r"^task: expected one of 'text', 'recall'"):
        trials("other", tmp_path)


@pytest.mark.parametrize("task", ["text", "recall"])
def test_the_record_is_of_these_models(task):
    """Sizes and states are those of the models that the script makes; budgets are equal."""
    script, record = experiment("hybrids"), records.read("hybrids").where(task=task)
    found = {one.model: one for one in trials(task)}
    assert list(found) == list(MODELS)
    own = script.tasks("full")[task]
    for name, one in found.items():
        with torch.device("meta"):
            model = script.network("full", task, name, {"text": 66, "recall": 256}[task])
        assert one.parameters == sum(p.numel() for p in model.parameters())
        assert len(one.tests) == 3 and {(row["steps"], row["batch"]) for row in record} == {
            (own.steps, own.batch)
        }
        assert one.state == {n: model.state_bytes(n) for n in (1024, 65536)}
    assert {row["updates"] for row in record} <= {own.steps, 1250, 1750, 2750}  # at 99.5 %
    sizes = [one.parameters for one in found.values()]
    assert max(sizes) / min(sizes) < 1.02


def test_on_text_hybrids_are_level_with_a_wide_mamba2_alone():
    """And both are better, on every seed, than the narrow one and than attention alone."""
    none, *level, whole = found = trials("text")
    assert all(one.inside and len(one.tests) == 3 for one in found)
    rates, beyond = (1e-3, 3e-3, 1e-2, 3e-2), ("no attention", "no attention, wide", "1 in 4")
    assert {one.model: one.swept for one in found} == {
        model: (*rates, 1e-1) if model in beyond else rates[: 3 + (model != "all attention")]
        for model in MODELS
    }
    assert [one.lr for one in found] == [3e-2, 3e-2, 1e-2, 3e-2, 1e-2, 3e-3]
    means = [statistics.mean(one.tests) for one in found]
    assert [round(mean, 3) for mean in means] == [1.624, 1.611, 1.611, 1.615, 1.613, 1.645]
    worst = max(max(one.tests) for one in level)
    assert worst < min(none.tests) and max(none.tests) < min(whole.tests)
    spread = max(max(one.tests) - min(one.tests) for one in level)
    assert max(means[1:5]) - min(means[1:5]) < spread


def test_the_sweep_of_the_wide_control_was_read_too_early():
    """At the larger of the two rates that it once had its text was a narrow Mamba-2's."""
    rows = records.read("hybrids").where(task="text", lr=3e-3)
    pair = [rows.where(model=model).values("test") for model in MODELS[:2]]
    assert [round(statistics.mean(tests), 3) for tests in pair] == [1.643, 1.640]


def test_beyond_the_trained_length_attention_alone_breaks():
    """Positions 1,024 to 2,047, where 256 were trained."""
    last = {
        name: statistics.mean(x[10] for x in rows.chosen("validation").values("by_position"))
        for name, rows in records.read("hybrids").where(task="text").by("model").items()
    }
    assert last.pop("all attention") > 4.5 and max(last.values()) < 1.64


def test_on_recall_one_layer_in_four_is_not_told_apart_from_all():
    """Each at its own rate; one in eight by the seed, of Mamba-2 alone the wide one by one seed."""
    found = trials("recall")
    assert all(one.inside and len(one.tests) == 3 for one in found)
    rates = (3e-4, 1e-3, 3e-3, 1e-2)
    beyond = {"no attention, wide": (3e-2,)}
    assert {one.model: one.swept for one in found} == {
        model: (*rates, *beyond.get(model, ())) for model in MODELS
    }
    assert [one.lr for one in found] == [1e-3, 1e-2, 1e-3, 1e-3, 1e-3, 3e-3]
    means = [round(statistics.mean(one.tests), 3) for one in found]
    assert means == [0.031, 0.443, 0.585, 0.974, 0.936, 0.973]
    assert [sorted(round(x, 2) for x in one.tests) for one in found[1:]] == [
        [0.01, 0.40, 0.92],
        [0.10, 0.69, 0.97],
        [0.97, 0.97, 0.98],
        [0.84, 0.97, 1.00],
        [0.94, 0.98, 1.00],
    ]


def test_at_one_rate_for_all_the_ratios_would_be_read_wrongly():
    """What is best for attention alone is too much for hybrids, and theirs is too little for it."""
    rows = records.read("hybrids").where(task="recall")

    def at(model: str, lr: float) -> float:
        return round(statistics.mean(rows.where(model=model, lr=lr).values("test")), 2)

    models = ("1 in 4", "1 in 2", "all attention")
    assert [at(model, 3e-3) for model in models] == [0.07, 0.39, 0.97]
    assert [at(model, 1e-3) for model in models] == [0.97, 0.94, 0.10]


def test_the_control_is_wider_and_holds_twice_the_state():
    """At no more parameters; without any row of a cache."""
    for task in ("text", "recall"):
        none, wide = trials(task)[:2]
        assert wide.model == "no attention, wide" and wide.attend == none.attend == 0
        assert wide.parameters < 1.01 * none.parameters
        assert 1.9 < wide.state[1024].recurrent / none.state[1024].recurrent < 2
        assert wide.state[1024] == wide.state[65536]
