"""Perceiver IO: outputs decode alone, and Hugging Face's weights give Hugging Face's numbers."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from transformers import (
    PerceiverConfig,
    PerceiverForImageClassificationFourier,
    PerceiverForMaskedLM,
)

from helpers import changed, count_flops, draw, lively, tokens_of
from linear_time import records
from linear_time.perceiver_io import PerceiverImageClassifier, PerceiverIO, PerceiverMaskedLM
from linear_time.pictures.perceiver_io import row_functions

F64 = torch.float64
ROOT = Path(__file__).resolve().parent.parent


def model():
    made = PerceiverIO(5, 4, 12, 6, 3, n_self=2, n_blocks=2, n_heads=3, n_query_heads=2)
    return lively(made, 0.2).to(F64)


def test_forward_is_encode_process_decode():
    io, x, queries = model(), draw(2, 9, 5), draw(2, 7, 6, seed=2)
    z = io.encoder(io.latents.expand(2, -1, -1), x)
    for _ in range(2):
        for layer in io.layers:
            z = layer(z)
    assert torch.equal(io(x, queries), io.head(io.decoder(queries, z)))


def test_every_output_decodes_alone():
    io, x, queries = model(), draw(2, 9, 5), draw(2, 7, 6, seed=2)
    z = io.process(io.encode(x))
    whole = io.decode(z, queries)
    some = torch.tensor([5, 0, 3])
    assert torch.allclose(io.decode(z, queries[:, some]), whole[:, some], rtol=0, atol=1e-13)
    other = queries.clone()
    other[:, 1:] = 9.0
    assert torch.allclose(io.decode(z, other)[:, 0], whole[:, 0], rtol=0, atol=1e-13)


def test_gradients_of_some_outputs_are_those_of_the_whole_restricted():
    io, x, queries = model(), draw(2, 9, 5), draw(2, 8, 6, seed=2)
    some = torch.tensor([1, 6])
    one = torch.autograd.grad(io(x, queries[:, some]).square().sum(), io.latents)[0]
    two = torch.autograd.grad(io(x, queries)[:, some].square().sum(), io.latents)[0]
    assert torch.allclose(one, two, rtol=0, atol=1e-12)


def test_padding_is_ignored_exactly():
    io, x, queries = model(), draw(2, 9, 5), draw(2, 3, 6, seed=2)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 5:] = False
    assert torch.allclose(io(x, queries, mask)[1:], io(x[1:, :5], queries[1:]), rtol=0, atol=1e-13)


def test_a_query_without_residual_is_seen_in_the_weights_only():
    io = model()
    z = draw(1, 4, 12)
    with torch.no_grad():
        io.decoder.attention.query.weight.zero_()  # all queries alike
    y = io.decode(z, draw(1, 5, 6))
    assert torch.allclose(y, y[:, :1].expand_as(y), rtol=0, atol=1e-12)
    io.decoder.query_residual = True
    assert (io.decode(z, draw(1, 5, 6)).diff(dim=1).abs() > 1e-3).any()


def test_widths_that_are_not_given():
    """Those of the input in the encoder, of the latents in the rest; values as wide as the keys."""

    def widths(**given):
        io = PerceiverIO(5, 4, 12, 6, widening=2, n_self=1, **given)
        blocks = (io.encoder, io.layers[0], io.decoder)
        assert [b.mlp[0].out_features for b in blocks] == [24, 24, 6]
        return [(b.attention.query.out_features, b.attention.value.out_features) for b in blocks]

    assert widths() == [(5, 5), (12, 12), (12, 12)]
    assert widths(d_qk=6) == [(6, 6), (6, 6), (12, 12)]
    assert widths(d_qk=6, d_v=3) == [(6, 3), (6, 3), (12, 12)]
    assert widths(d_query_qk=7, d_query_v=2) == [(5, 5), (12, 12), (7, 2)]


def test_heads_of_each_part():
    io = PerceiverIO(6, 4, 12, 6, n_heads=3, n_cross_heads=2, n_query_heads=4)
    parts = (io.layers[0], io.encoder, io.decoder)
    assert [part.attention.n_heads for part in parts] == [3, 2, 4]


def test_latents_start_as_a_truncated_normal():
    torch.manual_seed(0)
    latents = PerceiverIO(4, 512, 64, 4).latents
    assert abs(latents.std().item() - 0.02) < 5e-4 and latents.abs().max() <= 2
    assert latents[0].ne(latents[1]).all()


def test_a_row_is_what_the_weights_say():
    """One output by hand, against the block."""
    io, z, query = model(), draw(1, 4, 12), draw(1, 1, 6)
    block, heads = io.decoder, io.decoder.attention
    q = heads.query(block.norm(query[0, 0]))
    seen = block.context_norm(z[0])
    k, v = heads.key(seen), heads.value(seen)
    read = []
    for part in (slice(0, 6), slice(6, 12)):
        read.append((k[:, part] @ q[part] / 6**0.5).softmax(0) @ v[:, part])
    y = heads.out(torch.cat(read))
    y = y + block.mlp(block.mlp_norm(y))
    assert torch.allclose(io.decode(z, query)[0, 0], io.head(y), rtol=0, atol=1e-12)


def test_the_mean_over_subsamples_is_the_whole():
    """Loss and gradient, over all 15 choices of 2 of 6 outputs; and the variance of the loss."""
    io, x, queries = model(), draw(1, 9, 5), draw(1, 6, 6, seed=2)
    wanted = draw(1, 6, 3, seed=2)

    def loss_and_gradient(some):
        y = io(x, queries[:, some])
        loss = (y - wanted[:, some]).square().mean()
        return loss.detach(), torch.autograd.grad(loss, io.latents)[0]

    whole, slope = loss_and_gradient(list(range(6)))
    pairs = [loss_and_gradient(list(some)) for some in itertools.combinations(range(6), 2)]
    losses = torch.stack([loss for loss, _ in pairs])
    assert torch.allclose(losses.mean(), whole, rtol=0, atol=1e-12)
    assert torch.allclose(torch.stack([g for _, g in pairs]).mean(0), slope, rtol=0, atol=1e-12)
    terms = (io(x, queries) - wanted).square().mean(-1).flatten()
    variance = terms.var() / 2 * (1 - 2 / 6)
    assert torch.allclose(losses.var(correction=0), variance, rtol=0, atol=1e-12)


def test_an_empty_input_reads_zeros():
    io = model()
    nothing = torch.zeros(2, 9, dtype=torch.bool)
    x = draw(2, 9, 5)
    block = io.encoder
    normed = block.norm(io.latents.expand(2, -1, -1))
    read = block.attention(normed, block.context_norm(x), key_mask=nothing)
    assert torch.equal(read, block.attention.out.bias.expand(2, 4, -1))
    y = io(x, draw(2, 3, 6, seed=2), nothing)
    assert torch.isfinite(y).all()
    assert torch.equal(y, io(1e6 * x, draw(2, 3, 6, seed=2), nothing))


def test_cost_is_linear_in_inputs_and_in_outputs_and_in_neither_times_the_other():
    def block(a, b, d, d_kv, d_qk, d_v):
        maps = a * d * d_qk + b * d_kv * (d_qk + d_v) + a * d_v * d
        return 2 * (maps + a * b * (d_qk + d_v) + 2 * a * d * d)

    io = model().requires_grad_(False)
    for n, outputs in ((40, 30), (80, 30), (40, 90)):
        wanted = block(4, n, 12, 5, 5, 5) + 4 * block(4, 4, 12, 12, 12, 12)
        wanted += block(outputs, 4, 6, 12, 12, 12) + 2 * outputs * 6 * 3
        assert count_flops(io, draw(1, n, 5), draw(1, outputs, 6)) == wanted


def test_parameters_are_the_papers():
    """Table 1: 201 M on bytes. The sizes are those of the released configuration."""
    with torch.device("meta"):
        made = PerceiverMaskedLM(
            262,
            768,
            2048,
            n_latents=256,
            d_latent=1280,
            n_self=26,
            n_heads=8,
            n_cross_heads=8,
            d_qk=256,
            d_v=1280,
            n_query_heads=8,
            d_query_qk=256,
            d_query_v=768,
        )
    assert round(sum(p.numel() for p in made.parameters()) / 1e6) == 201
    theirs = PerceiverConfig()
    assert (theirs.num_latents, theirs.d_latents, theirs.d_model) == (256, 1280, 768)
    assert theirs.num_self_attends_per_block == 26 and theirs.vocab_size == 262


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
    theirs = lively(PerceiverForMaskedLM(config), 0.2).eval()
    theirs.save_pretrained(folder)
    return folder, theirs


def test_masked_language_model(language):
    folder, theirs = language
    ours = PerceiverMaskedLM.from_pretrained(folder)
    tokens = tokens_of(2, 20, 30)
    real = torch.ones(2, 20, dtype=torch.bool)
    real[1, 13:] = False
    with torch.no_grad():
        wanted = theirs(tokens, attention_mask=real.long()).logits
        got = ours(tokens, real)
    assert wanted.std() > 0.5
    assert (got - wanted).abs().max() < 1e-5
    some = torch.tensor([3, 17])
    with torch.no_grad():
        assert torch.allclose(ours(tokens, real, some), wanted[:, some], rtol=0, atol=1e-5)
        short = ours(tokens[:, :7])
        wanted = theirs(tokens[:, :7]).logits  # asks at all 20 positions
    assert torch.allclose(short, wanted[:, :7], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    config = PerceiverConfig(**SIZES, num_cross_attention_heads=1, num_blocks=1, num_labels=5)
    folder = tmp_path_factory.mktemp("image")
    theirs = lively(PerceiverForImageClassificationFourier(config), 0.2).eval()
    theirs.save_pretrained(folder)
    return folder, theirs


@pytest.mark.parametrize(("height", "width"), [(12, 15), (2, 9)])
def test_fourier_image_classifier(image, height, width):
    folder, theirs = image
    ours = PerceiverImageClassifier.from_pretrained(folder)
    x = draw(2, 3, height, width, dtype=torch.float32)
    with torch.no_grad():
        wanted, got = theirs(x).logits, ours(x)
    assert got.shape == (2, 5) and wanted.std() > 0.2
    assert (got - wanted).abs().max() < 1e-5


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
        PerceiverImageClassifier.from_pretrained(changed(image[0], tmp_path, settings))


def test_nulls_where_there_is_a_default_shards_and_half_precision(language, tmp_path):
    folder, theirs = language
    theirs = PerceiverForMaskedLM.from_pretrained(folder).bfloat16()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf8"))
    nulls = ("self_attention_widening_factor", "cross_attention_widening_factor", "hidden_act")
    nulls += ("use_query_residual",)
    assert config.keys() >= set(nulls)
    (tmp_path / "config.json").write_text(
        json.dumps({**config, **dict.fromkeys(nulls)}), encoding="utf8"
    )
    tokens = tokens_of(2, 20, 30)
    ours = PerceiverMaskedLM.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    with torch.no_grad():
        wanted = theirs.float().eval()(tokens).logits
        torch.testing.assert_close(ours(tokens), wanted, rtol=1e-5, atol=1e-5)


def test_one_model_is_not_the_other(language, image):
    with pytest.raises(ValueError, match=r"no such key|n_heads"):
        PerceiverImageClassifier.from_pretrained(language[0])
    with pytest.raises(ValueError, match="no such key"):
        PerceiverMaskedLM.from_pretrained(image[0])


def test_the_norms_of_hugging_face_do_not_read_their_setting(language):
    """Code against its own configuration: layer_norm_eps is 1e-12 there and 1e-5 in the norms."""
    _, theirs = language
    assert theirs.config.layer_norm_eps == 1e-12
    norms = [m for m in theirs.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert norms and {norm.eps for norm in norms} == {1e-5}


def test_nothing_real_is_the_mean_of_the_padding_in_hugging_face(language):
    """Paper's code and this book read zeros there; theirs goes on as if all were real and alike."""
    folder, theirs = language
    ours = PerceiverMaskedLM.from_pretrained(folder)
    tokens = tokens_of(2, 20, 30)
    other = tokens.flip(1)
    nothing = torch.zeros(2, 20, dtype=torch.bool)
    with torch.no_grad():
        gap = theirs(tokens, attention_mask=nothing.long()).logits
        gap = gap - theirs(other, attention_mask=nothing.long()).logits
        assert gap.abs().max() > 1e-2  # the padding is read
        assert torch.equal(ours(tokens, nothing), ours(other, nothing))


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


