"""Every mixer: forward equals the stepped form, causal, row by row, trainable, clear errors.

A new mixer joins MIXERS, and every test of its interface runs for it.
"""

import math
from typing import NamedTuple

import pytest
import torch
from torch import nn

from helpers import draw, stepped, tokens_of
from linear_time.attention import CausalSelfAttention
from linear_time.decoder import GroupedQueryAttention, LlamaBlock
from linear_time.mamba import Mamba
from linear_time.mixer import (
    LanguageModel,
    Residual,
    SequenceClassifier,
    SequenceMixer,
)
from linear_time.recurrent import GRU, ElmanRNN
from linear_time.s4 import S4, S4D
from linear_time.selective import Selective

F32, F64 = torch.float32, torch.float64
D_MODEL = 6


class RunningMean(SequenceMixer):
    """A mixer without an FFT, for the exact zeros: y_t = w ⊙ mean(x_0 … x_t)."""

    def __init__(self, d_model):
        super().__init__(d_model)
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, d_model))

    def forward(self, x):
        self.check_input(x)
        count = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)
        return self.weight * x.cumsum(1) / count[:, None]

    def initial_state(self, batch_size, device=None, dtype=None):
        return 0, torch.zeros(batch_size, self.d_model, device=device, dtype=dtype)

    def step(self, x_t, state):
        self.check_input(x_t, "x_t")
        count, total = state[0] + 1, state[1] + x_t
        return self.weight * total / count, (count, total)


class Case(NamedTuple):
    make: object  # d_model -> SequenceMixer
    uses_fft: bool


def louder(mixer):
    """The same with weights four times as large: else the residual drowns it in a greedy test."""
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter *= 4
    return mixer


MIXERS = {
    "running_mean": Case(RunningMean, False),
    "residual": Case(lambda d: Residual(RunningMean(d)), False),
    "s4": Case(lambda d: S4(d, N=16), True),
    "s4d": Case(lambda d: S4D(d, N=16), True),
    "s4d_bilinear": Case(lambda d: S4D(d, N=8, init="inv", rule="bilinear"), True),
    "s4d_real": Case(lambda d: S4D(d, N=8, init="real"), True),
    "residual_s4": Case(lambda d: Residual(S4(d, N=4)), True),
    "elman_rnn": Case(ElmanRNN, False),
    "gru": Case(GRU, False),
    "gru_memory": Case(lambda d: GRU(d, memory=100), False),
    "attention": Case(lambda d: louder(CausalSelfAttention(d, n_heads=math.gcd(d, 2))), False),
    "attention_tiled": Case(lambda d: louder(CausalSelfAttention(d, n_heads=1, block=7)), False),
    "grouped_query": Case(lambda d: GroupedQueryAttention(d, 4, 2, d_head=4), False),
    "llama": Case(lambda d: LlamaBlock(d, 4, 2, d_ff=10, d_head=2), False),
    "selective": Case(lambda d: louder(Selective(d, N=4)), False),
    "selective_zoh": Case(lambda d: louder(Selective(d, N=4, rule="zero_order_hold")), False),
    "selective_lti": Case(lambda d: louder(Selective(d, 4, None, False, False)), False),
    "mamba": Case(lambda d: louder(Mamba(d)), False),
    "mamba_block": Case(lambda d: Residual(louder(Mamba(d, N=3, expand=3, taps=2))), False),
}
every_mixer = pytest.mark.parametrize("name", MIXERS)
both_dtypes = pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-8), (F32, 1e-4)])


def make(name, dtype=F64, d_model=D_MODEL):
    torch.manual_seed(0)
    return MIXERS[name].make(d_model).to(dtype)


def jacobian(mixer, x):
    """|J| summed over channels: (length out, length in), for one row of a batch."""
    J = torch.autograd.functional.jacobian(lambda row: mixer(row[None])[0], x)
    return J.abs().amax(dim=(1, 3))


# --- the interface -------------------------------------------------------------------------------


