"""Chapter 18: the block against mambapy and transformers, its start, checkpoints and padding."""

import json
import math
import pickle

import mambapy.mamba
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from transformers import MambaConfig as TheirConfig
from transformers import MambaForCausalLM

from helpers import Bomb, changed, close, draw, released_folder, shaken, tokens_of
from linear_time.layer import mark_of
from linear_time.mamba import Mamba, MambaConfig, MambaLM, MambaState, delta_bias
from linear_time.mixer import LanguageModel, Residual
from linear_time.selective import selective_scan_reference
from linear_time.training import parameter_groups

F64 = torch.float64
VOCAB = 53
seeds = st.integers(0, 2**31 - 1)


def mixer_of(d_model=6, seed=0, **options):
    torch.manual_seed(seed)
    return shaken(Mamba(d_model, **options), seed).double()


# --- the layer -----------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"taps": 1}, {"N": 1, "rank": 3, "bias": True}])
def test_the_layer_is_its_equations_written_out(options):
    """Loops over time, channels and taps, from the equations of the docstring."""
    m = mixer_of(**{"N": 4, "expand": 3, "conv_bias": "taps" not in options, **options})
    x = draw(2, 9, 6)
    y = m(x)
    for b in range(2):
        h = torch.zeros(m.d_inner, m.N, dtype=F64)
        past = [torch.zeros(m.d_inner, dtype=F64)] * (m.taps - 1)
        for t in range(9):
            bias = 0 if m.in_proj.bias is None else m.in_proj.bias
            both = m.in_proj.weight @ x[b, t] + bias
            u, z = both[: m.d_inner], both[m.d_inner :]
            past.append(u)
            u = torch.zeros(m.d_inner, dtype=F64)
            for k in range(m.taps):  # the last tap reads the newest input
                u += m.conv1d.weight[:, 0, k] * past[t + k]
            u += 0 if m.conv1d.bias is None else m.conv1d.bias
            u = u / (1 + torch.exp(-u))
            all_three = m.x_proj.weight @ u
            B, C = all_three[m.rank : m.rank + m.N], all_three[m.rank + m.N :]
            delta = m.dt_proj.weight @ all_three[: m.rank] + m.dt_proj.bias
            delta = torch.log(1 + torch.exp(delta))
            for d in range(m.d_inner):
                a_bar = torch.exp(-delta[d] * torch.exp(m.A_log[d]))
                h[d] = a_bar * h[d] + delta[d] * B * u[d]
            out = (h @ C + m.D * u) * z / (1 + torch.exp(-z))
            wanted = m.out_proj.weight @ out
            wanted += 0 if m.out_proj.bias is None else m.out_proj.bias
            close(y[b, t], wanted)


