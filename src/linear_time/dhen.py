"""Chapter 07: interactions between features, side by side and in depth.

Every interaction module maps the embeddings of n_in features to n_out new
ones of the same width, (batch, n_in, d) → (batch, n_out, d): a compressor of
one width. A DHEN layer runs several on the same input and ensembles them; a
stack of layers multiplies the order of interaction, 2, 4, 8 …
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from linear_time import _validate
from linear_time.attention import MultiHeadAttention
from linear_time.compression import Compressor, LinearCompression
from linear_time.layer import full, without_autocast

ENSEMBLES = ("concat", "sum", "weighted")


def factorization_machine(
    x: Float[Tensor, "batch n d"],
) -> Float[Tensor, "batch d"]:
    """All pairs in linear time: Σ_{i<j} x_i ⊙ x_j.

        Σ_{i<j} x_i ⊙ x_j = ½ ((Σ_i x_i)² − Σ_i x_i²),

    O(n d) in the place of O(n² d). Its sum over the channels is the
    second-order term of a factorization machine, Σ_{i<j} ⟨x_i, x_j⟩.

    Args:
        x: embeddings, (batch, n, d), each times its feature's value.

    Raises:
        TypeError, ValueError: x is not as above.

    Source: Rendle (2010), "Factorization Machines", lemma 3.1.
    """
    _validate.layout("x", x, "batch", "n", "d")
    wide = full(x)  # the difference of two sums of squares
    return ((wide.sum(1).square() - wide.square().sum(1)) / 2).to(x.dtype)


class FactorizationMachine(Compressor):
    """Inner products of all features, read by a network.

        y = reshape(MLP(LayerNorm(flatten(x xᵀ)))),  or x (xᵀ Y) for x xᵀ

    with a learned Y (n_in, rank): n_in · rank products in the place of n_in².
    An attentive Y is computed from x, Y = reshape(MLP(flatten(W x))), with a
    learned W (rank, n_in).

    Args:
        n_in, n_out: number of features in and out.
        d: their width.
        rank: columns of Y; None: all products, x xᵀ.
        hidden: widths of the MLP's hidden layers; (): a linear map.
        norm: whether the products are normalised.
        attentive: widths of the hidden layers of the MLP that makes Y from
            x; None: Y is a matrix of numbers. Needs a rank.

    Raises:
        TypeError, ValueError: a size is not a whole number ≥ 1, or attentive
            is given and rank is not.

    Source: Zhang et al. (2024), "Wukong", section 3, the factorization
        machine block (FMB).
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        d: int,
        rank: int | None = None,
        hidden: Sequence[int] = (),
        norm: bool = True,
        attentive: Sequence[int] | None = None,
    ) -> None:
        n_in, d = _sizes(n_in, d)
        super().__init__(n_out, n_in, d)
        self.factor = self.make_factor = None
        if rank is not None:
            rank = _validate.count("rank", rank)
        if attentive is not None:
            if rank is None:
                raise ValueError(
                    "rank: expected a number where attentive is given, got None"
                )
            self.make_factor = nn.Sequential(
                LinearCompression(n_in, rank),
                nn.Flatten(),
                mlp(rank * d, attentive, n_in * rank),
                nn.Unflatten(1, (n_in, rank)),
            )
        elif rank is not None:
            self.factor = nn.Parameter(torch.randn(n_in, rank) * n_in**-0.5)
        n_products = n_in * (n_in if rank is None else rank)
        self.norm = nn.LayerNorm(n_products) if norm else nn.Identity()
        self.head = mlp(n_products, hidden, self.n_out * d)

    def forward(
        self, x: Float[Tensor, "batch n_in d"]
    ) -> Float[Tensor, "batch n_out d"]:
        self.check_input(x)
        factor = self.factor
        if self.make_factor is not None:
            with _validate.inner():
                factor = self.make_factor(x)  # one a row, (batch, n_in, rank)
        # Products of features leave the range of float16 long before their
        # norm does: both are at least float32.
        with without_autocast(x):
            wide = full(x)
            right = wide.mT
            if factor is not None:
                right = right @ full(factor)
            products = (wide @ right).flatten(1)  # (batch, n_in · n_in or rank)
            if isinstance(self.norm, nn.LayerNorm):
                products = functional.layer_norm(
                    products,
                    self.norm.normalized_shape,
                    full(self.norm.weight),
                    full(self.norm.bias),
                    self.norm.eps,
                )
        y: Tensor = self.head(products.to(x.dtype))
        return y.unflatten(1, (self.n_out, -1))


