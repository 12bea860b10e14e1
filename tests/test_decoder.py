"""Chapter 03: the parts of Llama against torch and transformers, and its checkpoints."""

import copy
import json
import math

import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from helpers import changed, close, count_flops, source, tokens_of
from linear_time import checks, rotary
from linear_time.attention import CausalSelfAttention, KVCache
from linear_time.decoder import (
    GroupedQueryAttention,
    LlamaBlock,
    LlamaLM,
    RMSNorm,
    SwiGLU,
    apply_rotary,
    rotary_embedding,
)
from linear_time.rotary import rotary_table

F64 = torch.float64
seeds = st.integers(0, 2**31 - 1)
small = st.integers(1, 7)


# --- the parts -----------------------------------------------------------------------------------


@given(seed=seeds, d_model=small, eps=st.sampled_from([1e-5, 0.1, 1]))
def test_norm_is_torchs(seed, d_model, eps):
    draw = source(seed)
    ours, theirs = RMSNorm(d_model, eps).double(), nn.RMSNorm(d_model, eps).double()
    assert (ours.weight == 1).all() and RMSNorm(3).eps == 1e-5
    ours.weight.data = theirs.weight.data = draw(d_model)
    x = draw(2, 3, d_model)
    close(ours(x), theirs(x))
    close(ours(x[0, 0]), theirs(x[0, 0]))