@every_mixer
@both_dtypes
@pytest.mark.parametrize("length", [1, 2, 37, 256])
@torch.no_grad()
def test_forward_is_step_by_step(name, dtype, tolerance, length):
    mixer = make(name, dtype)
    x = draw(3, length, D_MODEL, dtype=dtype)
    y = mixer(x)
    assert y.shape == x.shape and y.dtype == dtype
    assert (stepped(mixer, x)[0] - y).abs().max() <= tolerance * y.abs().max()


@every_mixer
@torch.no_grad()
def test_forward_is_step_by_step_at_a_thousand_and_after_a_parameter_update(name):
    mixer = make(name)
    for parameter in mixer.parameters():
        parameter += 0.05 * draw(*parameter.shape, seed=3)
    x = draw(1, 1001, D_MODEL)
    y = mixer(x)
    assert (stepped(mixer, x)[0] - y).abs().max() <= 1e-8 * y.abs().max()


@every_mixer
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-12), (F32, 1e-5)])
@pytest.mark.parametrize("length", [1, 9, 16])
def test_causal_by_the_jacobian(name, dtype, tolerance, length):
    J = jacobian(make(name, dtype), draw(length, D_MODEL, dtype=dtype))
    above = J.triu(1).max()
    if MIXERS[name].uses_fft:
        assert above <= tolerance * J.max()
    else:
        assert above == 0
    assert (J.tril() > 0)[torch.ones(length, length).tril() > 0].all()  # all of the past is read


@every_mixer
def test_causal_when_stepped(name):
    mixer = make(name)
    x = draw(1, 8, D_MODEL)
    J = torch.autograd.functional.jacobian(lambda row: stepped(mixer, row[None])[0][0], x[0])
    assert J.abs().amax(dim=(1, 3)).triu(1).max() == 0


@every_mixer
@torch.no_grad()
def test_batch_rows_do_not_mix(name):
    mixer = make(name)
    x = draw(4, 11, D_MODEL)
    y = mixer(x)
    other = x.clone()
    other[2] += 1
    changed = (mixer(other) - y).abs().amax(dim=(1, 2))
    assert changed[2] > 1e-3 and (changed[[0, 1, 3]] == 0).all()
    torch.testing.assert_close(mixer(x[2:3])[0], y[2], rtol=1e-12, atol=1e-12)
    assert (stepped(mixer, other)[0] - stepped(mixer, x)[0])[[0, 1, 3]].abs().max() == 0


@every_mixer
@pytest.mark.parametrize("run", ["forward", "step"])
def test_gradients_reach_every_parameter(name, run):
    mixer = make(name)
    x = draw(2, 9, D_MODEL).requires_grad_()
    y = mixer(x) if run == "forward" else stepped(mixer, x)[0]
    (y * draw(2, 9, D_MODEL, seed=2)).sum().backward()
    for parameter_name, parameter in [("x", x), *mixer.named_parameters()]:
        gradient = parameter.grad
        assert gradient is not None, parameter_name
        assert torch.isfinite(gradient).all() and (gradient != 0).any(), parameter_name


@every_mixer
def test_both_forms_have_the_same_gradients(name):
    x = draw(2, 9, D_MODEL)
    gradients = []
    for run in (lambda mixer: mixer(x), lambda mixer: stepped(mixer, x)[0]):
        mixer = make(name)
        run(mixer).square().sum().backward()
        gradients.append([parameter.grad for parameter in mixer.parameters()])
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-10)


@every_mixer
@torch.no_grad()
def test_a_step_leaves_the_state_it_was_given(name):
    mixer = make(name)
    x = draw(2, 2, D_MODEL)
    _, state = mixer.step(x[:, 0], mixer.initial_state(2, dtype=F64))
    first, _ = mixer.step(x[:, 1], state)
    again, _ = mixer.step(x[:, 1], state)
    assert torch.equal(first, again)


@every_mixer
@torch.no_grad()
def test_one_mixer_serves_several_lengths(name):
    mixer = make(name)
    x = draw(2, 50, D_MODEL)
    y = mixer(x)
    for length in (1, 20, 49, 50):
        torch.testing.assert_close(mixer(x[:, :length]), y[:, :length], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["s4", "s4d", "residual_s4"])