class CrossNetwork(Compressor):
    """DCN-v2: x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l, on all n_in · d numbers.

    Each cross layer adds one to the order of interaction. The bias stands
    inside the product with x_0.

    Args:
        n_in, n_out: number of features in and out; LCE follows where they
            differ.
        d: their width.
        depth: number of cross layers.

    Raises:
        TypeError, ValueError: a size is not a whole number ≥ 1.

    Source: Wang et al. (2021), "DCN V2", equation 1.
    """

    def __init__(self, n_in: int, n_out: int, d: int, depth: int = 1) -> None:
        n_in, d = _sizes(n_in, d)
        super().__init__(n_out, n_in, d)
        depth = _validate.count("depth", depth)
        self.layers = nn.ModuleList(
            nn.Linear(n_in * d, n_in * d) for _ in range(depth)
        )
        self.resize = _resize(n_in, self.n_out)

    def forward(
        self, x: Float[Tensor, "batch n_in d"]
    ) -> Float[Tensor, "batch n_out d"]:
        self.check_input(x)
        x_0 = x_l = x.flatten(1)  # (batch, n_in · d)
        for layer in self.layers:
            x_l = x_0 * layer(x_l) + x_l
        with _validate.inner():
            y: Tensor = self.resize(x_l.reshape(x.shape))
        return y


class SelfAttention(Compressor):
    """Every feature reads every feature, without a mask.

    Args:
        n_in, n_out: number of features in and out; LCE follows where they
            differ.
        d: their width.
        n_heads: a divisor of d.

    Raises:
        TypeError, ValueError: a size is not as above.
    """

    def __init__(self, n_in: int, n_out: int, d: int, n_heads: int = 1) -> None:
        n_in, d = _sizes(n_in, d)
        super().__init__(n_out, n_in, d)
        self.heads = MultiHeadAttention(d, n_heads, bias=False)
        self.resize = _resize(n_in, self.n_out)

    def forward(
        self, x: Float[Tensor, "batch n_in d"]
    ) -> Float[Tensor, "batch n_out d"]:
        self.check_input(x)
        with _validate.inner():
            y: Tensor = self.resize(self.heads(x))
        return y


