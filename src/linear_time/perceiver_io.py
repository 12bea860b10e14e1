"""Chapter 09: any number of inputs, any number of outputs.

Encode: latents read the input. Process: they work on themselves. Decode:
output queries, one for each wanted value, read the latents. Every output
depends on its own query and on the latents, never on the other queries.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from linear_time import _validate, checkpoints
from linear_time.checkpoints import Setting
from linear_time.layer import full
from linear_time.perceiver import CrossAttention, fourier_features, grid


class PerceiverIO(nn.Module):
    """Encode, process, decode: O(n m + layers · m² + outputs · m), m latents.

        z = cross(latents, x),  z ← latent layers, repeated,
        y = W decoder(queries, z) + b.

    Args:
        d_in: width of the tokens that go in.
        n_latents: number of latents.
        d_latent: their width.
        d_query: width of the output queries.
        d_out: width of the outputs; None: d_query, and no last map W.
        n_self: latent layers.
        n_blocks: how often they are run, with the same weights.
        n_heads, n_cross_heads, n_query_heads: heads of the latent layers, of
            the encoder and of the decoder.
        d_qk, d_v: widths inside encoder and latent layers; None: d_in, or
            where that is None, too, as for ``CrossAttention``.
        d_query_qk, d_query_v: widths inside the decoder; None: d_latent.
        widening: as for ``CrossAttention``, in the encoder and the layers.
        query_residual: whether the decoder adds the query to what it read.

    Raises:
        TypeError, ValueError: a size is not a whole number ≥ 1, or does not
            fit.

    Source: Jaegle et al. (2021), "Perceiver IO", section 3 and appendix E.
    """

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        d_latent: int,
        d_query: int,
        d_out: int | None = None,
        n_self: int = 1,
        n_blocks: int = 1,
        n_heads: int = 1,
        n_cross_heads: int = 1,
        n_query_heads: int = 1,
        d_qk: int | None = None,
        d_v: int | None = None,
        d_query_qk: int | None = None,
        d_query_v: int | None = None,
        widening: int = 1,
        query_residual: bool = False,
    ) -> None:
        super().__init__()
        d_in = _validate.count("d_in", d_in)
        n_latents = _validate.count("n_latents", n_latents)
        d_latent = _validate.count("d_latent", d_latent)
        d_query = _validate.count("d_query", d_query)
        n_self = _validate.count("n_self", n_self)
        self.n_blocks = _validate.count("n_blocks", n_blocks)
        self.latents = nn.Parameter(torch.empty(n_latents, d_latent))
        nn.init.trunc_normal_(self.latents, std=0.02, a=-2, b=2)
        self.encoder = CrossAttention(
            d_latent,
            n_cross_heads,
            d_in,
            d_in if d_qk is None else d_qk,
            d_v if d_v is not None else d_in if d_qk is None else d_qk,
            widening,
        )
        self.layers = nn.ModuleList(
            CrossAttention(
                d_latent,
                n_heads,
                d_qk=d_qk,
                d_v=d_v if d_v is not None else d_qk,
                widening=widening,
            )
            for _ in range(n_self)
        )
        self.decoder = CrossAttention(
            d_query,
            n_query_heads,
            d_latent,
            d_latent if d_query_qk is None else d_query_qk,
            d_latent if d_query_v is None else d_query_v,
            query_residual=query_residual,
        )
        self.head: nn.Module = nn.Identity()
        if d_out is not None:
            d_out = _validate.count("d_out", d_out)
            self.head = nn.Linear(d_query, d_out)

    def encode(
        self,
        x: Float[Tensor, "batch n d_in"],
        key_mask: Bool[Tensor, "batch n"] | None = None,
    ) -> Float[Tensor, "batch n_latents d_latent"]:
        """The latents after they have read the input.

        Args:
            x: tokens, (batch, n, d_in), for any n.
            key_mask: True where a token is real; padding has no influence,
                and where nothing is real attention reads zeros.

        Raises:
            TypeError, ValueError: x or key_mask is not as above.
        """
        d_in = self.encoder.attention.d_kv
        _validate.layout("x", x, "batch", "tokens", d_in)
        latents = self.latents.expand(len(x), -1, -1)
        with _validate.inner():
            z: Tensor = self.encoder(latents, x, key_mask)
        return z

    def process(
        self, z: Float[Tensor, "batch n_latents d_latent"]
    ) -> Float[Tensor, "batch n_latents d_latent"]:
        """The latent layers, n_blocks times."""
        _validate.layout("z", z, "batch", *self.latents.shape)
        with _validate.inner():
            for _ in range(self.n_blocks):
                for layer in self.layers:
                    z = layer(z)
        return z

    def decode(
        self,
        z: Float[Tensor, "batch n_latents d_latent"],
        queries: Float[Tensor, "batch outputs d_query"],
    ) -> Float[Tensor, "batch outputs d_out"]:
        """One output a query, each on its own.

        Raises:
            ValueError: queries are not (batch, outputs, d_query), or z is not
                (batch, n_latents, d_latent) of the same batch.
        """
        batch, _, _ = _validate.layout("z", z, "batch", *self.latents.shape)
        self._check_queries(queries, batch)
        with _validate.inner():
            y: Tensor = self.head(self.decoder(queries, z))
        return y

    def forward(
        self,
        x: Float[Tensor, "batch n d_in"],
        queries: Float[Tensor, "batch outputs d_query"],
        key_mask: Bool[Tensor, "batch n"] | None = None,
    ) -> Float[Tensor, "batch outputs d_out"]:
        """``decode(process(encode(x, key_mask)), queries)``."""
        z = self.encode(x, key_mask)
        self._check_queries(queries, len(x))
        with _validate.inner():
            return self.decode(self.process(z), queries)

    def _check_queries(self, queries: Tensor, batch: int) -> None:
        d_query = self.decoder.attention.d_model
        _validate.layout("queries", queries, batch, "outputs", d_query)


class PerceiverMaskedLM(nn.Module):
    """Bytes in, a guess for every position out: Perceiver IO on text.

    Inputs are embeddings plus learned positions, queries learned positions
    of their own, and the embedding is the output map once more.

    Args:
        vocab_size: number of tokens.
        d_model: width of embeddings and queries.
        max_length: number of positions.
        io: the other arguments of ``PerceiverIO``.

    Source: Jaegle et al. (2021), "Perceiver IO", section 4.1, as Hugging
        Face's ``PerceiverForMaskedLM`` has it.
    """

    def __init__(
        self, vocab_size: int, d_model: int, max_length: int, **io: Any
    ) -> None:
        super().__init__()
        vocab_size = _validate.count("vocab_size", vocab_size)
        d_model = _validate.count("d_model", d_model)
        max_length = _validate.count("max_length", max_length)
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.position = nn.Embedding(max_length, d_model)
        self.queries = nn.Parameter(torch.empty(max_length, d_model))
        self.io = PerceiverIO(d_model, d_query=d_model, **io)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        for weight in (self.embedding.weight, self.position.weight):
            nn.init.normal_(weight, std=0.02)
        nn.init.normal_(self.queries, std=0.02)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "PerceiverMaskedLM":
        """The model in a folder that ``PerceiverForMaskedLM`` was saved to.

        Raises:
            FileNotFoundError, ValueError: as ``checkpoints.read`` and
                ``checkpoints.load``; or settings that it does not have.
        """
        config, tensors = checkpoints.read(folder)
        arguments = _arguments(MASKED_LM, config, tensors)
        d_model = arguments["d_model"]
        # Three that are not among the settings.
        model = cls(
            **arguments, n_query_heads=8, d_query_qk=256, d_query_v=d_model
        )
        MASKED_LM.load(model, tensors)
        return model

    def forward(
        self,
        tokens: Int[Tensor, "batch length"],
        key_mask: Bool[Tensor, "batch length"] | None = None,
        positions: Int[Tensor, " outputs"] | None = None,
    ) -> Float[Tensor, "batch outputs vocab_size"]:
        """Logits of the tokens at some positions, every one if None.

        Args:
            tokens: (batch, length), length ≤ max_length.
            key_mask: True where a token is real.
            positions: which outputs to compute, whole numbers from 0 on;
                None: those of the tokens.

        Raises:
            TypeError, ValueError: an argument is not as above.
        """
        vocab_size, longest = len(self.bias), len(self.queries)
        _validate.tokens("tokens", tokens, ("batch", "length"), vocab_size)
        if tokens.shape[1] > longest:
            raise ValueError(
                f"tokens: expected at most {longest} positions, "
                f"got {tokens.shape[1]}"
            )
        at = torch.arange(tokens.shape[1], device=tokens.device)
        wanted = at
        if positions is not None:
            _validate.tokens("positions", positions, ("outputs",), longest)
            wanted = positions
        x = self.embedding(tokens) + self.position(at)
        queries = self.queries[wanted].expand(len(tokens), -1, -1)
        with _validate.inner():
            y = self.io(x, queries, key_mask)
        return nn.functional.linear(y, self.embedding.weight, self.bias)


class PerceiverImageClassifier(nn.Module):
    """Pixels with Fourier positions in, one query and its class out.

    Args:
        n_classes: number of classes.
        channels: of the image.
        n_bands, max_frequency: as for ``fourier_features``.
        io: the other arguments of ``PerceiverIO``.

    Source: Jaegle et al. (2021), "Perceiver IO", section 4.4, as Hugging
        Face's ``PerceiverForImageClassificationFourier`` has it.
    """

    def __init__(
        self,
        n_classes: int,
        d_latent: int,
        channels: int = 3,
        n_bands: int = 64,
        max_frequency: float | int = 224,
        **io: Any,
    ) -> None:
        super().__init__()
        n_classes = _validate.count("n_classes", n_classes)
        d_latent = _validate.count("d_latent", d_latent)
        channels = _validate.count("channels", channels)
        n_bands = _validate.count("n_bands", n_bands)
        self.channels = channels
        self.n_bands, self.max_frequency = n_bands, max_frequency
        self.io = PerceiverIO(
            channels + 2 * (2 * n_bands + 1),
            d_latent=d_latent,
            d_query=d_latent,
            d_out=n_classes,
            query_residual=True,
            **io,
        )
        self.query = nn.Parameter(torch.empty(1, d_latent))
        nn.init.normal_(self.query, std=0.02)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "PerceiverImageClassifier":
        """From a folder of ``PerceiverForImageClassificationFourier``.

        Raises:
            FileNotFoundError, ValueError: as ``checkpoints.read`` and
                ``checkpoints.load``; or settings that it does not have.
        """
        config, tensors = checkpoints.read(folder)
        arguments = _arguments(IMAGE_CLASSIFIER, config, tensors)
        labels = arguments.pop("labels")
        model = cls(len(labels) or 2, **arguments)
        IMAGE_CLASSIFIER.load(model, tensors)
        return model

    def tokens(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch pixels d_in"]:
        """Each pixel with its position: (batch, height · width, d_in)."""
        batch, _, height, width = _validate.layout(
            "images", images, "batch", self.channels, "height", "width"
        )
        pixels = images.flatten(2).mT
        # Made in full, and rounded last: half precision has neither the
        # digits of 224 positions in a row, nor those of their angles.
        dtype, device = full(images).dtype, images.device
        points = grid(height, width, dtype=dtype, device=device)
        with _validate.inner():
            where = fourier_features(points, self.n_bands, self.max_frequency)
        where = where.to(images.dtype).expand(batch, -1, -1)
        return torch.cat([pixels, where], dim=-1)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch n_classes"]:
        """The logits of each image, of any size."""
        x = self.tokens(images)
        query = self.query.expand(len(images), -1, -1)
        with _validate.inner():
            y: Tensor = self.io(x, query)[:, 0]
        return y


def _arguments(
    layout: checkpoints.Layout,
    config: dict[str, Any],
    tensors: dict[str, Tensor],
) -> dict[str, Any]:
    """A model's arguments; two settings are one argument here."""
    arguments = layout.arguments(config, tensors)
    widths = arguments["widening"], arguments.pop("cross_widening")
    if widths[0] != widths[1]:
        raise ValueError(
            "config.json: expected equal widening factors, "
            f"got {widths[0]} and {widths[1]}"
        )
    return arguments


