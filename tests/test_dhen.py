"""Interactions against brute force and scikit-learn, order against depth, the chapter's record."""

import importlib
import itertools
import sys
import types

import numpy as np
import pytest
import sympy
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.preprocessing import PolynomialFeatures
from torch import nn
from torch.nn import functional

from book import ROOT
from helpers import close, draw
from linear_time import records
from linear_time.compression import LinearCompression, MeanPooling
from linear_time.datasets import movielens
from linear_time.dhen import (
    DHEN,
    MLP,
    Convolution,
    CrossNetwork,
    DHENLayer,
    FactorizationMachine,
    SelfAttention,
    Wukong,
    factorization_machine,
    mlp,
)
from linear_time.ranking import per_user_split
from linear_time.ranking_scores import scores
from linear_time.records import unpacked

F64 = torch.float64
N, D = 5, 4


def seeded(build):
    torch.manual_seed(0)
    return build().double()


# --- the factorization machine -------------------------------------------------------------------


@given(n=st.integers(1, 7), d=st.integers(1, 5), seed=st.integers(0, 99))
def test_fm_is_scikit_learns_pairs(n, d, seed):
    """Per channel, the sum of the features that PolynomialFeatures makes of pairs."""
    x = draw(3, n, d, seed=seed)
    pairs = PolynomialFeatures(2, interaction_only=True, include_bias=False)
    for channel in range(d):
        made = pairs.fit_transform(x[:, :, channel].numpy())[:, n:]  # (batch, pairs)
        expected = torch.from_numpy(made).sum(1)
        close(factorization_machine(x)[:, channel], expected, 1e-10)