@given(seed=seeds, d_model=st.integers(1, 9), N=st.integers(1, 5), length=st.integers(1, 20))
@torch.no_grad()
def test_the_block_is_mambapys(seed, d_model, N, length):
    torch.manual_seed(seed)
    config = mambapy.mamba.MambaConfig(d_model=d_model, n_layers=1, d_state=N, pscan=False)
    theirs = shaken(mambapy.mamba.ResidualBlock(config), seed)
    ours = Residual(Mamba(d_model, N=N))
    assert {n: p.shape for n, p in ours.named_parameters()} == {
        n: p.shape for n, p in theirs.named_parameters()
    }
    ours.load_state_dict(theirs.state_dict())
    x = draw(2, length, d_model, seed=seed, dtype=torch.float32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    state = ours.initial_state(2)
    cache = (None, torch.zeros(2, 2 * d_model, 3))
    for x_t in x.unbind(1):
        y, state = ours.step(x_t, state)
        wanted, cache = theirs.step(x_t, cache)
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state.h, cache[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state.window, cache[1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("taps", [1, 2, 4])
@pytest.mark.parametrize("cut", [1, 2, 5, 13])
def test_prefill_goes_on_where_it_stopped(taps, cut):
    m = mixer_of(taps=taps)
    x = draw(2, 14, 6)
    y, end = m.prefill(x)
    close(y, m(x))
    first, state = m.prefill(x[:, :cut])
    second, last = m.prefill(x[:, cut:], state)
    close(torch.cat([first, second], 1), y)
    stepped = m.initial_state(2)
    for x_t in x.unbind(1):
        _, stepped = m.step(x_t, stepped)
    for a, b, c in zip(end, last, stepped, strict=True):
        close(a, b)
        close(a, c)
    assert end.window.shape == (2, 12, taps - 1) and end.h.shape == (2, 12, 16)


@torch.no_grad()
@pytest.mark.parametrize("taps", [1, 2, 4])
def test_padding_between_a_state_and_what_follows(taps):
    """A row that is shorter than the others goes on from its state all the same."""
    m = mixer_of(taps=taps)
    x, lengths = draw(3, 14, 6), (9, 4, 1)
    mask = torch.arange(9) >= 9 - torch.tensor(lengths)[:, None]
    _, state = m.prefill(x[:, :5])
    y, after = m.prefill(x[:, 5:], state, mask)
    for row, n in enumerate(lengths):
        one = slice(row, row + 1)
        own = MambaState(*(part[one] for part in state))
        wanted, last = m.prefill(x[one, 14 - n :], own)
        close(y[one, 9 - n :], wanted)
        for a, b in zip(after, last, strict=True):
            close(a[one], b)


@torch.no_grad()
def test_half_precision_keeps_what_a_small_step_adds():
    """Δ = 1e-3, h += Δ (1 − h): in a bfloat16 state every addition to 0.25 rounds to nothing."""
    m = Mamba(2, N=1, delta_min=1e-3, delta_max=1e-3).bfloat16()
    assert m.A_log.dtype == m.dt_proj.bias.dtype == m.A.dtype == torch.float32
    one, x = torch.ones(1, 1, dtype=torch.bfloat16), torch.zeros(1, 2, dtype=torch.bfloat16)
    m.select = lambda u: (functional.softplus(m.dt_proj.bias).expand(u.shape), one, one)
    m.convolve = lambda window: torch.full((1, 4, 1), 1.2784645, dtype=window.dtype)  # SiLU: 1
    state = m.initial_state(1, dtype=torch.bfloat16)
    assert {part.dtype for part in state} == {torch.float32}
    for _ in range(666):
        _, state = m.step(x, state)
    assert {part.dtype for part in state} == {torch.float32}
    wanted = torch.full((1, 4, 1), 1 - math.exp(-0.666))  # 0.49
    torch.testing.assert_close(state.h, wanted, rtol=5e-3, atol=0)


@torch.no_grad()
def test_a_step_keeps_its_window_only():
    for taps in (1, 2, 4):
        m = mixer_of(taps=taps)
        _, state = m.step(draw(2, 6), m.initial_state(2))
        held = [part.untyped_storage().nbytes() // part.itemsize for part in state]
        assert held == [part.numel() for part in state] == [2 * 12 * (taps - 1), 2 * 12 * 16]


def state_bytes(state):
    return sum(t.numel() * t.element_size() for layer in state for t in layer)


@torch.no_grad()
def test_the_state_never_grows():
    """2 d (N + K − 1) numbers a layer, at the first token and at the thousandth."""
    model = MambaLM(MambaConfig(vocab_size=VOCAB, d_model=6, n_layer=3))
    state = model.initial_state(2)
    wanted = 3 * 2 * 2 * 6 * (16 + 3) * 4
    assert state_bytes(state) == wanted
    token = tokens_of(2, 1)[:, 0]
    for _ in range(1000):
        logits, state = model.step(token, state)
        token = logits.argmax(-1)
    assert state_bytes(state) == wanted
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for s in state for t in s}
    assert sum(held.values()) <= wanted * 20 / 19  # views keep no history alive


def test_the_state_carries_the_gradient():
    """Of a loss on the second half to an input of the first, through the state alone."""
    m = mixer_of()
    x = draw(1, 12, 6).requires_grad_()
    _, state = m.prefill(x[:, :5])
    m.prefill(x[:, 5:], state)[0].square().sum().backward()
    through = x.grad[:, :5].clone()
    x.grad = None
    m(x)[:, 5:].square().sum().backward()
    assert through.abs().min() > 0
    close(through, x.grad[:, :5], 1e-9)


@torch.no_grad()
def test_selection_is_by_the_convolved_and_activated_input():
    """Δ, B and C at t read four inputs, through SiLU, not x alone."""
    m = mixer_of()
    x = draw(1, 7, 6)
    u = m.in_proj(x).mT.chunk(2, dim=1)[0]
    u = functional.conv1d(u, m.conv1d.weight, m.conv1d.bias, padding=3, groups=12)
    u = functional.silu(u[..., :7])
    delta, B, C = m.select(u.mT)
    z = m.in_proj(x).mT.chunk(2, dim=1)[1]
    y = selective_scan_reference(u, delta.mT, m.A, B.mT, C.mT, m.D, z)
    close(m.out_proj(y.mT), m(x))


# --- how many parameters -------------------------------------------------------------------------


def symbolic_count():
    d, N, K, R = sympy.symbols("d N K R", positive=True)
    inner = 2 * d
    count = {
        "norm": d,
        "in_proj": d * 2 * inner,
        "conv1d": inner * K + inner,
        "x_proj": inner * (R + 2 * N),
        "dt_proj": R * inner + inner,
        "A_log": inner * N,
        "D": inner,
        "out_proj": inner * d,
    }
    return (d, N, K, R), sympy.expand(sum(count.values()))


def test_the_number_of_parameters():
    (d, N, K, R), total = symbolic_count()
    closed = 6 * d**2 + 2 * d * (R + 32) + 2 * d * R + 47 * d
    assert sympy.expand(total.subs({N: 16, K: 4}) - closed) == 0
    assert sympy.limit(total.subs({N: 16, K: 4, R: d / 16}) / d**2, d, sympy.oo) == sympy.Rational(
        25, 4
    )
    for width in (1, 16, 17, 40, 768):
        values = {d: width, N: 16, K: 4, R: math.ceil(width / 16)}
        config = TheirConfig(hidden_size=width, num_hidden_layers=1, vocab_size=3)
        with torch.device("meta"):
            ours, theirs = Residual(Mamba(width)), MambaForCausalLM(config)
        layer = sum(p.numel() for p in theirs.backbone.layers.parameters())
        assert sum(p.numel() for p in ours.parameters()) == layer == total.subs(values)


def test_the_published_size_of_130m():
    """24 layers of width 768, 50,280 rows: 129,135,360 with the tied head."""
    config = MambaConfig(vocab_size=50_280, d_model=768, n_layer=24)
    with torch.device("meta"):
        model = MambaLM(config)
        theirs = MambaForCausalLM(TheirConfig(num_hidden_layers=24, vocab_size=50_280))
    count = sum(p.numel() for p in model.parameters())
    assert count == theirs.num_parameters() == 129_135_360


# --- the start -----------------------------------------------------------------------------------


def uniform_in(values, bound):
    """Uniform in ±bound: in it, close to it, and with its deviation bound/√3."""
    assert values.abs().max() <= bound * (1 + 1e-6) and values.abs().max() > 0.98 * bound
    assert abs(values.mean()) < 0.05 * bound
    assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_every_initialisation():
    torch.manual_seed(0)
    m = Mamba(256)
    R, d_inner = 16, 512
    assert (m.rank, m.d_inner, m.N, m.taps) == (R, d_inner, 16, 4)
    close(m.A, -torch.arange(1.0, 17).repeat(d_inner, 1), 1e-6)
    assert (m.D == 1).all()
    uniform_in(m.in_proj.weight, 256**-0.5)
    uniform_in(m.conv1d.weight, 4**-0.5)
    uniform_in(m.conv1d.bias, 4**-0.5)
    uniform_in(m.x_proj.weight, d_inner**-0.5)
    uniform_in(m.dt_proj.weight, R**-0.5)
    uniform_in(m.out_proj.weight, d_inner**-0.5)
    delta = functional.softplus(m.dt_proj.bias)
    assert 1e-3 * 0.999 <= delta.min() < 1.1e-3 and 0.09 < delta.max() <= 0.1 * 1.001
    assert m.in_proj.bias is None and m.x_proj.bias is None and m.out_proj.bias is None


def test_delta_starts_log_uniform():
    torch.manual_seed(0)
    delta = functional.softplus(delta_bias(20_000).double())
    place = (delta.log10() + 3) / 2  # uniform in [0, 1]
    quantiles = torch.quantile(place, torch.linspace(0, 1, 11, dtype=F64))
    assert (quantiles - torch.linspace(0, 1, 11)).abs().max() < 0.02


@pytest.mark.parametrize("delta", [1e-4, 1e-3, 0.1, 5, 30, 200])
def test_the_bias_is_the_inverse_of_softplus(delta):
    torch.set_default_dtype(F64)
    try:
        bias = delta_bias(3, delta, delta)
    finally:
        torch.set_default_dtype(torch.float32)
    exact = sympy.log(sympy.exp(sympy.Rational(str(delta))) - 1).evalf(30)
    assert torch.allclose(bias, torch.tensor(float(exact), dtype=F64), rtol=1e-12)
    single = functional.softplus(delta_bias(3, delta, delta))
    assert torch.allclose(single, torch.tensor(float(delta)), rtol=2e-6)


def test_the_naive_inverse_loses_the_digits_of_a_small_delta():
    delta = torch.tensor(1e-4)
    naive = functional.softplus(torch.log(torch.exp(delta) - 1)).item()
    ours = functional.softplus(delta_bias(1, 1e-4, 1e-4)).item()
    assert abs(naive / 1e-4 - 1) > 1e-4 > 1e-6 > abs(ours / 1e-4 - 1)


def test_delta_has_a_floor():
    delta = functional.softplus(delta_bias(500, 1e-6, 1e-2))
    assert delta.min() >= 1e-4 * 0.999 and (delta < 1.01e-4).float().mean() > 0.3
    delta = functional.softplus(delta_bias(5, 1e-6, 1e-5, delta_floor=1e-7))
    assert delta.max() < 1.1e-5
    shifted = Mamba(4, delta_min=0.5, delta_max=0.5, delta_floor=0.7)
    assert torch.allclose(functional.softplus(shifted.dt_proj.bias), torch.tensor(0.7))


@torch.no_grad()
def test_a_new_mamba_selects_by_B_and_C():
    """At first only Δ is nearly constant: K[t, s] of a channel is far from a convolution's."""
    torch.manual_seed(0)
    layer, x = Mamba(256), draw(1, 128, 256, dtype=torch.float32)
    u = layer.in_proj(x).mT.chunk(2, dim=1)[0]
    u = functional.silu(layer.convolve(functional.pad(u, (3, 0))))
    delta, B, C = (value[0].double() for value in layer.select(u.mT))
    assert (delta.std(0) / delta.mean(0)).mean() < 0.1
    write = delta[..., None] * B[:, None]
    assert 0.6 < write.var(0, correction=0).mean() / (write**2).mean() < 0.8
    shares = []
    for channel in range(0, 512, 64):
        # each unit impulse in turn through the scan, D left out
        impulses = torch.eye(128, dtype=F64)[:, None]  # (row, channel, length)
        step = delta[:, channel].expand(128, 1, -1)
        A = layer.A[channel][None].double()
        K = selective_scan_reference(
            impulses, step, A, B.mT.expand(128, -1, -1), C.mT.expand(128, -1, -1)
        )[:, 0].mT  # (t, s)
        kept = sum((128 - k) * K.diagonal(-k).mean() ** 2 for k in range(128))
        shares.append(float(kept / (K**2).sum()))
    assert max(shares) < 0.3 and sum(shares) / len(shares) < 0.2


def test_the_last_map_of_a_block_shrinks_with_the_depth():
    for n_layer in (1, 4, 9):
        torch.manual_seed(0)
        model = MambaLM(MambaConfig(vocab_size=VOCAB, d_model=64, n_layer=n_layer))
        for block in model.blocks:
            uniform_in(block.mixer.out_proj.weight, 128**-0.5 / math.sqrt(n_layer))
            uniform_in(block.mixer.in_proj.weight, 64**-0.5)
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert all((block.norm.weight == 1).all() and block.norm.eps == 1e-5 for block in model.blocks)


def test_no_weight_decay_on_the_system():
    model = MambaLM(MambaConfig(vocab_size=VOCAB, d_model=8, n_layer=2))
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, 1e-3, 0.1)
    decayed = {names[id(p)] for g in groups if g["weight_decay"] > 0 for p in g["params"]}
    free = set(names.values()) - decayed
    assert {name.split("mixer.")[-1] for name in free if "mixer" in name} == {
        "A_log", "D", "conv1d.bias", "dt_proj.bias"
    }  # fmt: skip
    assert {name for name in decayed if "blocks.0" in name} == {
        f"blocks.0.mixer.{name}.weight"
        for name in ("in_proj", "conv1d", "x_proj", "dt_proj", "out_proj")
    }


def test_hugging_face_starts_elsewhere():
    """Its defaults: embeddings and projections of deviation 0.1, no bias in the convolution."""
    torch.manual_seed(0)
    theirs = MambaForCausalLM(TheirConfig(hidden_size=256, num_hidden_layers=4, vocab_size=VOCAB))
    mixer = theirs.backbone.layers[0].mixer
    assert theirs.backbone.embeddings.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert mixer.in_proj.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert mixer.x_proj.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert (mixer.conv1d.bias == 0).all()
    uniform_in(mixer.out_proj.weight.data, 512**-0.5)  # not rescaled by the depth
    ours = Mamba(256)
    assert ours.in_proj.weight.std().item() == pytest.approx(256**-0.5 / math.sqrt(3), rel=0.05)
    assert (ours.conv1d.bias != 0).all()
    # What it shares with the released code:
    uniform_in(mixer.dt_proj.weight.data, 0.25)
    close(mixer.A_log.data, ours.A_log.data, 1e-6)
    assert (mixer.D == 1).all()
    delta = functional.softplus(mixer.dt_proj.bias)
    assert delta.min() >= 1e-3 * 0.999 and delta.max() <= 0.1 * 1.001


# --- checkpoints ---------------------------------------------------------------------------------


def config_of(**changes):
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "eos_token_id": None,
        "bos_token_id": None,
        "pad_token_id": None,
    }
    return TheirConfig(**{**settings, **changes})


def save(folder, **changes):
    """A model of transformers with weights far from their start, and its folder."""
    torch.manual_seed(0)
    model = shaken(MambaForCausalLM(config_of(**changes))).eval()
    model.save_pretrained(folder)
    return model


VARIANTS = {
    "plain": {},
    "small_state": {"state_size": 4, "conv_kernel": 3, "time_step_rank": 5},
    "biases": {"use_bias": True, "use_conv_bias": False, "layer_norm_epsilon": 1e-2},
    "wide_one_layer": {"num_hidden_layers": 1, "expand": 3, "conv_kernel": 1},
}


@pytest.fixture(scope="module", params=VARIANTS)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return save(folder, **VARIANTS[request.param]), folder


@torch.no_grad()
def test_logits_are_those_of_transformers(saved):
    theirs, folder = saved
    ours = MambaLM.from_pretrained(folder)
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
def test_step_is_forward_in_float64(saved):
    ours = MambaLM.from_pretrained(saved[1]).double()
    tokens = tokens_of(2, 60)
    logits = ours(tokens)
    state = ours.initial_state(2)
    for t, token in enumerate(tokens.unbind(1)):
        one, state = ours.step(token, state)
        close(one, logits[:, t], 1e-10)
    last, prefilled = ours.prefill(tokens)
    close(last, one, 1e-10)
    for left, right in zip(state, prefilled, strict=True):
        close(left.h, right.h, 1e-10)
        close(left.window, right.window, 1e-10)


@torch.no_grad()
def test_greedy_generation_is_that_of_transformers(saved):
    theirs, folder = saved
    prompt = tokens_of(3, 6)
    mask = torch.ones_like(prompt)
    wanted = theirs.generate(
        prompt, attention_mask=mask, max_new_tokens=40, do_sample=False, pad_token_id=0
    )
    ours = MambaLM.from_pretrained(folder)
    got = ours.generate(prompt, 40, temperature=0)
    assert torch.equal(got, wanted)
    assert torch.equal(LanguageModel.generate(ours, prompt, 40, temperature=0), wanted)
    assert len(got[:, 6:].unique()) > 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mamba")
    save(folder)
    return folder


@torch.no_grad()
def test_the_released_keys_and_settings(folder, tmp_path):
    tokens = tokens_of(2, 30)
    wanted = MambaLM.from_pretrained(folder)(tokens)
    ours = MambaLM.from_pretrained(released_folder(folder, tmp_path))
    assert torch.equal(ours(tokens), wanted)
    # transformers reads the released keys too; so does its converted vocabulary
    theirs = MambaForCausalLM(config_of())
    theirs.load_state_dict(load_file(tmp_path / "model.safetensors"))
    torch.testing.assert_close(theirs(tokens).logits, wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_released_settings_of_a_layer(tmp_path):
    changes = {"state_size": 4, "conv_kernel": 3, "time_step_rank": 5, "use_bias": True}
    (tmp_path / "hf").mkdir()
    save(tmp_path / "hf", expand=3, vocab_size=56, use_conv_bias=False, **changes)
    layer = {"layer": "Mamba1", "d_state": 4, "d_conv": 3, "dt_rank": 5, "bias": True}
    layer |= {"expand": 3, "conv_bias": False}
    released_folder(
        tmp_path / "hf", tmp_path, ssm_cfg=layer, vocab_size=50, pad_vocab_size_multiple=8
    )
    ours = MambaLM.from_pretrained(tmp_path)
    assert (ours.vocab_size, ours.config.rows) == (50, 56)  # 50 filled up to a multiple of 8
    tokens = tokens_of(2, 20).clamp(max=49)
    assert torch.equal(ours(tokens), MambaLM.from_pretrained(tmp_path / "hf")(tokens))


@torch.no_grad()
@pytest.mark.parametrize("multiple", [8, None])
def test_the_fill_of_the_vocabulary_is_never_sampled(tmp_path, multiple):
    """53 tokens in a matrix of 56 rows, the last of which have the largest logits by far."""
    (tmp_path / "hf").mkdir()
    theirs = save(tmp_path / "hf", vocab_size=56)
    assert MambaLM.from_pretrained(tmp_path / "hf").vocab_size == 56  # it says so
    released_folder(tmp_path / "hf", tmp_path, vocab_size=53, pad_vocab_size_multiple=multiple)
    ours = MambaLM.from_pretrained(tmp_path)
    tokens = tokens_of(2, 6)
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-5, atol=1e-5)
    direction = ours.norm(ours.blocks[0](ours.embedding(tokens)))
    ours.embedding.weight[53:] = 1e3 * direction[0, -1].sign()
    for temperature in (0, 1, 5.0):
        assert (ours.generate(tokens, 30, temperature) < 53).all()
    with pytest.raises(ValueError, match=r"^tokens: .*in 0 … 52, got values"):
        ours(torch.tensor([[53]]))


def save_only(tensors, folder):
    save_file(tensors, folder / "model.safetensors")
    return folder


@torch.no_grad()
@pytest.mark.parametrize("style", ["released", "hugging face"])
def test_the_tied_matrix_under_any_of_its_names(folder, tmp_path, style):
    if style == "released":
        released_folder(folder, tmp_path)
    else:
        changed(folder, tmp_path)
    tokens = tokens_of(2, 8)
    wanted = MambaLM.from_pretrained(folder)(tokens)
    tensors = load_file(tmp_path / "model.safetensors")
    names = ("backbone.embedding.weight", "backbone.embeddings.weight", "lm_head.weight")
    found = [tensors.pop(name) for name in names if name in tensors]
    for some in (names[:1], names[1:2], names[2:], names[:2], names[1:], names):
        save_only({**tensors, **{name: found[0].clone() for name in some}}, tmp_path)
        assert torch.equal(MambaLM.from_pretrained(tmp_path)(tokens), wanted), some
    save_only(tensors, tmp_path)
    with pytest.raises(ValueError, match=r"^backbone.embeddings?.weight: .*got no such key"):
        MambaLM.from_pretrained(tmp_path)


@torch.no_grad()
def test_shards_and_nulls_where_there_is_a_default(folder, tmp_path):
    model = MambaForCausalLM.from_pretrained(folder)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf8"))
    nulls = ("state_size", "expand", "conv_kernel", "time_step_rank", "use_bias", "hidden_act")
    nulls += ("use_conv_bias", "layer_norm_epsilon", "tie_word_embeddings")
    assert config.keys() >= set(nulls)
    (tmp_path / "config.json").write_text(
        json.dumps({**config, **dict.fromkeys(nulls)}), encoding="utf8"
    )
    tokens = tokens_of(2, 8)
    ours = MambaLM.from_pretrained(tmp_path)
    torch.testing.assert_close(ours(tokens), model(tokens).logits, rtol=1e-5, atol=1e-5)


def test_a_layer_of_half_precision_is_read_into_float32(folder, tmp_path):
    changed(folder, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v.bfloat16() for k, v in tensors.items()}, tmp_path / "model.safetensors")
    model = MambaLM.from_pretrained(tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    wanted = tensors["backbone.layers.1.mixer.A_log"].bfloat16().float()
    assert torch.equal(model.blocks[1].mixer.A_log.data, wanted)
    assert not mark_of(model.blocks[1].mixer, "A_log").decay


# --- folders that cannot be loaded ---------------------------------------------------------------


def explode(*_):
    raise AssertionError("a tensor was copied although the folder is damaged")


@pytest.fixture
def nothing_is_copied(monkeypatch):
    """Fails if a damaged folder has changed any model."""
    monkeypatch.setattr(torch.Tensor, "copy_", explode)


X_PROJ = "backbone.layers.2.mixer.x_proj.weight"
EMBEDDING = "backbone.embeddings.weight"


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({X_PROJ: None}, rf"^{X_PROJ}: expected a tensor of shape \(34, 48\), got no such key"),
        ({X_PROJ: torch.ones(48, 34)}, rf"^{X_PROJ}: expected shape \(34, 48\), got .*\(48, 34\)"),
        ({X_PROJ: torch.full((34, 48), math.nan)}, f"^{X_PROJ}: expected finite values"),
        ({EMBEDDING: None}, rf"^{EMBEDDING}: expected a tensor of shape \(53, 24\), got no such"),
        ({"backbone.embedding.weight": torch.ones(53, 24)}, f"embedding.weight: .*of {EMBEDDING}"),
        ({"backbone.norm_f.weight": None}, "^backbone.norm_f.weight: .*got no such key"),
        ({"lm_head.weight": torch.ones(53, 24)}, f"^lm_head.weight: .*values of {EMBEDDING}"),
        ({"backbone.layers.0.mlp.fc1.weight": torch.ones(2)}, "mlp.fc1.weight: expected no such"),
    ],
)
def test_bad_tensors(folder, tmp_path, nothing_is_copied, tensors, message):
    changed(folder, tmp_path, None, tensors)
    with pytest.raises(ValueError, match=message):
        MambaLM.from_pretrained(tmp_path)


