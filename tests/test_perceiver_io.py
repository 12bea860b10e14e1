"""Perceiver IO: outputs decode alone, and Hugging Face's weights give Hugging Face's numbers."""

import json

import pytest
import torch
from transformers import (
    PerceiverConfig,
    PerceiverForImageClassificationFourier,
    PerceiverForMaskedLM,
)

from linear_time.perceiver_io import PerceiverImageClassifier, PerceiverIO, PerceiverMaskedLM

F64 = torch.float64


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def lively(module):
    """Far from the start, where the logits are nearly equal."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return module.eval()


def model():
    made = PerceiverIO(5, 4, 12, 6, 3, n_self=2, n_blocks=2, n_heads=3, n_query_heads=2)
    return lively(made).to(F64)


def test_forward_is_encode_process_decode():
    io, x, queries = model(), draw(2, 9, 5), draw(2, 7, 6, seed=1)
    z = io.encoder(io.latents.expand(2, -1, -1), x)
    for _ in range(2):
        for layer in io.layers:
            z = layer(z)
    assert torch.equal(io(x, queries), io.head(io.decoder(queries, z)))


def test_every_output_decodes_alone():
    io, x, queries = model(), draw(2, 9, 5), draw(2, 7, 6, seed=1)
    z = io.process(io.encode(x))
    whole = io.decode(z, queries)
    some = torch.tensor([5, 0, 3])
    assert torch.allclose(io.decode(z, queries[:, some]), whole[:, some], atol=1e-13)
    other = queries.clone()
    other[:, 1:] = 9.0
    assert torch.allclose(io.decode(z, other)[:, 0], whole[:, 0], atol=1e-13)


def test_gradients_of_some_outputs_are_those_of_the_whole_restricted():
    io, x, queries = model(), draw(2, 9, 5), draw(2, 8, 6, seed=1)
    some = torch.tensor([1, 6])
    one = torch.autograd.grad(io(x, queries[:, some]).square().sum(), io.latents)[0]
    two = torch.autograd.grad(io(x, queries)[:, some].square().sum(), io.latents)[0]
    assert torch.allclose(one, two, atol=1e-12)


def test_padding_is_ignored_exactly():
    io, x, queries = model(), draw(2, 9, 5), draw(2, 3, 6, seed=1)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 5:] = False
    assert torch.allclose(io(x, queries, mask)[1:], io(x[1:, :5], queries[1:]), atol=1e-13)


def test_a_query_without_residual_is_seen_in_the_weights_only():
    io = model()
    z = draw(1, 4, 12)
    with torch.no_grad():
        io.decoder.attention.query.weight.zero_()  # all queries alike
    y = io.decode(z, draw(1, 5, 6))
    assert torch.allclose(y, y[:, :1].expand_as(y), atol=1e-12)
    io.decoder.query_residual = True
    assert (io.decode(z, draw(1, 5, 6)).diff(dim=1).abs() > 1e-3).any()


# --- Hugging Face --------------------------------------------------------------------------------

SIZES = {
    "num_latents": 6,
    "d_latents": 32,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 4,
    "attention_probs_dropout_prob": 0.0,
}


@pytest.fixture(scope="module", params=["own widths", "default widths"])
def language(request, tmp_path_factory):
    widths = {"qk_channels": 16, "v_channels": 32} if request.param == "own widths" else {}
    config = PerceiverConfig(
        **SIZES,
        **widths,
        d_model=48,
        num_blocks=2,
        num_cross_attention_heads=4,
        max_position_embeddings=20,
        vocab_size=30,
    )
    folder = tmp_path_factory.mktemp("language")
    theirs = lively(PerceiverForMaskedLM(config))
    theirs.save_pretrained(folder)
    return folder, theirs


def test_masked_language_model(language):
    folder, theirs = language
    ours = PerceiverMaskedLM.from_pretrained(folder)
    tokens = torch.randint(30, (2, 20), generator=torch.Generator().manual_seed(0))
    real = torch.ones(2, 20, dtype=torch.bool)
    real[1, 13:] = False
    with torch.no_grad():
        wanted = theirs(tokens, attention_mask=real.long()).logits
        got = ours(tokens, real)
    assert wanted.std() > 0.5
    assert (got - wanted).abs().max() < 1e-5
    some = torch.tensor([3, 17])
    with torch.no_grad():
        assert torch.allclose(ours(tokens, real, some), wanted[:, some], atol=1e-5)
        short = ours(tokens[:, :7])
        wanted = theirs(tokens[:, :7]).logits  # asks at all 20 positions
    assert torch.allclose(short, wanted[:, :7], atol=1e-5)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    config = PerceiverConfig(**SIZES, num_cross_attention_heads=1, num_blocks=1, num_labels=5)
    folder = tmp_path_factory.mktemp("image")
    theirs = lively(PerceiverForImageClassificationFourier(config))
    theirs.save_pretrained(folder)
    return folder, theirs


@pytest.mark.parametrize(("height", "width"), [(12, 15), (2, 9)])
def test_fourier_image_classifier(image, height, width):
    folder, theirs = image
    ours = PerceiverImageClassifier.from_pretrained(folder)
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, got = theirs(x).logits, ours(x)
    assert got.shape == (2, 5) and wanted.std() > 0.2
    assert (got - wanted).abs().max() < 1e-5


def changed(folder, tmp_path, **settings):
    config = json.loads((folder / "config.json").read_text()) | settings
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "llama"}, "config.json: expected model_type = 'perceiver'"),
        ({"hidden_act": "relu"}, "config.json: expected hidden_act = 'gelu'"),
        ({"use_query_residual": False}, "config.json: expected use_query_residual"),
        ({"self_attention_widening_factor": 2}, "config.json: expected equal widening factors"),
        ({"num_latents": 7}, r"perceiver.embeddings.latents: expected shape \(7, 32\)"),
        ({"num_self_attends_per_block": 3}, "perceiver.encoder.self_attends.2"),
    ],
)
def test_settings_that_do_not_fit(image, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        PerceiverImageClassifier.from_pretrained(changed(image[0], tmp_path, **settings))


def test_one_model_is_not_the_other(language, image):
    with pytest.raises(ValueError, match=r"no such key|n_heads"):
        PerceiverImageClassifier.from_pretrained(language[0])
    with pytest.raises(ValueError, match="no such key"):
        PerceiverMaskedLM.from_pretrained(image[0])


def test_where_hugging_faces_subsampled_queries_stand():
    """Paper against code: its full grid ends at +1, its subsampled points at 1 − 2/n."""
    from transformers.models.perceiver.modeling_perceiver import PerceiverBasicDecoder

    decoder = PerceiverBasicDecoder(
        PerceiverConfig(d_latents=8),
        output_num_channels=2,
        position_encoding_type="fourier",
        output_index_dims=(4, 4),
        num_channels=10,
        fourier_position_encoding_kwargs={
            "num_bands": 2,
            "max_resolution": (4, 4),
            "concat_pos": True,
        },
    )
    full = decoder.decoder_query(torch.zeros(1, 3, 4, 4))
    last = decoder.decoder_query(torch.zeros(1, 3, 4, 4), subsampled_points=torch.tensor([15]))
    assert torch.allclose(full[0, -1, :2], torch.ones(2))
    assert torch.allclose(last[0, 0, :2], torch.full((2,), 0.5))


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PerceiverIO(5, 4, 12, 0), "d_query: expected"),
        (lambda: PerceiverIO(5, 4, 12, 6, d_out=0), "d_out: expected"),
        (lambda: PerceiverIO(5, 4, 12, 6, n_heads=5), "n_heads: expected a divisor"),
        (lambda: model()(draw(1, 3, 4), draw(1, 2, 6)), r"context: expected shape .*5\)"),
        (lambda: model()(draw(1, 3, 5), draw(1, 2, 7)), r"x: expected shape \(batch, tokens, 6\)"),
        (lambda: model()(draw(1, 3, 5), draw(1, 2)), "x: expected shape"),
        (
            lambda: PerceiverMaskedLM(9, 8, 5, n_latents=2, d_latent=8)(
                torch.zeros(1, 6, dtype=torch.int64)
            ),
            "tokens: expected shape .* 1 to 5 positions",
        ),
        (
            lambda: PerceiverMaskedLM(9, 8, 5, n_latents=2, d_latent=8)(
                torch.zeros(1, 3, dtype=torch.int64), positions=torch.tensor([5])
            ),
            "positions: expected whole numbers from 0 to 4",
        ),
        (
            lambda: PerceiverImageClassifier(3, 8, n_latents=2)(torch.zeros(1, 3, 4)),
            "images: expected shape",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
