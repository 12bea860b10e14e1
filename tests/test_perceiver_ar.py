"""Perceiver AR: a Llama at as many latents as positions, causal by two masks, and its caches."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

import contract
from book import ROOT
from helpers import count_flops, lively, tokens_of
from linear_time import checks, datasets, records
from linear_time.cost import llama_cost
from linear_time.decoder import LlamaLM, rotary_embedding
from linear_time.perceiver_ar import PerceiverAR
from linear_time.pictures.perceiver_ar import loss_flops

F64 = torch.float64
BLOCK = {"n_heads": 4, "n_kv_heads": 2, "d_ff": 24}
V, D, LAYERS = 11, 16, 3


def make(n_latents, seed=0, **options):
    torch.manual_seed(seed)
    return lively(PerceiverAR(V, D, LAYERS, n_latents, **BLOCK, **options)).to(F64)


def influence(model, tokens, **masks):
    """Which input position acts on which latent's logits, (latents, length)."""
    x = model.embedding(tokens).detach()

    def run(embedded):
        # The embedding of position t, read where the tokens are.
        hook = model.embedding.register_forward_hook(lambda *_: embedded)
        try:
            return model(tokens, **masks)[0]
        finally:
            hook.remove()

    J = torch.autograd.functional.jacobian(run, x)  # (latents, V, 1, length, d)
    return J.abs().amax(dim=(1, 2, 4))


@pytest.mark.parametrize("tied", [True, False])
def test_with_as_many_latents_as_positions_it_is_the_decoder(tied):
    model, plain = make(9, tied=tied), LlamaLM(V, D, LAYERS, tied, **BLOCK).to(F64)
    plain.load_state_dict(model.state_dict())
    tokens = tokens_of(2, 9, V)
    assert torch.allclose(model(tokens), plain(tokens), rtol=0, atol=1e-13)
    short = tokens[:, :5]
    assert torch.allclose(model(short), plain(short), rtol=0, atol=1e-13)


def test_and_that_decoder_is_transformers(tmp_path):
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=D,
        intermediate_size=24,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    theirs = LlamaForCausalLM(config)
    theirs.save_pretrained(tmp_path)
    plain = LlamaLM.from_pretrained(tmp_path)
    model = PerceiverAR(V, D, LAYERS, 9, eps=1e-6, **BLOCK)
    model.load_state_dict(plain.state_dict())
    tokens = tokens_of(2, 9, V)
    with torch.no_grad():
        assert (model(tokens) - theirs(tokens).logits).abs().max() < 1e-5


@settings(deadline=None, max_examples=15)
@given(length=st.integers(1, 9), n_latents=st.integers(1, 9), seed=st.integers(0, 9))
def test_causal_for_any_number_of_latents(length, n_latents, seed):
    model = make(n_latents, seed)
    reach = influence(model, tokens_of(1, length, V, seed))
    n = min(n_latents, length)
    assert reach.shape == (n, length)
    place = torch.arange(length - n, length)[:, None]  # of each latent
    future = torch.arange(length) > place
    assert (reach[future] == 0).all()
    assert (reach[~future] > 0).all()


def test_each_mask_keeps_the_future_out():
    model, tokens = make(4), tokens_of(1, 8, V)
    future = torch.arange(8) > torch.arange(4, 8)[:, None]
    assert influence(model, tokens)[future].max() == 0
    for name in ("input_mask", "latent_mask"):
        leak = influence(model, tokens, **{name: False})
        assert (leak[future] > 1e-4).all(), name


def test_a_single_layer_sees_the_whole_input_and_has_no_latent_stack():
    torch.manual_seed(0)
    model = PerceiverAR(V, D, 1, 3, **BLOCK).to(F64)
    plain = LlamaLM(V, D, 1, **BLOCK).to(F64)
    plain.load_state_dict(model.state_dict())
    tokens = tokens_of(2, 10, V)
    assert torch.allclose(model(tokens), plain(tokens)[:, -3:], rtol=0, atol=1e-13)


def test_each_switch_belongs_to_its_mask():
    """One layer has no latent stack, so that only the mask of the input matters."""
    torch.manual_seed(0)
    model, tokens = PerceiverAR(V, D, 1, 3, **BLOCK).to(F64), tokens_of(1, 10, V)
    assert torch.equal(model(tokens, latent_mask=False), model(tokens))
    assert not torch.allclose(model(tokens, input_mask=False), model(tokens), rtol=0, atol=1e-4)