@given(n=st.integers(1, 7), seed=st.integers(0, 99))
def test_fm_summed_is_all_inner_products(n, seed):
    x = draw(2, n, D, seed=seed)
    expected = torch.zeros(2, dtype=F64)
    for i, j in itertools.combinations(range(n), 2):
        expected += (x[:, i] * x[:, j]).sum(-1)
    close(factorization_machine(x).sum(-1), expected, 1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fm_of_half_precision_is_that_of_its_numbers(dtype):
    """One large feature and small ones: both sums of squares are beyond float16, the pairs not."""
    x = 0.1 * draw(3, 5, 4)
    x[:, 2] = 300
    x = x.to(dtype)
    got = factorization_machine(x)
    assert got.dtype == dtype
    close(got.double(), factorization_machine(x.double()), 2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_beyond_half_precision_are_normalised(rank, dtype):
    """100 times as large, the products leave float16; normalised, they are what they were."""
    machine = seeded(lambda: FactorizationMachine(N, 2, 64, rank, (8,))).to(dtype)
    x = (100 * draw(2, N, 64)).to(dtype)
    assert not torch.isfinite(x.half() @ x.half().mT).all()
    got = machine(x)
    wanted = machine.double()(x.double())
    assert got.dtype == dtype
    assert (got.double() - wanted).abs().max() < 10 * torch.finfo(dtype).eps * wanted.abs().max()


def test_fm_identity_in_sympy():
    x = sympy.symbols("x:6")
    pairs = sum(a * b for a, b in itertools.combinations(x, 2))
    fast = (sum(x) ** 2 - sum(a**2 for a in x)) / 2
    assert sympy.expand(pairs - fast) == 0


@torch.no_grad()
@pytest.mark.parametrize("rank", [None, 1, 3])
def test_fm_block_by_loops(rank):
    block = seeded(lambda: FactorizationMachine(N, 2, D, rank, hidden=(6,)))
    x = draw(3, N, D)
    Y = torch.eye(N, dtype=F64) if rank is None else block.factor
    for row in range(3):
        products = torch.tensor(
            [
                [
                    sum((x[row, i] @ x[row, j]) * Y[j, k] for j in range(N))
                    for k in range(Y.shape[1])
                ]
                for i in range(N)
            ]
        ).flatten()
        centred = products - products.mean()
        normed = centred / torch.sqrt(centred.square().mean() + 1e-5)
        first, second = block.head[0], block.head[2]
        hidden = (first.weight @ normed + first.bias).relu()
        close(block(x)[row], (second.weight @ hidden + second.bias).reshape(2, D), 1e-9)


def test_fm_block_counts():
    block = FactorizationMachine(N, 2, D, rank=3, hidden=(6,))
    expected = N * 3 + 2 * 15 + (15 + 1) * 6 + (6 + 1) * 2 * D
    assert sum(p.numel() for p in block.parameters()) == expected
    assert isinstance(FactorizationMachine(N, 2, D, norm=False).norm, nn.Identity)
    torch.manual_seed(0)
    factor = FactorizationMachine(100, 1, 1, rank=50).factor
    assert factor.std().item() == pytest.approx(0.1, rel=0.05)


@torch.no_grad()
def test_attentive_fm_block_by_loops():
    """Y is made of V x by a network, for each row of the batch its own."""
    block = seeded(lambda: FactorizationMachine(N, 2, D, rank=3, attentive=(6,)))
    x = draw(3, N, D)
    assert block.factor is None
    compress, network = block.make_factor[0], block.make_factor[2]
    for row in range(3):
        read = (compress.weight @ x[row]).flatten()  # 3 · D numbers
        hidden = (network[0].weight @ read + network[0].bias).relu()
        Y = (network[2].weight @ hidden + network[2].bias).reshape(N, 3)
        products = (x[row] @ x[row].T @ Y).flatten()[None]
        normed = functional.layer_norm(products, (N * 3,))
        expected = (normed @ block.head[0].weight.T + block.head[0].bias).reshape(2, D)
        close(block(x)[row], expected, 1e-9)
    model = seeded(lambda: Wukong(N, D, 2, 2, 1, rank=3, attentive=(6,)))
    assert all(layer.interactions[0].factor is None for layer in model.layers)


@given(n=st.integers(1, 9), d=st.integers(1, 5), seed=st.integers(0, 99))
def test_as_many_columns_as_the_width_hold_all_products(n, d, seed):
    """X Xᵀ has rank d at most: it comes back from X (Xᵀ Y) with k = min(n, d) columns."""
    x, Y = draw(n, d, seed=seed), draw(n, min(n, d), seed=seed + 1)
    few = x @ (x.T @ Y)
    core = Y.T @ few
    assume(torch.linalg.cond(core) < 1e8)
    close(few @ torch.linalg.inv(core) @ few.T, x @ x.T, 1e-5)


# --- the cross network ---------------------------------------------------------------------------


@torch.no_grad()
def test_cross_network_by_loops():
    """DCN-v2 with the bias inside the product; one public code adds it outside."""
    net, x = seeded(lambda: CrossNetwork(N, N, D, depth=3)), draw(3, N, D)
    outside = x_0 = x_l = x.reshape(3, -1).numpy()
    for layer in net.layers:
        W, b = layer.weight.numpy(), layer.bias.numpy()
        outside = x_0 * (outside @ W.T) + b + outside
        x_l = np.stack([a * (W @ c + b) + c for a, c in zip(x_0, x_l, strict=True)])
    close(net(x), torch.from_numpy(x_l).reshape(3, N, D))
    assert np.abs(x_l - outside).max() > 0.1


@torch.no_grad()
def test_cross_network_of_one_layer_holds_all_pairs():
    """W with ones above the diagonal and x_0 subtracted: the sum is the FM of one channel."""
    net, x = seeded(lambda: CrossNetwork(6, 6, 1)), draw(3, 6, 1)
    net.layers[0].weight.copy_(torch.ones(6, 6).triu(1))
    net.layers[0].bias.fill_(-1)  # x ⊙ (W x − 1) + x = x ⊙ W x
    close(net(x).sum(1), factorization_machine(x), 1e-10)


# --- the other interactions ----------------------------------------------------------------------


@torch.no_grad()
def test_self_attention_is_torchs():
    module, x = seeded(lambda: SelfAttention(N, N, D, n_heads=2)), draw(3, N, D)
    theirs = nn.MultiheadAttention(D, 2, bias=False, batch_first=True).double()
    heads = module.heads
    theirs.in_proj_weight.copy_(
        torch.cat([heads.query.weight, heads.key.weight, heads.value.weight])
    )
    theirs.out_proj.weight.copy_(heads.out.weight)
    close(module(x), theirs(x, x, x)[0])
    order = torch.tensor([3, 0, 4, 1, 2])
    close(module(x[:, order]), module(x)[:, order])  # features have no order


@torch.no_grad()
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_convolution_by_loops(kernel):
    module, x = seeded(lambda: Convolution(N, N, D, kernel)), draw(2, N, D)
    reach = kernel // 2
    padded = functional.pad(x, [reach] * 4)
    expected = torch.zeros_like(x)
    for i, j in itertools.product(range(kernel), repeat=2):
        expected += module.filter.weight[0, 0, i, j] * padded[:, i : i + N, j : j + D]
    close(module(x), expected + module.filter.bias)


@torch.no_grad()
@pytest.mark.parametrize("build", [CrossNetwork, SelfAttention, Convolution])
def test_lce_follows_where_the_number_changes(build):
    narrow, x = seeded(lambda: build(N, 2, D)), draw(2, N, D)
    same_number = seeded(lambda: build(N, N, D))
    same_number.load_state_dict(narrow.state_dict(), strict=False)
    assert isinstance(narrow.resize, LinearCompression)
    assert isinstance(same_number.resize, nn.Identity)
    close(narrow(x), narrow.resize.weight @ same_number(x))


@torch.no_grad()
def test_mlp_module():
    module, x = seeded(lambda: MLP(N, 2, D, (6, 7))), draw(3, N, D)
    layers = [m for m in module.network if isinstance(m, nn.Linear)]
    y = x.reshape(3, -1)
    for i, layer in enumerate(layers):
        y = y @ layer.weight.T + layer.bias
        y = y if i == 2 else y.clamp(min=0)
    close(module(x), y.reshape(3, 2, D))
    assert [type(m) for m in mlp(3, (), 2)] == [nn.Linear]


# --- layers and stacks ---------------------------------------------------------------------------


def interactions(n_outs=(2, 2)):
    return [LinearCompression(N, n_outs[0]), MLP(N, n_outs[1], D, ())]


def normalise(x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("ensemble", ["concat", "sum", "weighted"])
@pytest.mark.parametrize("identity", [True, False])
def test_layer_is_norm_of_ensemble_and_shortcut(ensemble, norm, identity):
    n_outs = {True: (2, 3) if ensemble == "concat" else (N, N), False: (2, 2)}[identity]
    layer = seeded(lambda: DHENLayer(interactions(n_outs), D, ensemble, norm))
    x = draw(3, N, D)
    first, second = (module(x) for module in layer.interactions)
    if ensemble == "concat":
        mixed = torch.cat([first, second], 1)
    elif ensemble == "sum":
        mixed = first + second
    else:
        close(layer.weights, torch.ones(2, dtype=F64))  # it starts as the sum
        layer.weights.copy_(torch.tensor([0.5, -2.0]))
        mixed = 0.5 * first - 2 * second
    assert isinstance(layer.shortcut, nn.Identity if identity else LinearCompression)
    expected = mixed + (x if identity else layer.shortcut.weight @ x)
    assert layer.n_out == expected.shape[1]
    close(layer(x), normalise(expected) if norm else expected)


@torch.no_grad()
def test_dhen_is_its_layers_in_turn():
    def layer(n):
        return DHENLayer([LinearCompression(n, 3), FactorizationMachine(n, 1, D)], D)

    model, x = seeded(lambda: DHEN(layer, N, D, depth=3)), draw(2, N, D)
    y = x
    for one in model.layers:
        y = one(y)
    assert torch.equal(model(x), y)
    assert [one.n_in for one in model.layers] == [N, 4, 4] and model.n_out == 4
    assert len({id(one) for one in model.layers}) == 3


@torch.no_grad()
def test_wukong_by_its_equations():
    model = seeded(lambda: Wukong(N, D, depth=2, n_fm=2, n_lcb=1, rank=3, hidden=(6,)))
    x = y = draw(3, N, D)
    for layer in model.layers:
        machine, compress = layer.interactions
        fm = (y @ (y.mT @ machine.factor)).flatten(1)
        made = machine.head(normalise(fm)).reshape(3, 2, D)
        kept = compress.weight @ y
        residual = layer.shortcut.weight @ y if y.shape[1] != 3 else y
        y = normalise(torch.cat([made, kept], dim=1) + residual)
    close(model(x), y, 1e-9)
    first, second = model.layers  # 5 features become 3, and 3 stay 3
    assert isinstance(first.shortcut, LinearCompression)
    assert isinstance(second.shortcut, nn.Identity)


@torch.no_grad()
def test_the_bias_of_a_cross_layer_is_inside_the_product():
    """DCN V2, equation 1. One public library adds it outside: then zero does not stay zero."""
    net = seeded(lambda: CrossNetwork(N, N, D))
    (layer,) = net.layers
    x = draw(2, N, D)
    flat = x.flatten(1)
    outside = flat * (flat @ layer.weight.T) + layer.bias + flat
    inside = flat * (flat @ layer.weight.T + layer.bias) + flat
    close(net(x).flatten(1), inside)
    close(inside - outside, (flat - 1) * layer.bias)
    assert (inside - outside).abs().max() > 0.1
    assert torch.equal(net(0 * x), 0 * x) and layer.bias.abs().min() > 0


@pytest.fixture(scope="module")
def published():
    """The layers of deepctr-torch, which asks the package index for news when it is imported."""
    silent = types.ModuleType("requests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "requests", silent)
        yield importlib.import_module("deepctr_torch.layers.interaction")


@given(n=st.integers(2, 7), d=st.integers(1, 4), seed=st.integers(0, 99))
def test_fm_is_a_published_one(published, n, d, seed):
    x = draw(3, n, d, seed=seed)
    close(factorization_machine(x).sum(1, keepdim=True), published.FM()(x), 1e-10)


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 3])
def test_cross_network_is_a_published_one(published, depth):
    net = seeded(lambda: CrossNetwork(N, N, D, depth))
    theirs = published.CrossNet(N * D, depth, parameterization="matrix").double()
    for layer, kernel, bias in zip(net.layers, theirs.kernels, theirs.bias, strict=True):
        kernel.copy_(layer.weight)
        bias.copy_(layer.bias[:, None])
    x = draw(3, N, D)
    close(net(x).flatten(1), theirs(x.flatten(1)), 1e-10)


def test_cross_network_by_polynomial_algebra():
    """Another route: the published formula as polynomials in sympy, read at numbers."""
    n, d, depth = 2, 1, 3
    net = seeded(lambda: CrossNetwork(n, n, d, depth))
    symbols = sympy.symbols("a b")
    x_0 = x_l = sympy.Matrix(symbols)
    for layer in net.layers:
        W, b = (sympy.Matrix(p.detach().reshape(n, -1).numpy()) for p in layer.parameters())
        x_l = x_0.multiply_elementwise(W * x_l + b) + x_l
    assert all(sympy.Poly(one, *symbols).total_degree() == depth + 1 for one in x_l)
    x = draw(3, n, d)
    with torch.no_grad():
        y = net(x)
    for row, values in zip(y, x, strict=True):
        at = dict(zip(symbols, values.flatten().tolist(), strict=True))
        expected = torch.tensor([float(one.subs(at)) for one in x_l], dtype=F64)
        close(row.flatten(), expected, 1e-9)


@given(n=st.integers(2, 7), d=st.integers(1, 4), seed=st.integers(0, 99))
def test_fm_is_the_second_elementary_symmetric_polynomial(n, d, seed):
    """Another route: one feature after the other, e_2 += x e_1 and e_1 += x."""
    x = draw(2, n, d, seed=seed)
    first = second = torch.zeros(2, d, dtype=F64)
    for one in x.unbind(1):
        second, first = second + one * first, first + one
    close(factorization_machine(x), second, 1e-10)


@torch.no_grad()
def test_wukong_compresses_features_and_not_the_flat_vector():
    """One public code compresses the n · d numbers; then a channel map would not pass through."""
    compress, x, V = (
        Wukong(N, D, 1, 1, 2).double().layers[0].interactions[1],
        draw(2, N, D),
        draw(D, D),
    )
    assert compress.weight.shape == (2, N)
    close(compress(x @ V), compress(x) @ V)


# --- the order of interaction --------------------------------------------------------------------


def differences(function, x, highest):
    """The forward differences of t ↦ f(t x), orders 0 … highest, relative to the values.

    The points are not symmetric about 0: attention is odd in t, and a difference of even order
    about 0 would vanish for that reason alone.
    """
    with torch.no_grad():
        values = torch.stack(
            [function(t * x) for t in torch.linspace(-1, 1.3, highest + 1, dtype=F64)]
        )
    sizes = []
    for order in range(highest + 1):
        weight = 2.0**order  # the sum of the binomial weights: how rounding grows
        sizes.append((values.diff(n=order, dim=0).abs().max() / values.abs().max() / weight).item())
    return sizes


def order(function, x, highest=18, tolerance=1e-13):
    """The degree along a ray: the last difference that is not rounding."""
    return max(k for k, size in enumerate(differences(function, x, highest)) if size > tolerance)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_order_of_wukong_is_two_to_the_depth(depth):
    model = seeded(lambda: Wukong(N, D, depth, 3, 2, rank=2, norm=False))
    assert order(model, draw(1, N, D), 20) == 2**depth


def test_order_of_an_attentive_block_is_three():
    """X Xᵀ times a Y that is linear in X."""
    block = seeded(lambda: FactorizationMachine(N, 3, D, rank=2, norm=False, attentive=()))
    assert order(block, draw(1, N, D), 10) == 3


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_order_of_dhen_is_two_to_the_depth(depth):
    def layer(n):
        parts = [
            FactorizationMachine(n, 3, D, norm=False),
            CrossNetwork(n, 3, D),
            Convolution(n, 3, D),
            LinearCompression(n, 3),
        ]
        return DHENLayer(parts, D, "weighted", norm=False)

    model = seeded(lambda: DHEN(layer, N, D, depth))
    assert order(model, draw(1, N, D)) == 2**depth


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_cross_layer_adds_one(depth):
    net = seeded(lambda: CrossNetwork(N, N, D, depth))
    assert order(net, draw(1, N, D)) == depth + 1


def test_order_of_the_parts():
    x = draw(1, N, D)
    for build, expected in (
        (lambda: LinearCompression(N, 2), 1),
        (lambda: Convolution(N, 2, D), 1),
        (lambda: MLP(N, 2, D, ()), 1),
        (lambda: FactorizationMachine(N, 2, D, norm=False), 2),
    ):
        assert order(seeded(build), x) == expected
    assert order(factorization_machine, x) == 2


@pytest.mark.parametrize(
    "build",
    [
        lambda: SelfAttention(N, N, D),
        lambda: MLP(N, N, D, (8,)),
        lambda: Wukong(N, D, 1, 3, 2),
        lambda: Wukong(N, D, 1, 3, 2, hidden=(8,), norm=False),
    ],
)
def test_softmax_relu_and_layernorm_are_of_no_order(build):
    """No difference up to the 19th vanishes: they are no polynomials of such a degree."""
    assert min(differences(seeded(build), 3 * draw(1, N, D), 19)) > 1e-10


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.bad_input
def test_bad_input_layers():
    five, four = LinearCompression(5, 3), LinearCompression(4, 3)
    for parts in ([], [five, four]):
        with pytest.raises(ValueError, match=r"^interactions: expected at least one, all of"):
            DHENLayer(parts, D)
    with pytest.raises(ValueError, match=r"^interactions: expected width 4, got \[None, 3\]"):
        DHENLayer([five, MLP(5, 3, 3, ())], D)
    for ensemble in ("sum", "weighted"):
        with pytest.raises(ValueError, match=rf"^interactions: .*'{ensemble}', got n_out \[3, 2\]"):
            DHENLayer([five, LinearCompression(5, 2)], D, ensemble)
    with pytest.raises(ValueError, match=r"^ensemble: expected one of concat, sum, weighted, got"):
        DHENLayer([five], D, "mean")
    with pytest.raises(
        ValueError, match=r"^layer: expected one of n_in 3 and width 4, got 5 and 4"
    ):
        DHEN(lambda n: DHENLayer([LinearCompression(5, 3)], D), 5, D, 2)
    with pytest.raises(
        ValueError, match=r"^layer: expected one of n_in 5 and width 4, got 5 and None"
    ):
        DHEN(lambda n: MeanPooling(n, 2), 5, D, 1)


@pytest.mark.bad_input
@pytest.mark.parametrize(("value", "kind"), [(0, ValueError), (1.5, TypeError), (None, TypeError)])
def test_bad_input_sizes(value, kind):
    for name, build in {
        "n_in": lambda: CrossNetwork(value, 2, 2),
        "n_out": lambda: MLP(2, value, 2, ()),
        "d": lambda: SelfAttention(2, 2, value),
        "depth": lambda: CrossNetwork(2, 2, 2, value),
        "kernel": lambda: Convolution(2, 2, 2, value),
        "hidden": lambda: MLP(2, 2, 2, (value,)),
    }.items():
        with pytest.raises(kind, match=rf"^{name}: expected a whole number >= 1, got"):
            build()
    with pytest.raises(kind, match=r"^depth: expected a whole number"):
        Wukong(2, 2, value, 1, 1)
    with pytest.raises(kind, match=r"^d: expected a whole number"):
        DHENLayer([LinearCompression(2, 2)], value)
    with pytest.raises(ValueError, match=r"^rank: expected a number where attentive is"):
        FactorizationMachine(2, 2, 2, attentive=(3,))
    if value is not None:
        with pytest.raises(kind, match=r"^rank: expected a whole number"):
            FactorizationMachine(2, 2, 2, value)


@pytest.mark.bad_input
def test_bad_input_the_rest():
    with pytest.raises(ValueError, match=r"^kernel: expected an odd number, got 2"):
        Convolution(2, 2, 2, 2)
    with pytest.raises(ValueError, match=r"^n_heads: expected a divisor of .* 4, got 3"):
        SelfAttention(2, 2, 4, 3)
    for x, kind in (
        (draw(3, 4), ValueError),
        (draw(3, 0, 4), ValueError),
        (draw(3, 4, 4) / 0, ValueError),
        (torch.ones(1, 1, 1, dtype=torch.int64), TypeError),
    ):
        with pytest.raises(kind, match=r"^x: expected "):
            factorization_machine(x)


# --- the record of the chapter -------------------------------------------------------------------


def test_what_the_chapter_quotes_from_the_record():
    """The numbers in the prose of chapter 07 that come from experiments/movielens.py."""
    text = (ROOT / "chapters" / "07-dhen.ipynb").read_text(encoding="utf8")
    record = records.read("movielens")
    by_user = record.where(protocol="user")
    (exact,) = by_user.where(stage="baseline")
    regression, similar = (
        exact["baselines"][name] for name in ("logistic regression", "logistic and similar movies")
    )
    candidates = by_user.where(stage="final").by("model")
    chosen = {
        name: min(rows, key=lambda row: np.mean(row["validation"]))
        for name, rows in candidates.items()
    }
    assert {len(rows) for rows in candidates.values()} == {3}
    assert {len(row["validation"]) for row in chosen.values()} == {3}

    def auc(row, group="all"):
        return np.mean(row["test"][group]["auc"])

    def change(row, key="auc", digits=4):
        found = row["to_logistic_regression"][key]
        words = f"{found['mean']:+.{digits}f} ± {found['error']:.{digits}f}"
        return words.replace("-", "−")

    def interval(row, key="auc"):
        return row["to_logistic_regression"][key]["interval"]

    networks = {name: row for name, row in chosen.items() if name != "logistic"}
    best = max(networks, key=lambda name: auc(networks[name]))
    assert interval(similar)[0] > 0 and interval(similar, "within_auc")[0] > 0
    for key in ("auc", "within_auc"):  # no network is surely above, and similar films are
        assert all(interval(row, key)[0] < 0 for row in networks.values())
        means = [row["to_logistic_regression"][key]["mean"] for row in networks.values()]
        assert max(means) < similar["to_logistic_regression"][key]["mean"]
    assert max(means) < 0  # within users, where means are of the second key
    holds = sum(low < 0 < high for low, high in map(interval, networks.values()))
    own = chosen["logistic"]["to_logistic_regression"]
    words = ["none", "one", "two", "three", "four", "five", "six", "seven", "eight"]

    def least(name):
        parts = by_user.where(stage="sweep", model=name).values("validation")
        return min(loss for part in parts for loss in part if loss)

    def again(name):
        return np.mean(chosen[name]["validation"])

    entropy = {
        name: np.mean(row["test"]["all"]["normalised_entropy"]) for name, row in chosen.items()
    }
    low, _, high = three = [entropy[name] for name in ("dcn", "fm", "dhen")]
    others = [value for name, value in entropy.items() if name not in ("dcn", "dhen", "fm")]
    flat = np.mean(regression["test"]["all"]["normalised_entropy"])
    assert max(three) == high < min(others) < flat and three == sorted(three)
    rates = record.settings["rates"]
    larger = sum(row["lr"] > rates[-1] for row in chosen.values())
    longer = sum(row["epochs"] == 6 for row in chosen.values())
    tried = {**dict.fromkeys(chosen, min(record.settings["linear_decays"])), "logistic": 0.01}
    least_decay = sum(row["linear_decay"] == tried[name] for name, row in chosen.items())
    assert rates[-1] == 0.03 and record.settings["epochs"] == (2, 6)

    def bettered(name):
        parts = by_user.where(stage="sweep", model=name, rates=rates).values("validation")
        return min(loss for part in parts for loss in part if loss) - least(name)

    most = max(bettered(name) for name in chosen)
    for key in ("auc", "within_auc"):  # "both intervals just hold zero"
        low_end, high_end = own[key]["interval"]
        assert low_end < 0 < high_end < 5e-4
    for sentence in (
        f"from an AUC of {auc(regression):.3f} to {auc(similar):.3f} over all rows, and from "
        f"{auc(regression, 'users'):.3f} to {auc(similar, 'users'):.3f} within users",
        f"{change(similar)} and {change(similar, 'within_auc', 3)}",
        f"{change(networks[best])} from logistic regression and DHEN {change(networks['dhen'])}",
        f"{words[holds]} of the seven intervals hold zero",
        f"{low:.3f} to {high:.3f} against {flat:.3f}",
        f"has {-own['auc']['mean']:.4f} less over all rows and "
        f"{-own['within_auc']['mean']:.4f} less within users",
        f"DCN-v2 had a loss of {least('dcn'):.4f} there, the mean over three seeds of its chosen "
        f"setting {again('dcn'):.4f}",
        f"{least('wukong attentive'):.4f} and {again('wukong attentive'):.4f}",
        f"bettered the best loss of a sweep by {most:.4f} at most, and {words[larger]} of the "
        f"eight choose one. {words[longer].capitalize()} choose the longer schedule of two, and "
        f"{words[least_decay]} the least decay of the single weights that was tried",
    ):
        assert sentence in text, sentence


def test_logits_of_the_record_give_its_scores():
    """In 8 bits they are good enough for that."""
    data = movielens()
    test = per_user_split(data.user, data.timestamp).test
    by_user = records.read("movielens").where(protocol="user")
    (exact,) = by_user.where(stage="baseline")
    rows = [*exact["baselines"].values(), *by_user.where(stage="final")]
    seen = 0
    for row in rows:
        if "logit" in row:
            made = scores(unpacked(row["logit"]), data.liked[test])
            assert made.auc == pytest.approx(row["test"]["all"]["auc"][0], abs=5e-4)
            seen += 1
    assert seen == 2 + 8


def ablations():
    """Of each variant, and of DHEN at its width, the run that is read."""
    runs = records.read("movielens").where(stage="ablation").by("model")
    assert {len(rows) for rows in runs.values()} == {3} and len(runs) == 8
    return {name: min(rows, key=lambda r: np.mean(r["validation"])) for name, rows in runs.items()}


def test_ablations_of_the_record_have_equal_parameters():
    record = records.read("movielens")
    rates = record.settings["rates"]
    sweeps = record.where(stage="sweep", protocol="user", width=16, rates=rates)
    own = {name: rows for name, rows in sweeps.by("model").items() if name.startswith("dhen")}
    sizes = [size for rows in own.values() for size in rows.values("network_parameters")]
    assert max(sizes) < 1.03 * min(sizes) and own.keys() == ablations().keys()
    assert {len(rows) for rows in own.values()} == {6}


def test_without_its_cross_network_or_its_linear_part_dhen_is_surely_worse():
    """And without any other module, or a layer, not surely; as the chapter says, on the test."""
    text = (ROOT / "chapters" / "07-dhen.ipynb").read_text(encoding="utf8")
    variants = ablations()
    whole = variants.pop("dhen")
    surely = {
        (name, key)
        for name, row in variants.items()
        for key in ("auc", "within_auc")
        if not row["to_dhen"][key]["interval"][0] <= 0 <= row["to_dhen"][key]["interval"][1]
    }
    missed = ("dhen without cross", "dhen without linear part")
    assert surely == {(name, key) for name in missed for key in ("auc", "within_auc")}

    def loss(name, key, digits):
        found = variants[name]["to_dhen"][key]
        return f"{-found['mean']:.{digits}f} ± {found['error']:.{digits}f}"

    first, second = ((loss(name, "auc", 4), loss(name, "within_auc", 3)) for name in missed)
    assert (
        f"Without the cross network DHEN loses {first[0]} over all rows and {first[1]} within "
        f"users; without the linear part {second[0]} and {second[1]}"
    ) in text
    table = records.read("movielens").where(stage="final", protocol="user", model="dhen")
    found = min(np.mean(row["validation"]) for row in table)
    assert (
        f"has a validation loss of {np.mean(whole['validation']):.4f}, and found over all four "
        f"widths, in the table above, one of {found:.4f}"
    ) in text


def test_throughput_of_the_record_is_without_checks():
    rows = records.read("movielens").settings["throughput"]
    behind = {row["throughput"]: row["network_parameters"] for row in rows}
    assert behind["dhen"] < 1.03 * behind["mlp"] and behind["logistic"] == 0
    assert all({"ms", "ms_with_checks", "parameters"} <= set(row) for row in rows)