# --- the chapter ---------------------------------------------------------------------------------


def test_right_at_the_pixels_and_free_between_them():
    """Two decoders, equal on a grid, that differ between its points: an alias of a band."""
    points, fine = (torch.linspace(-1, 1, n, dtype=F64)[:, None] for n in (9, 33))
    assert torch.allclose(fine[::4], points)

    def wave(p, f):
        return (torch.pi * f * p).cos()

    # frequencies f and n − 1 − f agree on an odd grid of n points (chapter 08)
    assert torch.allclose(wave(points, 3), wave(points, 5), rtol=0, atol=1e-12)
    assert (wave(fine, 3) - wave(fine, 5)).abs().max() > 1
    torch.manual_seed(0)
    io = lively(PerceiverIO(3, 4, 8, 3, 1), 0.2).double()
    z = io.process(io.encode(draw(1, 5, 3)))
    still = torch.tensor([[1.0, 0.3]], dtype=F64).expand(33, 2)
    queries = [torch.cat([wave(fine, f), still], 1)[None] for f in (3, 5)]
    one, two = (io.decode(z, q)[0] for q in queries)
    assert torch.allclose(one[::4], two[::4], rtol=0, atol=1e-10)
    assert (one - two).abs().max() > 1e-4


def test_the_explorers_functions_agree_at_the_pixels_alone():
    (row, slow), (_, fast) = row_functions(8), row_functions(64)
    for values in (slow, fast):
        assert torch.allclose(values[::20], row, rtol=0, atol=1e-12)
    assert (slow - fast).abs().max() > 0.5
    assert slow.diff().abs().max() < 0.06 < 0.15 < fast.diff().abs().max()