def test_more_layers_are_not_a_window_of_the_decoder():
    model, plain = make(3), LlamaLM(V, D, LAYERS, **BLOCK).to(F64)
    plain.load_state_dict(model.state_dict())
    tokens = tokens_of(2, 10, V)
    assert (model(tokens) - plain(tokens)[:, -3:]).abs().max() > 1e-2


@pytest.mark.parametrize("prompt", [2, 4, 7])
def test_steps_from_caches_are_forward_with_growing_latents(prompt):
    model, tokens = make(4), tokens_of(2, 11, V)
    logits, state = model.prefill(tokens[:, :prompt])
    assert torch.allclose(logits, model(tokens[:, :prompt])[:, -1], rtol=0, atol=1e-13)
    kept = min(prompt, 4)
    for t in range(prompt, 11):
        logits, state = model.step(tokens[:, t], state)
        model.n_latents = kept + t + 1 - prompt
        assert torch.allclose(logits, model(tokens[:, : t + 1])[:, -1], rtol=0, atol=1e-12)
        model.n_latents = 4
        assert [c.k.shape[2] for c in state] == [t + 1] + [kept + t + 1 - prompt] * 2


def sliding(model, tokens, prompt):
    """Logits after the last token, and the caches, with one latent dropped for each that comes."""
    logits, state = model.prefill(tokens[:, :prompt])
    for t in range(prompt, tokens.shape[1]):
        logits, state = model.step(tokens[:, t], state, slide=True)
    return logits, state


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_the_cache_slides_up_to_the_second_layer(layers):
    torch.manual_seed(0)
    model = PerceiverAR(V, D, layers, 4, **BLOCK).to(F64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    tokens = tokens_of(2, 11, V)
    logits, state = sliding(model, tokens, 8)
    _, fresh = model.prefill(tokens)
    for i, (old, new) in enumerate(zip(state, fresh, strict=True)):
        same = torch.allclose(old.k, new.k, rtol=0, atol=1e-10) and torch.allclose(
            old.v, new.v, rtol=0, atol=1e-10
        )
        assert same == (i < 2), f"layer {i + 1}"
    gap = (logits - model(tokens)[:, -1]).abs().max()
    assert gap < 1e-10 if layers <= 2 else gap > 1e-2


@pytest.mark.parametrize("m", [1, 3, 5])
def test_a_sliding_cache_is_a_windowed_decoder(m):
    model, tokens = make(m), tokens_of(2, 10, V)
    x = model.embedding(tokens)
    for i, block in enumerate(model.blocks):
        read = block.attention_norm(x)
        starts = [0 if i == 0 else max(0, t + 1 - m) for t in range(10)]
        rows = [block.attention(read[:, s : t + 1])[:, -1] for t, s in enumerate(starts)]
        x = x + torch.stack(rows, 1)
        x = x + block.mlp(block.mlp_norm(x))
    wanted = (model.norm(x) @ model.embedding.weight.T)[:, -1]
    assert torch.allclose(sliding(model, tokens, min(m, 3))[0], wanted, rtol=0, atol=1e-12)


def test_a_sliding_cache_is_not_forward():
    model, tokens = make(4), tokens_of(2, 11, V)
    _, state = model.prefill(tokens[:, :8])
    for t in range(8, 11):
        logits, state = model.step(tokens[:, t], state, slide=True)
    assert [c.k.shape[2] for c in state] == [11, 4, 4]
    assert (logits - model(tokens)[:, -1]).abs().max() > 1e-2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generation_reads_a_whole_forward_each(temperature):
    model, prompt = make(3), tokens_of(2, 5, V)
    out = model.generate(prompt, 4, temperature, seed=1)
    assert torch.equal(out[:, :5], prompt) and out.shape == (2, 9)
    assert torch.equal(out, model.generate(prompt, 4, temperature, seed=1))
    if temperature == 0:
        for t in range(5, 9):
            assert torch.equal(out[:, t], model(out[:, :t])[:, -1].argmax(-1))


def test_a_stride_is_forward_with_fewer_latents():
    """The released sampler's way, with half of the latents: 3, 4, 5, 3, 4, 5, … of 5."""
    model, prompt = make(5), tokens_of(2, 8, V)
    out = model.generate(prompt, 8, 0.0, stride=3)
    for i in range(8):
        logits = model(out[:, : 8 + i], n_latents=3 + i % 3)[:, -1]
        assert torch.equal(out[:, 8 + i], logits.argmax(-1))


@pytest.mark.parametrize("stride", [1, 3, 5])
def test_a_stride_is_one_prefill_and_steps(stride, monkeypatch):
    model, calls = make(5), []
    prefill, step = model.prefill, model.step

    def counted_prefill(*args):
        logits, state = prefill(*args)
        calls.append(("prefill", state[1].k.shape[2]))
        return logits, state

    def counted_step(token, state):
        logits, state = step(token, state)
        calls.append(("step", state[1].k.shape[2]))
        return logits, state

    monkeypatch.setattr(model, "prefill", counted_prefill)
    monkeypatch.setattr(model, "step", counted_step)
    model.generate(tokens_of(1, 8, V), 7, stride=stride)
    first = 5 - stride + 1
    wanted = [("step" if i % stride else "prefill", first + i % stride) for i in range(7)]
    assert calls == wanted


def test_every_stride_draws_from_its_own_logits():
    """With a stride of 1 sampling is as from whole passes; a longer one is another model."""
    model, prompt = make(4), tokens_of(1, 9, V)
    generator, tokens = torch.Generator().manual_seed(3), prompt
    for _ in range(30):
        weights = (model(tokens)[:, -1] / 0.7).softmax(-1)
        new = torch.multinomial(weights, 1, generator=generator)
        tokens = torch.cat([tokens, new], 1)
    assert torch.equal(model.generate(prompt, 30, 0.7, seed=3), tokens)
    assert not torch.equal(model.generate(prompt, 30, 0.7, seed=3, stride=4), tokens)


@pytest.mark.parametrize("n_latents", [1, 4, 20])
def test_the_number_of_latents_is_no_weight(n_latents):
    model, tokens = make(3), tokens_of(2, 9, V)
    other = make(n_latents)
    assert torch.equal(model(tokens, n_latents=n_latents), other(tokens))
    assert torch.equal(model.prefill(tokens, n_latents=n_latents)[0], other.prefill(tokens)[0])


@pytest.mark.parametrize("padding", [1, 4, 7])
def test_padding_on_the_left_is_ignored(padding):
    """With fewer and with more real tokens than latents, whatever stands in the padding."""
    model, tokens = make(5), tokens_of(2, 10, V)
    real = torch.ones(2, 10, dtype=torch.bool)
    real[1, :padding] = False
    logits = model(tokens, mask=real)
    assert torch.allclose(logits[:1], model(tokens[:1]), rtol=0, atol=1e-13)
    kept = min(5, 10 - padding)
    alone = model(tokens[1:, padding:])
    assert torch.allclose(logits[1:, -kept:], alone, rtol=0, atol=1e-12)
    changed = tokens.clone()
    changed[1, :padding] = (changed[1, :padding] + 1) % V
    for masks in ({}, {"input_mask": False}, {"latent_mask": False}):
        one, other = (model(t, mask=real, **masks) for t in (tokens, changed))
        assert torch.equal(one[1, -kept:], other[1, -kept:])


def test_a_latent_that_may_read_nothing_gets_zeros():
    """On padding: its row of scores is empty in the input and among the latents."""
    model, tokens = make(4), tokens_of(1, 6, V)
    mask = torch.tensor([[False] * 4 + [True] * 2])
    x = model.embedding(tokens)[:, 2:4]
    for block in model.blocks:  # attention adds nothing
        x = x + block.mlp(block.mlp_norm(x))
    wanted = model.norm(x) @ model.embedding.weight.T
    logits = model(tokens, mask)
    assert torch.allclose(logits[:, :2], wanted, rtol=0, atol=1e-13)
    assert not torch.allclose(logits[:, 2:], wanted, rtol=0, atol=1e-3)
    loss = logits.sum()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, model.embedding.weight))