@torch.no_grad()
def test_default_state_takes_the_precision_of_the_parameters(name):
    for dtype in (F32, F64):
        y, state = (mixer := make(name, dtype)).step(
            draw(2, D_MODEL, dtype=dtype), mixer.initial_state(2)
        )
        assert y.dtype == dtype and state.dtype == dtype.to_complex()


@every_mixer
@torch.no_grad()
def test_one_channel(name):
    mixer = make(name, d_model=1)
    x = draw(2, 5, 1)
    torch.testing.assert_close(stepped(mixer, x)[0], mixer(x), rtol=1e-9, atol=1e-9)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.bad_input
@every_mixer
@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (
            draw(2, 5, D_MODEL + 1),
            ValueError,
            r"^x: expected shape \(batch, length, 6\).*\(2, 5, 7\)",
        ),
        (draw(5, D_MODEL), ValueError, r"^x: expected shape .*got a float64 .*\(5, 6\)"),
        (draw(1, 2, 5, D_MODEL), ValueError, r"^x: expected shape .*\(1, 2, 5, 6\)"),
        (draw(2, 0, D_MODEL), ValueError, r"^x: .*without empty dimensions.*\(2, 0, 6\)"),
        (draw(0, 2, D_MODEL), ValueError, r"^x: .*without empty dimensions.*\(0, 2, 6\)"),
        (draw(2, 5, D_MODEL) / 0, ValueError, "^x: expected finite values, got 60"),
        (torch.ones(2, 5, D_MODEL, dtype=torch.int64), TypeError, "^x: .*got an int64 tensor"),
        (torch.ones(2, 5, D_MODEL, dtype=torch.complex128), TypeError, "^x: .*complex128"),
        ([[[0.0] * D_MODEL]], TypeError, "^x: .*got a list"),
    ],
)
def test_bad_input_forward(name, x, kind, message):
    with pytest.raises(kind, match=message):
        make(name)(x)


@pytest.mark.bad_input
@every_mixer
@pytest.mark.parametrize(
    ("x_t", "kind", "message"),
    [
        (draw(2, D_MODEL + 1), ValueError, r"^x_t: expected shape \(batch, 6\).*\(2, 7\)"),
        (draw(2, 1, D_MODEL), ValueError, r"^x_t: expected shape \(batch, 6\).*\(2, 1, 6\)"),
        (draw(D_MODEL), ValueError, r"^x_t: expected shape \(batch, 6\).*\(6,\)"),
        (torch.ones(2, D_MODEL, dtype=torch.int32), TypeError, "^x_t: .*int32"),
    ],
)
def test_bad_input_step(name, x_t, kind, message):
    mixer = make(name)
    with pytest.raises(kind, match=message):
        mixer.step(x_t, mixer.initial_state(2, dtype=F64))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("d_model", "kind"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)]
)
@pytest.mark.parametrize("kind_of_mixer", [SequenceMixer, S4, S4D])
def test_bad_input_width(kind_of_mixer, d_model, kind):
    with pytest.raises(kind, match=f"^d_model: expected a whole number >= 1, got {d_model}"):
        kind_of_mixer(d_model)


def test_the_base_class_is_abstract():
    mixer = SequenceMixer(2)
    with pytest.raises(NotImplementedError):
        mixer(torch.zeros(1, 1, 2))
    with pytest.raises(NotImplementedError):
        mixer.initial_state(1)
    with pytest.raises(NotImplementedError):
        mixer.step(torch.zeros(1, 2), None)


# --- Residual ------------------------------------------------------------------------------------


@torch.no_grad()
def test_residual_is_x_plus_the_mixer_of_the_norm():
    mixer = RunningMean(D_MODEL).double()
    block = Residual(mixer).double()
    x = draw(2, 5, D_MODEL)
    rms = x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5)
    torch.testing.assert_close(block(x), x + mixer(rms), rtol=1e-12, atol=1e-12)
    plain = Residual(mixer, nn.Identity())
    torch.testing.assert_close(plain(x), x + mixer(x), rtol=1e-12, atol=1e-12)