def chosen(record, task, queries):
    runs = record.where(task=task, queries=queries)
    assert [len(seeds) for seeds in runs.by("lr").values()] == [3, 3, 3]
    key = "accuracy" if task == "name" else "mse"
    best = runs.chosen(f"validation.{key}", largest=task == "name")
    return {k: best.values(f"test.{k}") for k in ("mse", "accuracy")}


def test_what_the_chapter_quotes_from_the_record():
    record = records.read("perceiver_io")
    text = (ROOT / "chapters" / "09-perceiver-io.ipynb").read_text(encoding="utf8")
    draw_16, draw_64, name, both = (
        chosen(record, *key) for key in (("draw", 16), ("draw", 64), ("name", 16), ("both", 16))
    )

    def mean(values):
        return sum(values) / len(values)

    for sentence in (
        f"only names gets {100 * mean(name['accuracy']):.1f} % of the digits right, and the one "
        f"that also draws {100 * mean(both['accuracy']):.1f} %",
        f"The error is {mean(both['mse']):.4f} where both are asked, against "
        f"{mean(draw_16['mse']):.4f} for drawing alone",
        f"bring the error to {mean(draw_64['mse']):.4f}, 16 of them to {mean(draw_16['mse']):.4f}",
    ):
        assert sentence in text, sentence
    weights = 512 * 1024 * 50176 * 3  # from all latents of chapter 08 to three colours a pixel
    assert f"by one linear map takes {weights / 1e9:.0f} billion weights" in text
    assert max(name["accuracy"]) < min(both["accuracy"])
    assert max(draw_64["mse"]) < min(draw_16["mse"])
    assert max(draw_16["mse"]) < min(both["mse"])
    assert max(both["mse"]) < 0.6 * min(record.settings["baselines"].values())
    assert mean(both["mse"]) > 0.038 > 0.026  # the two rules of thumb that the chapter computes
    assert mean(draw_64["mse"]) > 0.026 and max(both["accuracy"]) < 0.88
    assert set(record.values("parameters")) == {50_753}
    assert set(record.values("steps")) == {2000} and len(record) == 36