def test_the_first_state_and_steps_fit():
    """From nothing on, each token is a latent: the decoder, step by step."""
    model, plain, tokens = make(3), LlamaLM(V, D, LAYERS, **BLOCK).to(F64), tokens_of(2, 7, V)
    plain.load_state_dict(model.state_dict())
    wanted, state = plain(tokens), model.initial_state(2)
    for t in range(7):
        logits, state = model.step(tokens[:, t], state)
        assert torch.allclose(logits, wanted[:, t], rtol=0, atol=1e-12)
        assert [cache.position for cache in state] == [t + 1] * LAYERS


def test_a_state_is_continued_by_a_chunk():
    model, tokens = make(4), tokens_of(2, 11, V)
    _, state = model.prefill(tokens[:, :6])
    logits, after = model.prefill(tokens[:, 6:], state)
    for t in range(6, 11):
        stepped, state = model.step(tokens[:, t], state)
    assert torch.allclose(logits, stepped, rtol=0, atol=1e-12)
    for one, other in zip(after, state, strict=True):
        assert torch.allclose(one.k, other.k, rtol=0, atol=1e-12) and one.position == 11
    assert torch.allclose(logits, model(tokens, n_latents=9)[:, -1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_padded_prompts_are_continued_as_they_are_alone(stride):
    model, prompt = make(4), tokens_of(3, 9, V)
    mask = torch.arange(9) >= torch.tensor([0, 3, 5])[:, None]
    out = model.generate(prompt, 6, 0.0, mask=mask, stride=stride)
    other = prompt.where(mask, (prompt + 1) % V)
    assert torch.equal(model.generate(other, 6, 0.0, mask=mask, stride=stride)[:, 9:], out[:, 9:])
    for row, first in enumerate([0, 3, 5]):
        alone = model.generate(prompt[row : row + 1, first:], 6, 0.0, stride=stride)
        assert torch.equal(out[row, 9:], alone[0, 9 - first :])
    assert not torch.equal(model.generate(prompt, 6, 0.0, stride=stride)[:, 9:], out[:, 9:])
    logits, state = model.prefill(prompt, None, mask)
    for row, first in enumerate([0, 3, 5]):
        wanted, one = model.prefill(prompt[row : row + 1, first:])
        assert torch.allclose(logits[row], wanted[0], rtol=0, atol=1e-12)
        stepped = model.step(prompt[:, 0], state)[0][row]
        assert torch.allclose(
            stepped, model.step(prompt[row : row + 1, 0], one)[0][0], rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("kind", ["PerceiverAR", "LlamaLM"])
def test_a_model_calls_its_blocks_and_not_what_is_inside(kind):
    """What shards or compiles a block wraps its call."""
    model = make(3) if kind == "PerceiverAR" else LlamaLM(V, D, LAYERS, **BLOCK).to(F64)
    calls, inside = [], []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda *_: inside.append(1))
        block.register_forward_hook(lambda *_: (calls.append(1), inside.clear())[0])
        for part in block.modules():
            if part is not block:
                part.register_forward_pre_hook(lambda *_: inside.append(inside[0]))
    model(tokens_of(2, 7, V))
    assert len(calls) == LAYERS


@pytest.mark.parametrize(
    "name",
    [
        "GRU",
        "CausalSelfAttention",
        "CausalSelfAttention, tiled",
        "LlamaBlock",
        "LlamaLM",
        "PerceiverAR",
    ],
)
def test_masks_read_nothing_back(name):
    """On a device without values, as on a GPU that is not to be waited for."""
    module, (values,) = contract.make(name).to("meta"), contract.inputs(name, 2, 6)
    values, mask = values.to("meta"), torch.ones(2, 6, dtype=torch.bool, device="meta")
    with checks(values=False):
        module(values, mask).sum().backward()
        with torch.no_grad():
            _, state = module.prefill(values, None, mask)
            _, state = module.prefill(values, state, mask)
            module.step(values[:, 0], state)


def looking(queries, keys, d):
    return 4 * queries * keys * d


@pytest.mark.parametrize(("d", "layers"), [(16, 3), (64, 5), (4096, 32), (12288, 96)])
def test_a_loss_is_cheaper_from_d_over_the_other_layers_on(d, layers):
    """Weights cost every loss the same; keys of the prefix, 4 d² each, are what latents add."""
    for m in range(1, 2 * d // (layers - 1) + 2):
        n = 4 * m
        decoder = layers * looking(n, n, d)
        few = looking(m, n, d) + (layers - 1) * looking(m, m, d) + 4 * d * d * (n - m)
        assert (few * n < decoder * m) == (m * (layers - 1) > d)


def test_what_takes_gpt_3s_flops():
    d, layers, n = 12288, 96, 2048
    mlp, projections = 2 * 8 * d * d, 2 * 4 * d * d
    seen = 4 * d * (n + 1) / 2  # scores and values of a token, on average
    total = mlp + projections + seen
    assert f"{seen / total:.1%}" == "1.4%" and f"{(mlp + projections) / total:.1%}" == "98.6%"
    assert 0.65 < mlp / total < 0.67
    every = 4 * d * n
    assert f"{every / (mlp + projections + every):.1%}" == "2.7%"
    assert layers * (mlp + projections) / 2 == pytest.approx(175e9, rel=0.01)


def test_the_released_code_has_other_frequencies():
    """Exponents 2 i / d_head for i = 0 … K, both ends included, in K = d_head / 2 even steps."""
    d_head, base = 16, 8192.0
    theirs = base ** -(2 / d_head * np.linspace(0, d_head // 2, d_head // 2))
    cos, sin = rotary_embedding(torch.tensor([1]), d_head, base, F64)
    ours = torch.atan2(sin, cos)[0].numpy()
    assert ours[0] == pytest.approx(1) and theirs[0] == 1
    assert theirs[-1] == pytest.approx(1 / base)
    assert ours[-1] == pytest.approx(base ** (2 / d_head - 1))
    assert (theirs[1:] < 0.99 * ours[1:]).all()


def test_matrix_products_are_the_stated_ones():
    M, N, d, d_ff = 40, 8, D, 24
    model = PerceiverAR(V, d, LAYERS, N, n_heads=4, n_kv_heads=4, d_ff=d_ff)
    model.requires_grad_(False)
    seen = count_flops(model, tokens_of(1, M, V))
    first = 4 * N * d * d + 4 * M * d * d + 4 * N * M * d + 6 * N * d * d_ff
    other = 8 * N * d * d + 4 * N * N * d + 6 * N * d * d_ff
    assert seen == first + (LAYERS - 1) * other + 2 * N * d * V


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PerceiverAR(V, D, 1, 0, **BLOCK), "n_latents: expected"),
        (lambda: make(2)(tokens_of(1, 4, V) + V), "tokens: expected"),
        (lambda: make(2)(tokens_of(1, 4, V).double()), "tokens: expected"),
        (lambda: make(2).prefill(tokens_of(1, 4, V)[0]), "tokens: expected"),
        (lambda: make(2).generate(tokens_of(1, 4, V), 0), "n: expected"),
        (lambda: make(2).generate(tokens_of(1, 4, V), 1, -1.0), "temperature: expected"),
        (
            lambda: make(2).step(tokens_of(1, 4, V), make(2).prefill(tokens_of(1, 4, V))[1]),
            "token: expected",
        ),
        (lambda: make(2)(tokens_of(1, 4, V), n_latents=0), "n_latents: expected"),
        (lambda: make(2).prefill(tokens_of(1, 4, V), n_latents=0), "n_latents: expected"),
        (lambda: make(2).prefill(tokens_of(1, 4, V), 0), "state: expected a list of 3"),
        (
            lambda: make(2).prefill(tokens_of(1, 4, V), make(2).initial_state(1), n_latents=2),
            "n_latents: expected None beside a state",
        ),
        (
            lambda: make(2).step(tokens_of(1, 4, V)[0, :1], make(2).initial_state(1)[:2]),
            "state: expected a list of 3, .* got 2",
        ),
        (
            lambda: make(3).generate(tokens_of(1, 4, V), 2, stride=0),
            "stride: expected .* >= 1, got 0",
        ),
        (
            lambda: make(3).generate(tokens_of(1, 4, V), 2, stride=4),
            "stride: expected .* = 3, got 4",
        ),
        (
            lambda: make(2)(tokens_of(1, 4, V), mask=torch.ones(1, 5, dtype=torch.bool)),
            r"mask: expected shape \(1, 4\) .* of shape \(1, 5\)",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


@pytest.mark.bad_input
def test_bad_input_sliding_padded_rows():
    model, mask = make(2), torch.tensor([[True] * 4, [False] + [True] * 3])
    _, state = model.prefill(tokens_of(2, 4, V), None, mask)
    with pytest.raises(ValueError, match=r"^state: expected no padding"):
        model.step(tokens_of(2, 1, V)[:, 0], state, slide=True)


@pytest.mark.bad_input
def test_bad_input_of_another_type():
    with pytest.raises(TypeError, match=r"^mask: expected a bool tensor"):
        make(2)(tokens_of(1, 4, V), mask=torch.ones(1, 4))


# --- the records that chapter 10 quotes ----------------------------------------------------------


SHAPES = ((256, 256), (256, 128), (256, 64), (128, 128), (64, 64))


def bits_of(record, steps, batch, shape):
    """Of a seed each, at the rate that is best in validation; None: 1,024 losses an update."""
    M, N = shape
    runs = record.where(steps=steps, M=M, N=N, batch=batch or 1024 // N)
    assert all(set(rate.values("seed")) == {0, 1, 2} for rate in runs.by("lr").values())
    best = runs.chosen("validation")
    assert min(runs.values("lr")) < best[0]["lr"] < max(runs.values("lr"))  # not at an end
    return best


def test_what_the_chapter_quotes_from_the_record():
    record = records.read("perceiver_ar")
    text = (ROOT / "chapters" / "10-perceiver-ar.ipynb").read_text(encoding="utf8")
    assert len(record) == 240 and len(set(record.values("parameters"))) == 1
    found = {
        (steps, batch, shape): bits_of(record, steps, batch, shape)
        for steps in (200, 1000)
        for batch in (16, None)
        for shape in SHAPES
    }
    bits = {key: np.mean(runs.values("test")) for key, runs in found.items()}
    updates = {key: runs[0]["updates"] for key, runs in found.items()}
    wide, middle, narrow = SHAPES[:3]
    small = [bits[200, None, shape] for shape in SHAPES]
    large = [bits[1000, None, shape] for shape in SHAPES]
    gap = bits[200, 16, wide] - bits[200, 16, narrow]
    most = max(record.values("losses")) / 1e6
    for sentence in (
        f"on 256 characters has {bits[200, 16, wide]:.2f} bits and 64 latents that read 256 "
        f"characters have {bits[200, 16, narrow]:.2f}",
        f"the decoder has {small[0]:.2f} bits, where it had {bits[200, 16, wide]:.2f}",
        f"Of the {gap:.2f} bits between 256 latents and 64, {small[0] - small[2]:.2f} remain",
        f"have {small[0]:.2f}, {small[1]:.2f} and {small[2]:.2f} bits (and "
        f"{updates[200, None, wide]}, {updates[200, None, middle]} and "
        f"{updates[200, None, narrow]} updates)",
        f"fewer are still ahead, by {small[0] - small[2]:.2f}, where 16 sequences a batch had "
        f"said {gap:.2f}",
        f"they have {large[0]:.2f}, {large[1]:.2f} and {large[2]:.2f}",
        f"characters have {large[3]:.2f} and {large[4]:.2f} at the larger budget",
        f"the shortest gets {updates[1000, None, (64, 64)]:,} updates against "
        f"{updates[1000, None, wide]:,}",
        f"more than {most:.1f} million losses, of a text of 3.7 million characters",
        f"from {small[2] - small[4]:.2f} bits between 64 latents on 256 characters and the "
        f"decoder on 64, to {large[2] - large[4]:.2f}",
        f"this chapter at {record[0]['parameters']:,}",
    ):
        assert sentence in text, sentence
    assert f"{len(datasets.text().parts()[0]) / 1e6:.1f}" == "3.7"
    spreads = [np.ptp(found[1000, None, shape].values("test")) for shape in SHAPES[:3]]
    assert np.ptp(large[:3]) < min(spreads)
    assert large[4] < large[3] < min(large[:3]) and small[4] < small[3] < min(small[:3])
    for key, runs in found.items():  # equal compute, whatever the batch
        compute = [row["updates"] * row["flops_an_update"] for row in runs]
        budget = 3 * 16 * key[0] * 129564672
        assert all(abs(total / budget - 1) < 0.003 for total in compute), key


def test_kernels_that_skip_hidden_scores_double_both_thresholds():
    """Operations by counting every score that a mask leaves; the chapter's two formulas."""

    def looking(n, m, d, layers, skip):
        own = m * (m + 1) // 2 if skip else m * m
        return 4 * d * (m * (n - m) + own + (layers - 1) * own) + 4 * d * d * (n - m)

    for n, m, d, layers in ((300, 40, 64, 5), (1000, 7, 16, 3), (64, 64, 8, 2)):
        for skip in (False, True):
            per_loss = [Fraction(looking(n, k, d, layers, skip), k) for k in (n, m)]
            inside = layers - 2 - Fraction(2 * d, m) if skip else layers - 1 - Fraction(d, m)
            assert per_loss[0] - per_loss[1] == (2 if skip else 4) * d * (n - m) * inside
            for power in (m,):  # the explorer counts the same
                weights = 24 * layers * d * d
                counted = loss_flops(n, power, d, layers, skip)
                assert counted == pytest.approx(float(per_loss[1]) + weights, rel=1e-12)


def test_the_cost_of_a_step_is_chapter_04s():
    d, d_ff, n = 64, 172, 100
    P = 4 * d * d + 3 * d * d_ff
    assert llama_cost(n, d, 4, 4, d_ff).step_flops == 2 * P + 4 * n * d
