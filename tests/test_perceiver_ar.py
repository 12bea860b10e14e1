"""Perceiver AR: a Llama at as many latents as positions, causal by two masks, and its caches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from linear_time.decoder import LlamaLM
from linear_time.perceiver_ar import PerceiverAR

F64 = torch.float64
BLOCK = {"n_heads": 4, "n_kv_heads": 2, "d_ff": 24}
V, D, LAYERS = 11, 16, 3


def make(n_latents, seed=0, **options):
    torch.manual_seed(seed)
    model = PerceiverAR(V, D, LAYERS, n_latents, **BLOCK, **options).to(F64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def draw(batch, length, seed=0):
    return torch.randint(V, (batch, length), generator=torch.Generator().manual_seed(seed))


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
    tokens = draw(2, 9)
    assert torch.allclose(model(tokens), plain(tokens), atol=1e-13)
    short = tokens[:, :5]
    assert torch.allclose(model(short), plain(short), atol=1e-13)


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
    tokens = draw(2, 9)
    with torch.no_grad():
        assert (model(tokens) - theirs(tokens).logits).abs().max() < 1e-5


@settings(deadline=None, max_examples=15)
@given(length=st.integers(1, 9), n_latents=st.integers(1, 9), seed=st.integers(0, 9))
def test_causal_for_any_number_of_latents(length, n_latents, seed):
    model = make(n_latents, seed)
    reach = influence(model, draw(1, length, seed))
    n = min(n_latents, length)
    assert reach.shape == (n, length)
    place = torch.arange(length - n, length)[:, None]  # of each latent
    future = torch.arange(length) > place
    assert (reach[future] == 0).all()
    assert (reach[~future] > 0).all()


def test_each_mask_keeps_the_future_out():
    model, tokens = make(4), draw(1, 8)
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
    tokens = draw(2, 10)
    assert torch.allclose(model(tokens), plain(tokens)[:, -3:], atol=1e-13)


def test_more_layers_are_not_a_window_of_the_decoder():
    model, plain = make(3), LlamaLM(V, D, LAYERS, **BLOCK).to(F64)
    plain.load_state_dict(model.state_dict())
    tokens = draw(2, 10)
    assert (model(tokens) - plain(tokens)[:, -3:]).abs().max() > 1e-2


@pytest.mark.parametrize("prompt", [2, 4, 7])
def test_steps_from_caches_are_forward_with_growing_latents(prompt):
    model, tokens = make(4), draw(2, 11)
    logits, state = model.prefill(tokens[:, :prompt])
    assert torch.allclose(logits, model(tokens[:, :prompt])[:, -1], atol=1e-13)
    kept = min(prompt, 4)
    for t in range(prompt, 11):
        logits, state = model.step(tokens[:, t], state)
        model.n_latents = kept + t + 1 - prompt
        assert torch.allclose(logits, model(tokens[:, : t + 1])[:, -1], atol=1e-12)
        model.n_latents = 4
        assert state.position == t + 1
        assert [c.k.shape[2] for c in state.caches] == [t + 1] + [kept + t + 1 - prompt] * 2


def test_a_sliding_cache_is_not_forward():
    model, tokens = make(4), draw(2, 11)
    _, state = model.prefill(tokens[:, :8])
    for t in range(8, 11):
        logits, state = model.step(tokens[:, t], state, slide=True)
    assert [c.k.shape[2] for c in state.caches] == [11, 4, 4]
    assert (logits - model(tokens)[:, -1]).abs().max() > 1e-2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generation_reads_a_whole_forward_each(temperature):
    model, prompt = make(3), draw(2, 5)
    out = model.generate(prompt, 4, temperature, seed=1)
    assert torch.equal(out[:, :5], prompt) and out.shape == (2, 9)
    assert torch.equal(out, model.generate(prompt, 4, temperature, seed=1))
    if temperature == 0:
        for t in range(5, 9):
            assert torch.equal(out[:, t], model(out[:, :t])[:, -1].argmax(-1))


def test_matrix_products_are_the_stated_ones():
    M, N, d, d_ff = 40, 8, D, 24
    model = PerceiverAR(V, d, LAYERS, N, n_heads=4, n_kv_heads=4, d_ff=d_ff)
    model.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        model(draw(1, M))
    first = 4 * N * d * d + 4 * M * d * d + 4 * N * M * d + 6 * N * d * d_ff
    other = 8 * N * d * d + 4 * N * N * d + 6 * N * d * d_ff
    assert counter.get_total_flops() == first + (LAYERS - 1) * other + 2 * N * d * V


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PerceiverAR(V, D, 1, 0, **BLOCK), "n_latents: expected"),
        (lambda: make(2)(draw(1, 4) + V), "tokens: expected"),
        (lambda: make(2)(draw(1, 4).double()), "tokens: expected"),
        (lambda: make(2).prefill(draw(1, 4)[0]), "tokens: expected"),
        (lambda: make(2).generate(draw(1, 4), 0), "n: expected"),
        (lambda: make(2).generate(draw(1, 4), 1, -1.0), "temperature: expected"),
        (
            lambda: make(2).step(draw(1, 4), make(2).prefill(draw(1, 4))[1]),
            "token: expected",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