class Convolution(Compressor):
    """The features as a grey image of n_in × d pixels, filtered.

    Args:
        n_in, n_out: number of features in and out; LCE follows where they
            differ.
        d: their width.
        kernel: height and width of the filter, odd.

    Raises:
        TypeError, ValueError: a size is not as above.
    """

    def __init__(self, n_in: int, n_out: int, d: int, kernel: int = 3) -> None:
        n_in, d = _sizes(n_in, d)
        super().__init__(n_out, n_in, d)
        kernel = _validate.count("kernel", kernel)
        if kernel % 2 == 0:
            raise ValueError(f"kernel: expected an odd number, got {kernel}")
        self.filter = nn.Conv2d(1, 1, kernel, padding=kernel // 2)
        self.resize = _resize(n_in, self.n_out)

    def forward(
        self, x: Float[Tensor, "batch n_in d"]
    ) -> Float[Tensor, "batch n_out d"]:
        self.check_input(x)
        with _validate.inner():
            y: Tensor = self.resize(self.filter(x[:, None])[:, 0])
        return y


class MLP(Compressor):
    """A network on all n_in · d numbers at once.

    Args:
        n_in, n_out: number of features in and out.
        d: their width.
        hidden: widths of the hidden layers; (): a linear map.

    Raises:
        TypeError, ValueError: a size is not a whole number ≥ 1.
    """

    def __init__(
        self, n_in: int, n_out: int, d: int, hidden: Sequence[int]
    ) -> None:
        n_in, d = _sizes(n_in, d)
        super().__init__(n_out, n_in, d)
        self.network = mlp(n_in * d, hidden, self.n_out * d)

    def forward(
        self, x: Float[Tensor, "batch n_in d"]
    ) -> Float[Tensor, "batch n_out d"]:
        self.check_input(x)
        y: Tensor = self.network(x.flatten(1))
        return y.unflatten(1, (self.n_out, -1))


class DHENLayer(Compressor):
    """Several interactions of one input, their ensemble, and a shortcut.

        y = Norm(Ensemble_i(I_i(x)) + shortcut(x)),

    with shortcut(x) = x, or W x where the number of features changes.

    Args:
        interactions: modules I_i (batch, n_in, d) → (batch, n_i, d).
        d: width of the features.
        ensemble: "concat", n_out = Σ n_i; or, for equal n_i = n_out, "sum" or
            "weighted", Σ_i w_i I_i(x) with learned w_i that start at 1.
        norm: whether there is a LayerNorm on the features' width.

    Raises:
        TypeError, ValueError: no interactions, their sizes do not fit, or
            the ensemble is unknown.

    Source: Zhang et al. (2022), "DHEN: A Deep and Hierarchical Ensemble
        Network for Large-Scale Click-Through Rate Prediction", section 3.
    """

    def __init__(
        self,
        interactions: Sequence[Compressor],
        d: int,
        ensemble: str = "concat",
        norm: bool = True,
    ) -> None:
        _validate.one_of("ensemble", ensemble, ENSEMBLES)
        d = _validate.count("d", d)
        n_ins = [one.n_in for one in interactions]
        n_outs = [one.n_out for one in interactions]
        if len(set(n_ins)) != 1 or n_ins[0] is None:
            raise ValueError(
                "interactions: expected at least one, all of the same fixed "
                f"n_in, got n_in {n_ins}"
            )
        if any(one.d_in not in (None, d) for one in interactions):
            raise ValueError(
                f"interactions: expected width {d}, "
                f"got {[one.d_in for one in interactions]}"
            )
        if ensemble != "concat" and len(set(n_outs)) != 1:
            raise ValueError(
                f"interactions: expected equal n_out for {ensemble!r}, "
                f"got n_out {n_outs}"
            )
        n_out = sum(n_outs) if ensemble == "concat" else n_outs[0]
        super().__init__(n_out, n_ins[0], d)
        self.ensemble = ensemble
        self.interactions = nn.ModuleList(interactions)
        if ensemble == "weighted":
            self.weights = nn.Parameter(torch.ones(len(n_outs)))
        self.shortcut = _resize(n_ins[0], n_out)
        self.norm = nn.LayerNorm(d) if norm else nn.Identity()

    def forward(
        self, x: Float[Tensor, "batch n_in d"]
    ) -> Float[Tensor, "batch n_out d"]:
        self.check_input(x)
        with _validate.inner():
            outputs = [interaction(x) for interaction in self.interactions]
            shortcut = self.shortcut(x)
        if self.ensemble == "concat":
            mixed = torch.cat(outputs, dim=1)
        else:
            mixed = torch.stack(outputs, dim=-1)  # (…, interactions)
            if self.ensemble == "weighted":
                mixed = mixed * self.weights
            mixed = mixed.sum(-1)
        y: Tensor = self.norm(mixed + shortcut)
        return y


class DHEN(Compressor):
    """A stack of DHEN layers.

    Args:
        layer: makes a layer, called as ``layer(n_in)`` with the number of
            features that the layer before leaves.
        n_in: number of features that go into the first layer.
        d: their width.
        depth: number of layers.

    Raises:
        TypeError, ValueError: a size is not a whole number ≥ 1, or a layer
            does not fit the one before.

    Source: as ``DHENLayer``.
    """

    def __init__(
        self,
        layer: Callable[[int], Compressor],
        n_in: int,
        d: int,
        depth: int,
    ) -> None:
        n_in, d = _sizes(n_in, d)
        depth = _validate.count("depth", depth)
        layers, n = [], n_in
        for _ in range(depth):
            made = layer(n)
            if (made.n_in, made.d_in) != (n, d):
                raise ValueError(
                    f"layer: expected one of n_in {n} and width {d}, "
                    f"got {made.n_in} and {made.d_in}"
                )
            layers.append(made)
            n = made.n_out
        super().__init__(n, n_in, d)
        self.layers = nn.ModuleList(layers)

    def forward(
        self, x: Float[Tensor, "batch n_in d"]
    ) -> Float[Tensor, "batch n_out d"]:
        self.check_input(x)
        with _validate.inner():
            for layer in self.layers:
                x = layer(x)
        return x


class Wukong(DHEN):
    """The smallest DHEN: a factorization machine beside LCE.

        x ← LayerNorm([FMB(x); LCB(x)] + shortcut(x))

    FMB multiplies, LCB keeps what is there: layer l has interactions of
    orders 1 … 2^l.

    Args:
        n_in: number of features.
        d: their width.
        depth: number of layers.
        n_fm, n_lcb: features that come from FMB and from LCB, each layer.
        rank, hidden, attentive: as for ``FactorizationMachine``.
        norm: whether there are norms, in the layers and in FMB.

    Raises:
        TypeError, ValueError: a size is not a whole number ≥ 1.

    Source: Zhang et al. (2024), "Wukong: Towards a Scaling Law for
        Large-Scale Recommendation", section 3.
    """

    def __init__(
        self,
        n_in: int,
        d: int,
        depth: int,
        n_fm: int,
        n_lcb: int,
        rank: int | None = None,
        hidden: Sequence[int] = (),
        norm: bool = True,
        attentive: Sequence[int] | None = None,
    ) -> None:
        def layer(n: int) -> DHENLayer:
            machine = FactorizationMachine(
                n, n_fm, d, rank, hidden, norm, attentive
            )
            return DHENLayer(
                [machine, LinearCompression(n, n_lcb)], d, norm=norm
            )

        super().__init__(layer, n_in, d, depth)


def mlp(d_in: int, hidden: Sequence[int], d_out: int) -> nn.Sequential:
    """Linear layers with ReLU between them, none after the last."""
    hidden = [_validate.count("hidden", width) for width in hidden]
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise((d_in, *hidden, d_out)):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _sizes(n_in: int, d: int) -> tuple[int, int]:
    """(n_in, d), both given: an interaction fixes both."""
    return _validate.count("n_in", n_in), _validate.count("d", d)


def _resize(n_in: int, n_out: int) -> nn.Module:
    """The identity, or LCE where the number of tokens changes."""
    if n_in == n_out:
        return nn.Identity()
    return LinearCompression(n_in, n_out)