@pytest.mark.bad_input
def test_a_damaged_file_loads_nothing(folder, tmp_path, nothing_is_copied):
    file = changed(folder, tmp_path) / "model.safetensors"
    whole = file.read_bytes()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"^model.safetensors: expected a whole safetensors"):
            MambaLM.from_pretrained(tmp_path)


@pytest.mark.bad_input
def test_a_pickled_file_is_not_opened(folder, tmp_path, nothing_is_copied):
    file = changed(folder, tmp_path) / "model.safetensors"
    file.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(ValueError, match=r"^model.safetensors: expected a whole safetensors"):
        MambaLM.from_pretrained(tmp_path)
    file.rename(tmp_path / "pytorch_model.bin")  # what the released folders hold
    with pytest.raises(ValueError, match=r"^folder: .*got only pytorch_model.bin.*run code"):
        MambaLM.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^folder: expected a folder with config.json"):
        MambaLM.from_pretrained(tmp_path / "nowhere")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "mamba2"}, "model_type = 'mamba'.*got 'mamba2'"),
        ({"model_type": None}, r"expected model_type \(str\), got no such key"),
        ({"hidden_act": "gelu"}, "hidden_act = 'silu'.*got 'gelu'"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings = True.*got False"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = None"),
        ({"hidden_size": None}, r"expected hidden_size \(int\), got no such key"),
        ({"num_hidden_layers": "3"}, "expected num_hidden_layers to be int, got '3'"),
        ({"use_bias": 1}, "expected use_bias to be bool, got 1"),
        ({"time_step_rank": 1.5}, "expected time_step_rank to be int or str, got 1.5"),
        ({"time_step_rank": "all"}, "expected time_step_rank to be a number or 'auto', got 'all'"),
    ],
)
def test_bad_settings(folder, tmp_path, settings, message):
    with pytest.raises(ValueError, match=f"^config.json: .*{message}"):
        MambaLM.from_pretrained(changed(folder, tmp_path, settings))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ssm_cfg": {"layer": "Mamba2"}}, "layer = 'Mamba1'.*got 'Mamba2'"),
        ({"rms_norm": False}, "rms_norm = True.*got False"),
        ({"attn_layer_idx": [1]}, r"attn_layer_idx = \[\].*got \[1\]"),
        ({"d_intermediate": 64}, "d_intermediate = 0.*got 64"),
        ({"ssm_cfg": {"d_state": "16"}}, "expected d_state to be int, got '16'"),
        ({"pad_vocab_size_multiple": 0}, "pad_vocab_size_multiple: expected a whole number >= 1"),
    ],
)
def test_bad_released_settings(folder, tmp_path, settings, message):
    with pytest.raises(ValueError, match=f"^config.json: .*{message}"):
        MambaLM.from_pretrained(released_folder(folder, tmp_path, **settings))