# --- LanguageModel -------------------------------------------------------------------------------

VOCAB = 11


def language_model(name="s4d", n_layer=2):
    torch.manual_seed(0)
    model = LanguageModel(lambda: Residual(MIXERS[name].make(D_MODEL)), VOCAB, D_MODEL, n_layer)
    model = model.double()
    nn.init.normal_(model.embedding.weight)  # far from ties
    nn.init.normal_(model.norm.weight)  # else the tied head mostly repeats the last token
    return model


@every_mixer
@torch.no_grad()
def test_greedy_generation_is_the_argmax_of_forward(name):
    model = language_model(name)
    prompt = tokens_of(3, 5, VOCAB)
    out = model.generate(prompt, 12, temperature=0)
    assert out.shape == (3, 17) and out.dtype == torch.int64
    assert torch.equal(out[:, :5], prompt)
    expected = prompt
    for _ in range(12):  # the slow way: a whole forward for every token
        likeliest = model(expected)[:, -1].argmax(-1)
        expected = torch.cat([expected, likeliest[:, None]], dim=1)
    assert torch.equal(out, expected)
    assert len(out[:, 5:].unique()) > 1


@torch.no_grad()
def test_model_steps_are_its_forward():
    model = language_model("s4")
    tokens = tokens_of(2, 40, VOCAB)
    logits = model(tokens)
    assert logits.shape == (2, 40, VOCAB)
    state, outputs = model.initial_state(2), []
    for token in tokens.unbind(1):
        y, state = model.step(token, state)
        outputs.append(y)
    difference = (torch.stack(outputs, 1) - logits).abs().max()
    assert difference <= 1e-8 * logits.abs().max()


@torch.no_grad()
def test_model_is_embedding_blocks_norm_and_tied_head():
    model = language_model("running_mean", n_layer=3)
    tokens = tokens_of(2, 4, VOCAB)
    x = model.embedding.weight[tokens]
    for block in model.blocks:
        x = block(x)
    x = model.norm.weight * x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5)
    torch.testing.assert_close(model(tokens), x @ model.embedding.weight.T)
    assert len({id(block) for block in model.blocks}) == 3


def test_model_gradients_reach_every_parameter():
    model = language_model("s4")
    logits = model(tokens_of(2, 9, VOCAB))
    nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens_of(2, 9, VOCAB, seed=2).flatten()
    ).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and (parameter.grad != 0).any(), name


def test_embedding_starts_small():
    torch.manual_seed(0)
    weight = LanguageModel(lambda: RunningMean(64), 500, 64, 1).embedding.weight
    assert math.isclose(weight.std().item(), 0.02, rel_tol=0.05)


def test_sampling_is_seeded():
    model, prompt = language_model(), tokens_of(4, 3, VOCAB)
    one = model.generate(prompt, 20, temperature=5.0, seed=7)
    torch.manual_seed(99)  # the global generator has no part in it
    assert torch.equal(one, model.generate(prompt, 20, temperature=5.0, seed=7))
    assert not torch.equal(one, model.generate(prompt, 20, temperature=5.0, seed=8))


def test_sampling_has_the_softmax_frequencies():
    model = language_model("running_mean", n_layer=1)
    prompt = torch.full((20_000, 1), 3)
    with torch.no_grad():
        expected = torch.softmax(model(prompt[:1])[0, 0] / 2.0, dim=-1)
    drawn = model.generate(prompt, 1, temperature=2.0)[:, 1]
    frequency = torch.bincount(drawn, minlength=VOCAB) / len(drawn)
    assert (frequency - expected).abs().max() < 0.015


def test_a_tiny_temperature_is_greedy():
    model, prompt = language_model(), tokens_of(2, 3, VOCAB)
    greedy = model.generate(prompt, 6, temperature=0)
    for temperature in (1e-4, 1e-320):
        assert torch.equal(model.generate(prompt, 6, temperature=temperature), greedy)