def test_norm_loses_the_scale_and_keeps_the_mean():
    x = 5 + source(0)(4, 64)
    norm = RMSNorm(64, 1e-12).double()
    close(norm(1000 * x), norm(x))
    close(norm(x).square().mean(-1), torch.ones(4, dtype=F64))
    assert norm(x).mean() > 0.9
    assert (norm(torch.zeros(1, 64, dtype=F64)) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norm_in_half_precision(dtype):
    """In float16 the square of 300 is infinite, and its inverse root would be zero."""
    norm = RMSNorm(8).to(dtype)
    x = 300 * torch.tensor([[1.0, -1.0] * 4], dtype=dtype)
    x.requires_grad_()
    y = norm(x)
    assert y.dtype == dtype and torch.equal(y, x.sign())
    assert torch.autograd.grad(y.square().sum(), x)[0].isfinite().all()
    assert norm(torch.full((1, 8), 1e-6, dtype=dtype)).dtype == dtype


@torch.no_grad()
def test_gated_mlp_is_transformers():
    config = LlamaConfig(hidden_size=6, intermediate_size=10, num_attention_heads=1)
    theirs = modeling_llama.LlamaMLP(config).double()
    ours = SwiGLU(6, 10).double()
    for mine, other in ((ours.gate, "gate"), (ours.up, "up"), (ours.down, "down")):
        mine.load_state_dict(getattr(theirs, f"{other}_proj").state_dict())
    x = source(0)(2, 3, 6)
    close(ours(x), theirs(x))


@given(seed=seeds, half=small, base=st.sampled_from([10_000.0, 500_000, 2.5]))
def test_rotary_is_transformers(seed, half, base):
    config = LlamaConfig(
        hidden_size=4, num_attention_heads=1, head_dim=2 * half, max_position_embeddings=64
    )
    config.rope_parameters = {"rope_type": "default", "rope_theta": base}
    positions = torch.randint(60, (9,), generator=torch.Generator().manual_seed(seed))
    draw = source(seed)
    q, k = draw(2, 3, 9, 2 * half), draw(2, 1, 9, 2 * half)
    theirs = modeling_llama.LlamaRotaryEmbedding(config)
    wanted = modeling_llama.apply_rotary_pos_emb(q, k, *theirs(q, positions[None]))
    turn = rotary_embedding(positions, 2 * half, base, F64)
    assert turn[0].dtype == F64
    for x, other in zip((q, k), wanted, strict=True):
        close(apply_rotary(x, *turn), other, 3e-5)  # its angles are float32


@given(seed=seeds, half=small, t=st.integers(0, 500), s=st.integers(0, 500))
def test_rotary_is_a_complex_product_of_the_pairs(seed, half, t, s):
    """An independent form: (x_i + j x_{i+half}) e^{j t θ_i}; the product depends on t − s alone."""
    q, k = source(seed)(1, 2 * half), source(seed + 1)(1, 2 * half)
    theta = torch.tensor([10_000.0 ** (-i / half) for i in range(half)], dtype=F64)

    def turned(x, position):
        cos_sin = rotary_embedding(torch.tensor([position]), 2 * half, dtype=F64)
        return apply_rotary(x, *cos_sin)

    z = torch.complex(q[:, :half], q[:, half:]) * torch.exp(1j * t * theta)
    close(turned(q, t), torch.cat([z.real, z.imag], -1), 1e-10)
    product = turned(q, t) @ turned(k, s).T
    close(product, turned(q, t + 300) @ turned(k, s + 300).T, 1e-9)
    close(turned(q, t).norm(), q.norm())


def test_the_relative_position_is_proved():
    t, s, theta, a, b, c, d = sympy.symbols("t s theta a b c d", real=True)

    def turn(x, y, angle):
        return sympy.Matrix([x * sympy.cos(angle) - y * sympy.sin(angle),
                             y * sympy.cos(angle) + x * sympy.sin(angle)])  # fmt: skip

    product = turn(a, b, t * theta).dot(turn(c, d, s * theta))
    relative = turn(a, b, (t - s) * theta).dot(sympy.Matrix([c, d]))
    assert sympy.simplify(sympy.expand_trig(sympy.expand(product - relative))) == 0


def test_the_papers_pairs_are_ours_in_another_order_of_channels():
    draw = source(0)
    x, positions = draw(5, 8), torch.arange(5)
    cos, sin = rotary_embedding(positions, 8, dtype=F64)
    paper = torch.empty_like(x)
    for t in range(5):
        for i in range(4):  # pair (x_2i, x_2i+1)
            even, odd = x[t, 2 * i], x[t, 2 * i + 1]
            paper[t, 2 * i] = even * cos[t, i] - odd * sin[t, i]
            paper[t, 2 * i + 1] = even * sin[t, i] + odd * cos[t, i]
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    close(apply_rotary(x[:, order], cos, sin), paper[:, order])
    assert (apply_rotary(x, cos, sin) - paper).abs().max() > 0.1


def test_far_angles_are_exact_where_float32_is_not():
    far = torch.tensor([999_983])
    cos, sin = rotary_embedding(far, 128, dtype=F64)
    for i in (0, 1, 5, 63):
        angle = 999_983 * sympy.Integer(10_000) ** sympy.Rational(-i, 64)
        close(cos[0, i], torch.tensor(float(sympy.cos(angle).evalf(30)), dtype=F64), 1e-9)
        close(sin[0, i], torch.tensor(float(sympy.sin(angle).evalf(30)), dtype=F64), 1e-9)
    theirs = modeling_llama.LlamaRotaryEmbedding(
        LlamaConfig(hidden_size=128, num_attention_heads=1, head_dim=128)
    )(torch.zeros(1, dtype=F64), far[None])[1][0, :, :64]
    assert 1e-3 < (theirs - sin).abs().max() < 0.1
    assert rotary_embedding(far, 4)[0].dtype == torch.float32


@pytest.fixture
def tables():
    """The kept tables, emptied."""
    rotary._TABLES.clear()
    return rotary._TABLES


def test_the_table_is_made_once_and_grows(tables):
    cpu = torch.device("cpu")
    cos, _ = rotary_table(5, 8, 100, cpu, F64)
    again, _ = rotary_table(60, 8, 100.0, cpu, F64)
    assert again is cos and len(cos) == 64
    for length in (65, 1000):
        longer = rotary_table(length, 8, 100, cpu, F64)
        assert length <= len(longer[0]) < 2 * length
        wanted = rotary_embedding(torch.arange(len(longer[0])), 8, 100, F64)
        assert torch.equal(longer[0], wanted[0]) and torch.equal(longer[1], wanted[1])
    others = ((6, 100, F64), (8, 10, F64), (8, 100, torch.float32))
    for d_head, base, dtype in others:
        other = rotary_table(5, d_head, base, cpu, dtype)[0]
        assert other.shape == (64, d_head // 2) and other.dtype == dtype
    assert len(tables) == 4
    for base in range(1, 40):
        rotary_table(5, 8, base, cpu, F64)
    assert len(tables) == 16


def test_the_table_serves_all_modes(tables):
    """Made in inference mode, by a tracer, or inside a transformation, and used elsewhere."""
    layer, x = GroupedQueryAttention(8, 2, 1), torch.randn(1, 5, 8)
    with FakeTensorMode(allow_non_fake_inputs=True), checks(values=False):
        layer(torch.randn(1, 5, 8))
    assert not tables
    with torch.inference_mode():
        wanted = layer(x)
    layer(x).sum().backward()
    tables.clear()

    def loss(x):
        return layer(x).sum()

    torch.func.grad(loss)(x)
    with checks(values=False):
        torch.func.vmap(loss)(x[None])
    assert len(tables) == 1
    layer(x).sum().backward()
    assert torch.equal(layer(x), wanted)
    copy.deepcopy(layer)


# --- attention with shared keys ------------------------------------------------------------------


@pytest.mark.parametrize(("n_heads", "n_kv_heads"), [(1, 1), (4, 4), (4, 2), (4, 1), (6, 2)])
@pytest.mark.parametrize("d_head", [None, 2])
@torch.no_grad()
def test_grouped_attention_is_torchs(n_heads, n_kv_heads, d_head):
    torch.manual_seed(0)
    layer = GroupedQueryAttention(24, n_heads, n_kv_heads, 100, d_head).double()
    d_head = d_head or 24 // n_heads
    x = source(0)(2, 9, 24)
    turn = rotary_embedding(torch.arange(9), d_head, 100, F64)
    q = apply_rotary(layer.query(x).reshape(2, 9, n_heads, d_head).transpose(1, 2), *turn)
    k = apply_rotary(layer.key(x).reshape(2, 9, n_kv_heads, d_head).transpose(1, 2), *turn)
    v = layer.value(x).reshape(2, 9, n_kv_heads, d_head).transpose(1, 2)
    y = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    close(layer(x), layer.out(y.transpose(1, 2).reshape(2, 9, -1)))


@torch.no_grad()
def test_grouped_attention_without_turning_is_causal_self_attention():
    """The first position is not turned; later ones are."""
    torch.manual_seed(0)
    layer, plain = GroupedQueryAttention(8, 2, 2).double(), CausalSelfAttention(8, 2).double()
    plain.heads.load_state_dict(layer.state_dict())
    x = source(0)(3, 1, 8)
    close(layer(x), plain(x))
    x = source(0)(3, 5, 8)
    assert (layer(x) - plain(x)).abs().max() > 1e-3


@pytest.mark.parametrize("n", [1, 3, 7])
@torch.no_grad()
def test_the_last_positions_may_ask_alone(n):
    torch.manual_seed(0)
    x, more = source(0)(3, 7, 8), source(1)(3, 8)
    mask = torch.arange(7) >= torch.tensor([0, 2, 6])[:, None]
    for layer in (GroupedQueryAttention(8, 4, 2), LlamaBlock(8, 4, 2, 12)):
        layer = layer.double()
        for padding in (None, mask):
            whole, state = layer.prefill(x, mask=padding)
            close(layer(x, padding), whole)
            close(layer(x, padding, last=n), whole[:, -n:])
            y, cache = layer.prefill(x, mask=padding, last=n)
            close(y, whole[:, -n:])
            close(layer.step(more, cache)[0], layer.step(more, state)[0])
        seen = layer(x, mask, n, causal=False)
        alone = layer(x[1:2, 2:], None, min(n, 5), causal=False)
        close(seen[1, -min(n, 5) :], alone[0])
        turned = layer(torch.cat([x[:, :3], x[:, 3:]], 1), None, 7, causal=False)
        last = layer(x, None, 1)
        close(turned[:, -1:], last)  # the last reads all in either way


@torch.no_grad()
def test_a_later_chunk_may_be_padded_too():
    """Positions are counted without padding, wherever it stands."""
    torch.manual_seed(0)
    block = LlamaBlock(8, 4, 2, 12).double()
    x, more, x_t = source(0)(3, 5, 8), source(1)(3, 4, 8), source(2)(3, 8)
    first = torch.arange(5) >= torch.tensor([0, 3, 0])[:, None]
    second = torch.arange(4) >= torch.tensor([0, 1, 3])[:, None]
    _, state = block.prefill(x.where(first[..., None], 1e3), None, first)
    y, state = block.prefill(more.where(second[..., None], 1e3), state, second)
    after, state = block.step(x_t, state)
    assert state.position.tolist() == [10, 6, 7]
    for row in range(3):
        parts = x[row, first[row]], more[row, second[row]], x_t[row, None]
        alone = block(torch.cat(parts)[None])[0]
        n = int(second[row].sum())
        close(y[row, -n:], alone[-1 - n : -1])
        close(after[row], alone[-1])


def test_a_prompt_costs_one_forward_pass():
    model, tokens = LlamaLM(53, 8, 2, n_heads=4, n_kv_heads=2, d_ff=12), tokens_of(1, 200)
    counts = [count_flops(call, tokens) for call in (model, model.prefill)]
    head = 2 * 8 * 53
    assert counts[0] - 200 * head == counts[1] - head > 0


@torch.no_grad()
def test_the_cache_is_smaller_by_the_size_of_a_group():
    x_t = torch.ones(2, 24)
    sizes = []
    for n_kv_heads in (6, 3, 1):
        layer = GroupedQueryAttention(24, 6, n_kv_heads)
        state = layer.initial_state(2)
        for _ in range(5):
            _, state = layer.step(x_t, state)
        assert state.k.shape == (2, n_kv_heads, 5, 4)
        sizes.append(sum(part.numel() for part in state[:2]))
    assert sizes == [2 * 5 * 2 * 24, 2 * 5 * 2 * 12, 2 * 5 * 2 * 4]


@torch.no_grad()
def test_a_cached_step_takes_memory_of_the_order_of_the_past():
    layer = GroupedQueryAttention(8, 4, 2)
    past = torch.zeros(1, 2, 20_000, 2)  # a mask of its square would take 400 MB
    state = KVCache(past, past)
    with torch.profiler.profile(profile_memory=True) as profile:
        layer.step(torch.ones(1, 8), state)
    used = max(event.self_cpu_memory_usage for event in profile.events())
    assert used <= 4 * 4 * 2 * 20_000 * 2


# --- the block and the model against transformers ------------------------------------------------


def config_of(**changes):
    settings = {
        "vocab_size": 53,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-4,
        "eos_token_id": None,
        "bos_token_id": None,
        "max_position_embeddings": 256,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    }
    return LlamaConfig(**{**settings, **changes})


def save(folder, **changes):
    """A model of transformers with weights far from their start, and its folder."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(config_of(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                nn.init.uniform_(parameter, 0.5, 1.5)
            else:
                nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return model


VARIANTS = {
    "grouped": {},
    "tied": {"tie_word_embeddings": True},
    "multi_head": {"num_key_value_heads": None},
    "multi_query": {"num_key_value_heads": 1},
    "own_head_width": {"head_dim": 10},
    "one_layer_one_head": {
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
    },
    "untied_with_defaults": {"rope_parameters": None, "rms_norm_eps": 1e-6},
}


@pytest.fixture(scope="module", params=VARIANTS)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return save(folder, **VARIANTS[request.param]), folder


@torch.no_grad()
def test_logits_are_those_of_transformers(saved):
    theirs, folder = saved
    ours = LlamaLM.from_pretrained(folder)
    tokens = tokens_of(3, 70)
    wanted = theirs(tokens).logits
    assert wanted.std() > 0.3
    torch.testing.assert_close(ours(tokens), wanted, rtol=1e-5, atol=1e-5)
    state = ours.initial_state(3)
    for token in tokens.unbind(1):
        logits, state = ours.step(token, state)
    torch.testing.assert_close(logits, wanted[:, -1], rtol=1e-5, atol=1e-5)
    parameters = sum(parameter.numel() for parameter in ours.parameters())
    assert parameters == theirs.num_parameters()


@torch.no_grad()
def test_greedy_generation_is_that_of_transformers(saved):
    theirs, folder = saved
    prompt = tokens_of(3, 6)
    mask = torch.ones_like(prompt)
    wanted = theirs.generate(
        prompt, attention_mask=mask, max_new_tokens=40, do_sample=False, pad_token_id=0
    )
    got = LlamaLM.from_pretrained(folder).generate(prompt, 40, temperature=0)
    assert torch.equal(got, wanted)
    assert len(got[:, 6:].unique()) > 3


@torch.no_grad()
def test_a_block_is_a_layer_of_transformers():
    torch.manual_seed(0)
    model = LlamaForCausalLM(config_of(num_hidden_layers=1)).double()
    theirs = model.model.layers[0]
    ours = LlamaBlock(24, 4, 2, 40, base=5000.0, eps=1e-4).double()
    names = {
        "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.out": "self_attn.o_proj",
        "mlp.gate": "mlp.gate_proj",
        "mlp.up": "mlp.up_proj",
        "mlp.down": "mlp.down_proj",
    }
    for mine, other in names.items():
        weight = theirs.get_submodule(other).weight
        nn.init.normal_(weight, std=0.5)
        ours.get_submodule(mine).weight.copy_(weight)
    x = source(0)(2, 12, 24)
    turn = model.model.rotary_emb(x, torch.arange(12)[None])
    mask = torch.full((12, 12), -math.inf, dtype=F64).triu(1)[None, None]
    wanted = theirs(x, attention_mask=mask, position_embeddings=turn)
    torch.testing.assert_close(ours(x), wanted, rtol=1e-5, atol=1e-5)  # its norms are float32


def test_a_model_trains_in_both_forms_of_its_head():
    tokens = tokens_of(2, 9)
    for tied in (True, False):
        torch.manual_seed(0)
        model = LlamaLM(53, 8, 2, tied=tied, n_heads=2, n_kv_heads=1, d_ff=12, eps=0.01)
        assert (model.head is None) == tied
        assert {module.eps for module in model.modules() if hasattr(module, "eps")} == {0.01}
        if not tied:
            assert math.isclose(model.head.weight.std().item(), 0.02, rel_tol=0.15)
        logits = model(tokens[:, :-1])
        nn.functional.cross_entropy(logits.mT, tokens[:, 1:]).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and (parameter.grad != 0).any(), name


# --- folders that cannot be loaded ---------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    save(folder)
    return folder


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type = 'default'.*lin"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_type.*got 'llama3'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling = None.*got {'type'"),
        ({"model_type": "mistral"}, "model_type = 'llama'.*got 'mistral'"),
        ({"model_type": None}, r"expected model_type \(str\), got no such key"),
        ({"hidden_act": "gelu"}, "hidden_act = 'silu'.*got 'gelu'"),
        ({"attention_bias": True}, "attention_bias = False.*got True"),
        ({"mlp_bias": True}, "mlp_bias = False.*got True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = None"),
        ({"sliding_window": 128}, "sliding_window = None"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 1"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor = 1"),
        ({"hidden_size": None}, r"expected hidden_size \(int\), got no such key"),
        ({"hidden_size": "24"}, "expected hidden_size to be int, got '24'"),
        ({"num_hidden_layers": 2.0}, "expected num_hidden_layers to be int, got 2.0"),
        ({"tie_word_embeddings": 1}, "expected tie_word_embeddings to be bool, got 1"),
        ({"rope_parameters": {"rope_theta": "big"}}, "expected rope_theta to be int or float"),
    ],
)
def test_bad_settings(folder, tmp_path, settings, message):
    with pytest.raises(ValueError, match=f"^config.json: .*{message}"):
        LlamaLM.from_pretrained(changed(folder, tmp_path, settings))


UP = "model.layers.2.mlp.up_proj.weight"


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({UP: None}, rf"^{UP}: expected a tensor of shape \(40, 24\), got no such key"),
        ({UP: torch.ones(24, 40)}, rf"^{UP}: expected shape \(40, 24\), got shape \(24, 40\)"),
        ({UP: torch.full((40, 24), torch.nan)}, f"^{UP}: expected finite values"),
        ({"lm_head.weight": None}, "^lm_head.weight: .*got no such key"),
        ({"model.layers.3.mlp.up_proj.weight": torch.ones(2)}, "^model.layers.3.*no such key, got"),
    ],
)
def test_bad_tensors(folder, tmp_path, tensors, message):
    with pytest.raises(ValueError, match=message):
        LlamaLM.from_pretrained(changed(folder, tmp_path, None, tensors))


@pytest.mark.bad_input
def test_settings_that_do_not_fit_the_tensors(folder, tmp_path):
    with pytest.raises(ValueError, match=r"lm_head.weight: expected shape \(54, 24\), got .*53"):
        LlamaLM.from_pretrained(changed(folder, tmp_path, {"vocab_size": 54}))
    with pytest.raises(ValueError, match=r"^model.layers.2.*: expected no such key"):
        LlamaLM.from_pretrained(changed(folder, tmp_path, {"num_hidden_layers": 2}))
    with pytest.raises(ValueError, match=r"^n_heads: expected a divisor of d_model = 24, got 7"):
        heads = {"num_attention_heads": 7, "num_key_value_heads": 7, "head_dim": None}
        LlamaLM.from_pretrained(changed(folder, tmp_path, heads))


@pytest.mark.bad_input
def test_a_tied_head_may_be_stored_twice_but_not_differ(folder, tmp_path):
    tied = {"tie_word_embeddings": True}
    with pytest.raises(ValueError, match=r"^lm_head.weight: expected the values of model.embed"):
        LlamaLM.from_pretrained(changed(folder, tmp_path, tied))
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    twice = {"lm_head.weight": embedding.clone()}
    model = LlamaLM.from_pretrained(changed(folder, tmp_path, tied, twice))
    assert model.head is None and torch.equal(model.embedding.weight, embedding)


@torch.no_grad()
def test_a_tied_head_under_either_name_alone(folder, tmp_path):
    changed(folder, tmp_path, {"tie_word_embeddings": True}, {"lm_head.weight": None})
    tokens = tokens_of(2, 8)
    model = LlamaLM.from_pretrained(tmp_path)
    assert model.head is None
    wanted = model(tokens)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    assert torch.equal(LlamaLM.from_pretrained(tmp_path)(tokens), wanted)
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"^model.embed_tokens.weight: .*got no such key"):
        LlamaLM.from_pretrained(tmp_path)


@torch.no_grad()
def test_angles_in_old_files_are_ignored(folder, tmp_path):
    """Writers before version 4.32 stored them, layer by layer."""
    angles = 10_000 ** (-torch.arange(0, 6, 2) / 6)
    old = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": angles.clone() for i in range(3)}
    tokens = tokens_of(2, 30)
    wanted = LlamaLM.from_pretrained(folder)(tokens)
    ours = LlamaLM.from_pretrained(changed(folder, tmp_path, None, old))
    assert torch.equal(ours(tokens), wanted)


@torch.no_grad()
def test_nulls_where_there_is_a_default(tmp_path):
    theirs = save(tmp_path, num_key_value_heads=None, rms_norm_eps=1e-6, rope_parameters=None)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf8"))
    nulls = ("num_key_value_heads", "rms_norm_eps", "rope_parameters", "head_dim", "hidden_act")
    nulls += ("tie_word_embeddings", "attention_bias")
    assert config.keys() >= set(nulls)
    (tmp_path / "config.json").write_text(
        json.dumps({**config, **dict.fromkeys(nulls)}), encoding="utf8"
    )
    tokens = tokens_of(2, 30)
    ours = LlamaLM.from_pretrained(tmp_path)(tokens)
    torch.testing.assert_close(ours, theirs(tokens).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_settings_of_transformers_before_version_5(folder, tmp_path):
    changed(folder, tmp_path, {"rope_parameters": None, "rope_theta": 5000.0})
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf8"))
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"rope_scaling": None}), encoding="utf8"
    )
    tokens = tokens_of(2, 30)
    wanted = LlamaLM.from_pretrained(folder)(tokens)
    assert torch.equal(LlamaLM.from_pretrained(tmp_path)(tokens), wanted)


@torch.no_grad()
def test_shards_of_transformers(folder, tmp_path):
    theirs = LlamaForCausalLM.from_pretrained(folder)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    tokens = tokens_of(2, 30)
    one, many = (LlamaLM.from_pretrained(place)(tokens) for place in (folder, tmp_path))
    assert torch.equal(one, many)
    theirs.bfloat16().save_pretrained(tmp_path / "half", max_shard_size="20KB")
    half = LlamaLM.from_pretrained(tmp_path / "half")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.float32)
    torch.testing.assert_close(half(tokens), theirs(tokens).logits, rtol=1e-5, atol=1e-5)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: RMSNorm(0), ValueError, "^d_model: "),
        (lambda: RMSNorm(3, 0), ValueError, "^eps: expected .* > 0, got 0"),
        (lambda: RMSNorm(3)(torch.ones(2, 1)), ValueError, r"^x: expected shape \(…, 3\)"),
        (lambda: SwiGLU(0, 3), ValueError, "^d_model: "),
        (lambda: SwiGLU(3, 2.5), TypeError, "^d_ff: "),
        (lambda: GroupedQueryAttention(0, 1, 1), ValueError, "^d_model: "),
        (lambda: GroupedQueryAttention(8, 0, 1), ValueError, "^n_heads: "),
        (lambda: GroupedQueryAttention(8, 3, 1), ValueError, "^n_heads: .*of d_model = 8, got 3"),
        (lambda: GroupedQueryAttention(8, 4, 3), ValueError, "^n_kv_heads: .*n_heads = 4, got 3"),
        (lambda: GroupedQueryAttention(6, 2, 1), ValueError, "^d_head: expected an even.*got 3"),
        (lambda: GroupedQueryAttention(8, 2, 1, d_head=5), ValueError, "^d_head: .*got 5"),
        (lambda: GroupedQueryAttention(8, 2, 1, base=0), ValueError, "^base: .*got 0"),
        (lambda: rotary_embedding(torch.ones(3), 4), TypeError, "^positions: .*got a float32"),
        (lambda: LlamaBlock(8, 2, 1, 3)(torch.ones(1, 2, 8), last=3), ValueError, "^last: .*got 3"),
        (lambda: LlamaBlock(8, 2, 1, 3)(torch.ones(1, 2, 8), last=0), ValueError, "^last: .*got 0"),
        (lambda: rotary_embedding([1], 4), TypeError, "^positions: .*got a list"),
        (lambda: rotary_embedding(torch.tensor([[1]]), 4), ValueError, r"^positions: .*\(1, 1\)"),
        (lambda: rotary_embedding(torch.tensor([1]), 3), ValueError, "^d_head: .*even.*got 3"),
        (lambda: LlamaLM(5, 8, 0, n_heads=2, n_kv_heads=1, d_ff=3), ValueError, "^n_layer: "),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("sizes", "cos", "sin", "name"),
    [
        ((5, 4), (5, 4), (5, 4), "cos"),
        ((5, 4), (1, 2), (1, 2), "cos"),
        ((5, 4), (5, 2), (4, 2), "sin"),
        ((4,), (4, 2), (4, 2), "cos"),
        ((5, 3), (5, 1), (5, 1), "cos"),
        ((2, 3, 5, 4), (2, 5, 2), (2, 5, 2), "cos"),
        ((2, 3, 5, 4), (3, 1, 5, 2), (3, 1, 5, 2), "cos"),
    ],
)
def test_bad_input_apply_rotary(sizes, cos, sin, name):
    with pytest.raises(ValueError, match=f"^{name}: expected shape .*got shape"):
        apply_rotary(torch.ones(sizes), torch.ones(cos), torch.ones(sin))


@pytest.mark.bad_input
def test_bad_input_state_and_tokens():
    layer = GroupedQueryAttention(8, 2, 1)
    state = GroupedQueryAttention(8, 2, 2).initial_state(3)
    with pytest.raises(ValueError, match=r"^state: .*\(3, 1, past, 4\), got shape \(3, 2, 0, 4\)"):
        layer.step(torch.ones(3, 8), state)
    model = LlamaLM(53, 8, 1, tied=False, n_heads=2, n_kv_heads=1, d_ff=12)
    with pytest.raises(ValueError, match=r"^tokens: expected int64 or int32"):
        model(tokens_of(2, 3).double())
    with pytest.raises(ValueError, match=r"^token: .*in 0 … 52, got values from 53"):
        model.step(torch.tensor([53]), model.initial_state(1))