# --- padding -------------------------------------------------------------------------------------

LENGTHS = (9, 4, 1)


def model_of(folder):
    return MambaLM.from_pretrained(folder).double()


def padded(side, length=9):
    """Rows of 9, 4 and 1 tokens in one batch, and the mask."""
    tokens = tokens_of(3, length)
    place = torch.arange(length)
    short = torch.tensor(LENGTHS)[:, None]
    mask = place < short if side == "right" else place >= length - short
    return torch.where(mask, tokens, 0), mask


@torch.no_grad()
def test_padding_at_the_right_is_safe_without_a_mask(folder):
    model = model_of(folder)
    tokens, mask = padded("right")
    logits = model(tokens)
    for row, n in enumerate(LENGTHS):
        close(logits[row, :n], model(tokens[row : row + 1, :n])[0])
    theirs = MambaForCausalLM.from_pretrained(folder)(tokens, attention_mask=mask.long()).logits
    torch.testing.assert_close(logits[mask].float(), theirs[mask], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_state_after_padding_at_the_right_is_spoiled(folder):
    model = model_of(folder)
    tokens, _ = padded("right")
    _, state = model.prefill(tokens)
    _, alone = model.prefill(tokens[1:2, :4])
    assert (state[0].h[1] - alone[0].h[0]).abs().max() > 0.1 * alone[0].h.abs().max()


@torch.no_grad()
def test_padding_at_the_left_needs_the_mask(folder):
    model = model_of(folder)
    tokens, mask = padded("left")
    logits = model(tokens, mask)
    without = model(tokens)
    for row, n in enumerate(LENGTHS):
        wanted = model(tokens[row : row + 1, 9 - n :])[0]
        close(logits[row, 9 - n :], wanted)
        if n < 9:
            assert (without[row, 9 - n :] - wanted).abs().max() > 0.1
    theirs = MambaForCausalLM.from_pretrained(folder)(tokens, attention_mask=mask.long()).logits
    torch.testing.assert_close(logits[mask].float(), theirs[mask], rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("where", ["before", "after"])
def test_one_mask_is_not_enough(folder, where):
    """Before the convolution its bias fills the padding; after it, its window has read it."""
    model = model_of(folder)
    tokens, mask = padded("left")
    mixer = model.blocks[0].mixer
    x = model.blocks[0].norm(model.embedding(tokens))
    u, z = mixer.in_proj(x).mT.chunk(2, dim=1)
    keep = mask[:, None].double()
    if where == "before":
        u = u * keep
    u = functional.silu(mixer.convolve(functional.pad(u, (3, 0))))
    if where == "after":
        u = u * keep
    delta, B, C = mixer.select(u.mT)
    y = selective_scan_reference(u, delta.mT, mixer.A, B.mT, C.mT, mixer.D, z)
    difference = (mixer.out_proj(y.mT) - mixer(x, mask))[mask]
    assert difference.abs().max() > 0.01


@torch.no_grad()
def test_a_bias_in_front_of_the_convolution_is_masked_too(tmp_path):
    """Hugging Face masks before in_proj, whose bias then fills the padding: the rows differ."""
    theirs = save(tmp_path, use_bias=True)
    model = model_of(tmp_path)
    tokens, mask = padded("left")
    alone = model(tokens[1:2, 5:])[0]
    close(model(tokens, mask)[1, 5:], alone)
    masked = theirs(tokens, attention_mask=mask.long()).logits
    assert (masked[1, 5:] - alone).abs().max() > 1e-3


@torch.no_grad()
def test_padded_prompts_go_on_as_if_alone(folder):
    model = model_of(folder)
    tokens, mask = padded("left")
    out = model.generate(tokens, 20, temperature=0, mask=mask)
    for row, n in enumerate(LENGTHS):
        alone = model.generate(tokens[row : row + 1, 9 - n :], 20, temperature=0)
        assert torch.equal(out[row, 9:], alone[0, n:])


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 5, dtype=torch.int64), "expected a bool tensor, got an int64"),
        (torch.ones(2, 4, dtype=torch.bool), r"expected shape \(2, 5\) .*, got .*\(2, 4\)"),
        (torch.tensor([[1, 1, 1, 1, 0], [1] * 5]).bool(), "at the left only"),
        (torch.tensor([[0, 1, 0, 1, 1], [1] * 5]).bool(), "at the left only"),
        (torch.tensor([[0] * 5, [1] * 5]).bool(), "at the left only"),
    ],
)
def test_bad_input_mask(mask, message):
    model = MambaLM(MambaConfig(vocab_size=VOCAB, d_model=4, n_layer=1))
    tokens = tokens_of(2, 5)
    for call in (
        lambda: model(tokens, mask),
        lambda: model.prefill(tokens, None, mask),
        lambda: model.generate(tokens, 1, mask=mask),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^mask: .*{message}"):
            call()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"N": 0}, ValueError, "^N: expected a whole number >= 1, got 0"),
        ({"expand": 1.5}, TypeError, "^expand: .*got 1.5"),
        ({"taps": 0}, ValueError, "^taps: "),
        ({"rank": 0}, ValueError, "^rank: "),
        ({"delta_min": 0}, ValueError, "^delta_min: expected a finite number > 0"),
        ({"delta_min": 1.0}, ValueError, "^delta_min: expected at most delta_max = 0.1, got 1.0"),
        ({"delta_floor": -1}, ValueError, "^delta_floor: "),
        ({"eps": 0}, ValueError, "^eps: "),
        ({"vocab_size": 0}, ValueError, "^vocab_size: "),
        ({"n_layer": 1.0}, TypeError, "^n_layer: "),
    ],
)
def test_bad_input_config(options, kind, message):
    with pytest.raises(kind, match=message):
        MambaLM(MambaConfig(**{"vocab_size": 5, "d_model": 4, "n_layer": 1, **options}))
    with pytest.raises(ValueError, match=r"^d_inner: "):
        delta_bias(0)