def test_generation_keeps_no_graph():
    model = language_model()
    assert not model.generate(tokens_of(1, 2, VOCAB), 2).requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


TOKENS = tokens_of(2, 3, VOCAB)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (TOKENS[0], r"int64 or int32 of shape \(batch, length\).*got an int64 .*\(3,\)"),
        (TOKENS[:, :0], r"not empty.*got an int64 .*\(2, 0\)"),
        (TOKENS.double(), "got a float64 tensor"),
        (TOKENS.bool(), "got a bool tensor"),
        (TOKENS.to(torch.uint8), "got a uint8 tensor"),
        (TOKENS - 9, "in 0 … 10, got values from -"),
        (TOKENS + 11, "in 0 … 10, got values from 1"),
        (torch.tensor([[0, 11]]), "in 0 … 10, got values from 0 to 11"),
        ([[1, 2]], "got a list"),
    ],
)
def test_bad_input_tokens(tokens, message):
    model = language_model()
    with pytest.raises(ValueError, match=f"^tokens: .*{message}"):
        model(tokens)
    with pytest.raises(ValueError, match=f"^prompt: .*{message}"):
        model.generate(tokens, 1)


@pytest.mark.bad_input
@pytest.mark.parametrize("token", [TOKENS, TOKENS[:, 0] + 11, TOKENS[:, 0].double()])
def test_bad_input_model_step(token):
    model = language_model()
    with pytest.raises(ValueError, match=r"^token: expected int64 or int32 of shape \(batch,\)"):
        model.step(token, model.initial_state(2))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"n": 0}, ValueError, "^n: expected a whole number >= 1, got 0"),
        ({"n": 1.5}, TypeError, "^n: .*got 1.5"),
        ({"n": 1, "temperature": -1.0}, ValueError, "^temperature: expected .* >= 0, got -1"),
        ({"n": 1, "temperature": math.nan}, ValueError, "^temperature: .*got nan"),
        ({"n": 1, "temperature": math.inf}, ValueError, "^temperature: .*got inf"),
    ],
)
def test_bad_input_generate(options, kind, message):
    with pytest.raises(kind, match=message):
        language_model().generate(TOKENS, **options)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((0, 4, 1), ValueError, "^vocab_size: "),
        ((5, 0, 1), ValueError, "^d_model: "),
        ((5, 4, 0), ValueError, "^n_layer: "),
        ((5, 4, 1.0), TypeError, "^n_layer: "),
        ((5, 5, 1), ValueError, "^block: expected blocks of width 5, got 4"),
    ],
)
def test_bad_input_model(arguments, kind, message):
    with pytest.raises(kind, match=message):
        LanguageModel(lambda: RunningMean(4), *arguments)


@pytest.mark.parametrize("read", ["mean", "last"])
def test_classifier_is_its_definition(read):
    torch.manual_seed(0)
    model = SequenceClassifier(lambda: Residual(S4D(6, N=4)), 3, 5, 6, 2, read).double()
    x = torch.randn(2, 7, 3, dtype=F64)
    h = x @ model.embedding.weight.T + model.embedding.bias
    for block in model.blocks:
        h = h + block.mixer(block.norm(h))
    h = h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt() * model.norm.weight
    r = h.mean(1) if read == "mean" else h[:, -1]
    wanted = r @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(x), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.bad_input
def test_bad_input_classifier():
    make = lambda: Residual(S4D(6, N=4))  # noqa: E731
    with pytest.raises(ValueError, match="read: expected one of"):
        SequenceClassifier(make, 3, 5, 6, 1, "first")
    with pytest.raises(ValueError, match="block: expected blocks of width 4, got 6"):
        SequenceClassifier(make, 3, 5, 4, 1)
    model = SequenceClassifier(make, 3, 5, 6, 1)
    for x in (torch.zeros(2, 7), torch.zeros(2, 7, 4)):
        with pytest.raises(ValueError, match=r"x: expected shape \(batch, length, 3\)"):
            model(x)