_SETTINGS = {
    "n_latents": Setting("num_latents", int),
    "d_latent": Setting("d_latents", int),
    "n_self": Setting("num_self_attends_per_block", int),
    "n_blocks": Setting("num_blocks", int, 1),
    "n_heads": Setting("num_self_attention_heads", int),
    "n_cross_heads": Setting("num_cross_attention_heads", int),
    "d_qk": Setting("qk_channels", int, None),
    "d_v": Setting("v_channels", int, None),
    "widening": Setting("self_attention_widening_factor", int, 1),
    "cross_widening": Setting("cross_attention_widening_factor", int, 1),
}
_ONLY: dict[str, Any] = {
    "hidden_act": "gelu",
    "use_query_residual": True,
    "cross_attention_shape_for_attention": "kv",
}
_PARTS = {
    "norm": "attention.self.layernorm1",
    "context_norm": "attention.self.layernorm2",
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.out": "attention.output.dense",
    "mlp_norm": "layernorm",
    "mlp.0": "mlp.dense1",
    "mlp.2": "mlp.dense2",
}


def _keys(decoder: str) -> dict[str, str]:
    """Those of PerceiverIO, whose decoder has another name in each model."""
    places = {
        "io.encoder": "perceiver.encoder.cross_attention",
        "io.layers.*": "perceiver.encoder.self_attends.*",
        "io.decoder": f"{decoder}decoding_cross_attention",
    }
    keys = {
        f"{place}.{part}": f"{there}.{name}"
        for place, there in places.items()
        for part, name in _PARTS.items()
    }
    return {**keys, "io.latents": "perceiver.embeddings.latents"}


#: Folders of Hugging Face's PerceiverForMaskedLM.
MASKED_LM = checkpoints.Layout(
    model_type="perceiver",
    settings={
        "vocab_size": Setting("vocab_size", int),
        "d_model": Setting("d_model", int),
        "max_length": Setting("max_position_embeddings", int),
        **_SETTINGS,
    },
    only=_ONLY,
    keys={
        **_keys("perceiver.decoder."),
        "embedding": "perceiver.input_preprocessor.embeddings",
        "position": "perceiver.input_preprocessor.position_embeddings",
        "queries": "perceiver.decoder.output_position_encodings."
        "position_embeddings",
        "bias": "embedding_decoder.bias",
    },
)

#: Folders of Hugging Face's PerceiverForImageClassificationFourier, whose 64
#: bands and 224 pixels a side are not among the settings.
IMAGE_CLASSIFIER = checkpoints.Layout(
    model_type="perceiver",
    settings={"labels": Setting("id2label", dict, {}), **_SETTINGS},
    only=_ONLY,
    keys={
        **_keys("perceiver.decoder.decoder."),
        "io.head": "perceiver.decoder.decoder.final_layer",
        "query": "perceiver.decoder.decoder.output_position_encodings."
        "position_embeddings",
    },
)