# --- precision, and what is handed on ------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_positions_of_224_pixels_are_rounded_last(dtype):
    model = PerceiverImageClassifier(3, 8, channels=1, n_latents=2)
    wanted = model.tokens(torch.zeros(1, 1, 224, 3, dtype=F64))
    got = model.tokens(torch.zeros(1, 1, 224, 3, dtype=dtype))
    assert got.dtype == dtype
    least = 1e-4 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert (got - wanted).abs().max() < least


def test_wrappers_hand_on_what_they_are_given():
    image = PerceiverImageClassifier(3, 8, 1, n_bands=2, n_latents=2, n_self=3, widening=5)
    inner = [image.io.encoder, *image.io.layers]
    assert [m.mlp[0].out_features for m in inner] == [40] * 4
    assert image.tokens(torch.zeros(1, 1, 2, 2)).shape == (1, 4, 1 + 2 * 5)
    language = lively(PerceiverMaskedLM(9, 8, 5, n_latents=2, d_latent=4, widening=3), 0.2).to(F64)
    inner = [language.io.encoder, *language.io.layers]
    assert [m.mlp[0].out_features for m in inner] == [12] * 2
    tokens, mask = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[True, True, False, False]])
    at = torch.tensor([0, 1])
    assert torch.allclose(language(tokens, mask, at), language(tokens[:, :2]), rtol=0, atol=1e-12)
    assert not torch.allclose(
        language(tokens, None, at), language(tokens[:, :2]), rtol=0, atol=1e-3
    )


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PerceiverIO(5, 4, 12, 0), "d_query: expected"),
        (lambda: PerceiverIO(5, 4, 12, 6, d_out=0), "d_out: expected"),
        (lambda: PerceiverIO(5, 4, 12, 6, n_heads=5), "n_heads: expected a divisor"),
        (lambda: model()(draw(1, 3, 4), draw(1, 2, 6)), r"x: expected shape .*5\)"),
        (lambda: model()(draw(1, 3, 5), draw(1, 2, 7)), r"queries: expected .*outputs, 6\)"),
        (lambda: model()(draw(1, 3, 5), draw(1, 2)), "queries: expected shape"),
        (lambda: model()(draw(1, 3, 5), draw(1, 2, 0)), "queries: expected shape"),
        (
            lambda: model()(draw(2, 3, 5), draw(1, 2, 6)),
            r"queries: expected shape \(2, outputs, 6\)",
        ),
        (lambda: model().process(draw(1, 4, 11)), r"z: expected shape \(batch, 4, 12\)"),
        (lambda: model().decode(draw(4, 12), draw(1, 2, 6)), "z: expected shape"),
        (
            lambda: PerceiverMaskedLM(9, 8, 5, n_latents=2, d_latent=8)(
                torch.zeros(1, 6, dtype=torch.int64)
            ),
            "tokens: expected at most 5 positions, got 6",
        ),
        (
            lambda: PerceiverMaskedLM(9, 8, 5, n_latents=2, d_latent=8)(
                torch.zeros(1, 3, dtype=torch.int64), positions=torch.tensor([5])
            ),
            r"positions: expected .*\(outputs,\), not empty, in 0 … 4, got values from 5",
        ),
        (
            lambda: PerceiverMaskedLM(9, 8, 5, n_latents=2, d_latent=8)(
                torch.zeros(1, 3, dtype=torch.int64), positions=torch.tensor([-1])
            ),
            "positions: expected .*in 0 … 4, got values from -1",
        ),
        (
            lambda: PerceiverMaskedLM(9, 8, 5, n_latents=2, d_latent=8)(torch.tensor([[9]])),
            "tokens: expected .*in 0 … 8, got values from 9",
        ),
        (
            lambda: PerceiverImageClassifier(3, 8, n_latents=2)(torch.zeros(1, 3, 4)),
            "images: expected shape",
        ),
        (
            lambda: PerceiverImageClassifier(3, 8, n_latents=2)(torch.zeros(1, 1, 4, 4)),
            r"images: expected shape \(batch, 3, height, width\)",
        ),
        (lambda: model()(draw(1, 3, 5) / 0, draw(1, 2, 6)), "x: expected finite"),
        (lambda: model()(draw(1, 3, 5), draw(1, 2, 6) / 0), "queries: expected finite"),
        (lambda: model().process(draw(1, 4, 12) / 0), "z: expected finite"),
        (lambda: model().decode(draw(1, 4, 12) / 0, draw(1, 2, 6)), "z: expected finite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