@pytest.mark.bad_input
def test_bad_input_state_and_tokens():
    m = Mamba(4)
    good = m.initial_state(2)
    x = torch.zeros(2, 5, 4)
    bad = [
        (MambaState(good.window[:1], good.h), r"state.window: expected a .* of shape \(2, 8, 3\)"),
        (MambaState(good.window, good.h[..., 1:]), r"state.h: expected a .* of shape \(2, 8, 16\)"),
        (good.h, r"state.window: expected .*got a float32 tensor of shape \(2, 8, 16\)"),
        (None, r"state.window: expected .*got a NoneType"),
    ]
    for state, message in bad:
        with pytest.raises(ValueError, match=f"^{message}"):
            m.step(x[:, 0], state)
        if state is not None:
            with pytest.raises(ValueError, match=f"^{message}"):
                m.prefill(x, state)
    model = MambaLM(MambaConfig(vocab_size=VOCAB, d_model=4, n_layer=1))
    for call in (model, model.prefill):
        with pytest.raises(ValueError, match=r"^tokens: .*in 0 … 52, got values"):
            call(torch.tensor([[VOCAB]]))
    with pytest.raises(ValueError, match=r"^prompt: "):
        model.generate(torch.tensor([[VOCAB]]), 1)
    for n, kind in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(kind, match=r"^n: expected a whole number >= 1"):
            model.generate(torch.tensor([[1]]), n)


def test_the_model_trains_and_is_a_language_model():
    model = MambaLM(MambaConfig(vocab_size=VOCAB, d_model=8, n_layer=2))
    tokens = tokens_of(2, 12)
    functional.cross_entropy(model(tokens)[:, :-1].mT, tokens[:, 1:]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and (parameter.grad != 0).any(), name
    assert isinstance(model.blocks[0], Residual) and isinstance(model.blocks, nn.ModuleList)
    assert not model.generate(tokens, 2).requires_grad


def test_a_new_scan_is_nearly_silent():
    """At the start D u goes past the scan: without C little changes, without D all."""
    torch.manual_seed(0)
    layer, x = Mamba(64), torch.randn(2, 128, 64)
    whole = layer(x)

    def change(**parameters):
        y = torch.func.functional_call(layer, parameters, (x,))
        return ((y - whole).norm() / whole.norm()).item()

    silent = layer.x_proj.weight.detach().clone()
    silent[-layer.N :] = 0  # the rows of C
    assert change(**{"x_proj.weight": silent}) < 0.02
    assert change(D=torch.zeros_like(layer.D)) > 0.9
