"""Every compressor keeps its interface; LCE's forms, its optimum, its split and its relatives.

A new compressor joins COMPRESSORS, and every test of the interface runs for it.
"""

from typing import NamedTuple

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from helpers import close, count_flops, draw
from linear_time.attention import attention
from linear_time.compression import (
    Compressor,
    LinearCompression,
    LowRank,
    MeanPooling,
    cosines,
    linformer_attention,
    matrix,
    optimal_compression,
    share_kept,
    token_mixing,
)
from linear_time.datasets import ecg
from linear_time.dhen import (
    DHEN,
    MLP,
    Convolution,
    CrossNetwork,
    DHENLayer,
    FactorizationMachine,
    SelfAttention,
    Wukong,
)
from linear_time.perceiver import Perceiver
from linear_time.pictures.compression import split_ratio, wukong_layer
from linear_time.pyramid import PyramidCompression

F32, F64 = torch.float32, torch.float64
N_IN, N_OUT, D = 7, 3, 4


class Case(NamedTuple):
    make: object  # () -> Compressor
    linear: bool = False  # in x, along the tokens: it commutes with channel maps
    any_d: bool = False
    any_n: bool = False
    d_out: int = D


COMPRESSORS = {
    "linear": Case(lambda: LinearCompression(N_IN, N_OUT), True, True),
    "mean": Case(lambda: MeanPooling(N_IN, N_OUT), True, True),
    "low_rank": Case(lambda: LowRank(N_IN, N_OUT, 2), True, True),
    "pyramid": Case(lambda: PyramidCompression((N_IN, 5, N_OUT)), True, True),
    "pyramid_gelu": Case(
        lambda: PyramidCompression((N_IN, 5, N_OUT), activation=functional.gelu), any_d=True
    ),
    "pyramid_lateral": Case(lambda: PyramidCompression((N_IN, 5, N_OUT), D)),
    "fm": Case(lambda: FactorizationMachine(N_IN, N_OUT, D, hidden=(9,))),
    "fm_rank": Case(lambda: FactorizationMachine(N_IN, N_OUT, D, rank=2)),
    "cross": Case(lambda: CrossNetwork(N_IN, N_OUT, D, depth=2)),
    "self_attention": Case(lambda: SelfAttention(N_IN, N_OUT, D, n_heads=2)),
    "convolution": Case(lambda: Convolution(N_IN, N_OUT, D)),
    "mlp": Case(lambda: MLP(N_IN, N_OUT, D, (11,))),
    "dhen": Case(lambda: DHEN(dhen_layer, N_IN, D, depth=2)),
    "perceiver": Case(
        lambda: Perceiver(D, N_OUT, 6, n_cross=2, n_self=2, n_heads=2), any_n=True, d_out=6
    ),
    "wukong": Case(lambda: Wukong(N_IN, D, depth=3, n_fm=2, n_lcb=1, rank=2, hidden=(8,))),
}
every_compressor = pytest.mark.parametrize("name", COMPRESSORS)
linear_ones = pytest.mark.parametrize("name", [k for k, v in COMPRESSORS.items() if v.linear])


def dhen_layer(n):
    machine = FactorizationMachine(n, N_OUT, D, 2)
    return DHENLayer([machine, SelfAttention(n, N_OUT, D)], D, "weighted")


def make(name, dtype=F64):
    torch.manual_seed(0)
    return COMPRESSORS[name].make().to(dtype)


# --- the interface -------------------------------------------------------------------------------


@every_compressor
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("batch", [1, 3])
def test_shape_and_dtype(name, dtype, batch):
    compressor = make(name, dtype)
    assert isinstance(compressor, Compressor) and compressor.n_out == N_OUT
    assert compressor.n_in == (None if COMPRESSORS[name].any_n else N_IN)
    assert compressor.d_in == (None if COMPRESSORS[name].any_d else D)
    y = compressor(draw(batch, N_IN, D, dtype=dtype))
    assert y.shape == (batch, N_OUT, COMPRESSORS[name].d_out) and y.dtype == dtype


@every_compressor
@torch.no_grad()
def test_batch_rows_do_not_mix(name):
    compressor, x = make(name), draw(4, N_IN, D)
    y = compressor(x)
    other = x.clone()
    other[2] += draw(N_IN, D, seed=2)
    changed = (compressor(other) - y).abs().amax(dim=(1, 2))
    assert changed[2] > 1e-3 and (changed[[0, 1, 3]] == 0).all()
    close(compressor(x[2:3])[0], y[2])


@every_compressor
def test_every_output_reads_inputs_and_every_input_is_read(name):
    x = draw(N_IN, D)
    J = torch.autograd.functional.jacobian(lambda row: make(name)(row[None])[0], x)
    reads = J.abs().amax(dim=(1, 3))  # (n_out, n_in)
    assert (reads.amax(0) > 0).all() and (reads.amax(1) > 0).all()


@every_compressor
def test_gradients_reach_every_parameter(name):
    compressor, x = make(name), draw(2, N_IN, D).requires_grad_()
    (compressor(x) * draw(2, N_OUT, COMPRESSORS[name].d_out, seed=2)).sum().backward()
    for parameter_name, parameter in [("x", x), *compressor.named_parameters()]:
        if name == "pyramid_lateral" and parameter_name[:9] in ("lateral.0", "lateral.1"):
            assert parameter.grad is None  # of the finer levels: see test_pyramid
            continue
        gradient = parameter.grad
        assert gradient is not None, parameter_name
        assert torch.isfinite(gradient).all() and (gradient != 0).any(), parameter_name


@every_compressor
def test_gradcheck(name):
    torch.autograd.gradcheck(make(name), draw(2, N_IN, D).requires_grad_())


@linear_ones
@torch.no_grad()
def test_a_constant_matrix_and_commutes_with_channel_maps(name):
    compressor, x, V = make(name), draw(2, N_IN, D), draw(D, 6, seed=2)
    W = matrix(compressor)
    assert W.shape == (N_OUT, N_IN) and W.dtype == (F32 if name == "mean" else F64)
    close(compressor(x), W.double() @ x, 1e-6 if name == "mean" else 1e-12)
    close(compressor(x @ V), compressor(x) @ V)


@pytest.mark.parametrize(
    "name", ["pyramid_gelu", "fm", "cross", "self_attention", "mlp", "dhen", "perceiver"]
)
@torch.no_grad()
def test_the_matrix_of_others_depends_on_the_input(name):
    compressor, x = make(name), draw(1, N_IN, D)
    assert (compressor(2 * x) - 2 * compressor(x)).abs().max() > 1e-3


@pytest.mark.bad_input
@every_compressor
@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (draw(N_IN, D), ValueError, r"^x: expected shape \(batch, .*got a float64 .*\(7, 4\)"),
        (draw(1, 2, N_IN, D), ValueError, r"^x: expected shape \(batch, .*\(1, 2, 7, 4\)"),
        (draw(2, N_IN + 1, D), ValueError, r"^x: expected shape \(batch, 7, .*\(2, 8, 4\)"),
        (draw(2, N_IN, D + 1), ValueError, r"^x: expected shape \(batch, .*4\).*\(2, 7, 5\)"),
        (draw(0, N_IN, D), ValueError, r"^x: .*without empty dimensions.*\(0, 7, 4\)"),
        (draw(2, N_IN, D) / 0, ValueError, "^x: expected finite values, got 56"),
        (torch.ones(2, N_IN, D, dtype=torch.int64), TypeError, "^x: .*got an int64 tensor"),
        ([[[0.0] * D] * N_IN], TypeError, "^x: .*got a list"),
    ],
)
def test_bad_input(name, x, kind, message):
    case = COMPRESSORS[name]
    sizes = getattr(x, "shape", None)
    more_tokens, more_channels = sizes == (2, N_IN + 1, D), sizes == (2, N_IN, D + 1)
    if (more_tokens and case.any_n) or (more_channels and case.any_d):
        assert make(name)(x).shape[:2] == (2, N_OUT)
        return
    with pytest.raises(kind, match=message):
        make(name)(x)


def test_the_base_class_is_abstract():
    with pytest.raises(NotImplementedError):
        Compressor(1)(torch.zeros(1, 1, 1))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("value", "kind"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_bad_input_sizes(value, kind):
    for name, build in {
        "n_out": lambda: LinearCompression(3, value),
        "n_in": lambda: LinearCompression(value, 3),
        "d_in": lambda: Compressor(3, 3, value),
        "rank": lambda: LowRank(3, 3, value),
        "m": lambda: optimal_compression(draw(3, 3), value),
    }.items():
        with pytest.raises(kind, match=f"^{name}: expected a whole number >= 1, got {value}"):
            build()


@pytest.mark.bad_input
def test_bad_input_none_is_no_size():
    for build in (LinearCompression, MeanPooling):
        with pytest.raises(TypeError, match=r"^n_in: expected a whole number"):
            build(None, 1)
    with pytest.raises(TypeError, match=r"^n_out: expected a whole number"):
        Compressor(None)


# --- LCE: three forms, and a start that keeps the variance ----------------------------------------


@given(n_in=st.integers(1, 9), n_out=st.integers(1, 9), d=st.integers(1, 5))
@torch.no_grad()
def test_three_equal_forms(n_in, n_out, d):
    lce, x = LinearCompression(n_in, n_out).double(), draw(2, n_in, d)
    expected = np.einsum("mn,bnd->bmd", lce.weight.numpy(), x.numpy())
    for form in (lce.forward, lce.as_linear, lce.as_convolution):
        close(form(x), torch.from_numpy(expected))


@torch.no_grad()
def test_variance_is_kept_at_the_start():
    torch.manual_seed(0)
    x = draw(40, 200, 30, dtype=F32)
    for compressor in (LinearCompression(200, 150), LowRank(200, 150, 100)):
        assert compressor(x).var().item() == pytest.approx(1, abs=0.1)


@pytest.mark.bad_input
@pytest.mark.parametrize("form", ["forward", "as_linear", "as_convolution"])
def test_bad_input_each_form(form):
    with pytest.raises(ValueError, match=r"^x: expected shape \(batch, 3, d_in\)"):
        getattr(LinearCompression(3, 2), form)(torch.ones(1, 4, 2))


@torch.no_grad()
def test_a_full_matrix_is_not_causal():
    W = matrix(LinearCompression(5, 5))
    assert W.triu(1).abs().max() > 0


@given(n_in=st.integers(1, 12), data=st.data())
@torch.no_grad()
def test_mean_pooling_is_the_mean_of_windows(n_in, data):
    n_out = data.draw(st.integers(1, n_in))
    x = draw(2, n_in, 3)
    y = MeanPooling(n_in, n_out)(x)
    for i in range(n_out):
        low, high = i * n_in // n_out, -(-(i + 1) * n_in // n_out)
        close(y[:, i], x[:, low:high].mean(1))
    if n_in % n_out == 0:
        close(y, x.unflatten(1, (n_out, -1)).mean(2))


@torch.no_grad()
def test_low_rank_has_that_rank_and_that_many_weights():
    compressor = LowRank(9, 6, 4).double()
    assert torch.linalg.matrix_rank(matrix(compressor)) == 4
    assert sum(p.numel() for p in compressor.parameters()) == 4 * (9 + 6)
    close(matrix(compressor), compressor.left @ compressor.right)


def test_low_rank_never_forms_the_product():
    compressor, x = LowRank(64, 64, 2), torch.ones(1, 64, 1)
    assert count_flops(compressor, x) == 2 * 2 * (64 + 64)


@pytest.mark.bad_input
def test_bad_input_too_large():
    with pytest.raises(ValueError, match=r"^n_out: expected at most 3, got 4"):
        MeanPooling(3, 4)
    with pytest.raises(ValueError, match=r"^rank: expected at most 2, got 3"):
        LowRank(5, 2, 3)
    with pytest.raises(ValueError, match=r"^m: expected at most n = 3, got 4"):
        optimal_compression(draw(3, 9), 4)
    with pytest.raises(ValueError, match=r"^compressor: .*got SelfAttention with n_in 7 and d_in"):
        matrix(make("self_attention"))
    with pytest.raises(ValueError, match=r"^compressor: .*got Compressor with n_in None"):
        matrix(Compressor(2))


# --- Eckart–Young --------------------------------------------------------------------------------


@given(n=st.integers(1, 8), d=st.integers(1, 8), seed=st.integers(0, 99), data=st.data())
def test_optimum_is_scipys(n, d, seed, data):
    m = data.draw(st.integers(1, n))
    X = draw(n, d, seed=seed)
    encoder, decoder, error, sigma = optimal_compression(X, m)
    assert encoder.shape == (m, n) and decoder.shape == (n, m)
    U, s, Vt = scipy.linalg.svd(X.numpy(), full_matrices=False)
    best = (U[:, :m] * s[:m]) @ Vt[:m]
    close(decoder @ encoder @ X, torch.from_numpy(best), 1e-10)
    close(error, (X - decoder @ encoder @ X).square().sum(), 1e-9)
    close(sigma, torch.from_numpy(s), 1e-10)
    close(encoder @ decoder, torch.eye(m, dtype=F64), 1e-10)
    largest = encoder.gather(1, encoder.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


def test_no_other_encoder_is_better_and_its_decoder_is_least_squares():
    X = draw(6, 40)
    encoder, decoder, error, _ = optimal_compression(X, 2)
    for seed in range(50):
        other = encoder + draw(2, 6, seed=seed) * (10.0 if seed % 2 else 0.01)
        fitted = torch.linalg.lstsq((other @ X).T, X.T).solution.T  # the best decoder for it
        assert (X - fitted @ other @ X).square().sum() >= error * (1 - 1e-12)
    fitted = torch.linalg.lstsq((encoder @ X).T, X.T).solution.T
    close(fitted, decoder, 1e-10)


def test_the_optimum_is_one_of_many():
    X, S = draw(6, 40), draw(2, 2, seed=3)
    encoder, decoder, error, _ = optimal_compression(X, 2)
    other = decoder @ torch.linalg.inv(S) @ (S @ encoder)
    close((X - other @ X).square().sum(), error, 1e-10)


def test_gradient_descent_reaches_the_optimum():
    X = draw(5, 30) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2], dtype=F64)[:, None]
    torch.manual_seed(0)
    lce, back = LinearCompression(5, 2).double(), LinearCompression(2, 5).double()
    optimizer = torch.optim.LBFGS(
        [lce.weight, back.weight], max_iter=400, line_search_fn="strong_wolfe"
    )

    def loss():
        optimizer.zero_grad()
        value = (back(lce(X[None])) - X).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    best = optimal_compression(X, 2).error
    assert best <= loss() * (1 + 1e-12) and loss() <= best * (1 + 1e-5)


def test_one_encoder_for_a_batch_and_a_loss_of_nothing():
    X = draw(3, 5, 4)
    side_by_side = torch.cat(list(X), dim=1)  # (5, 12)
    batched, flat = optimal_compression(X, 2), optimal_compression(side_by_side, 2)
    for left, right in zip(batched, flat, strict=True):
        close(left, right, 1e-10)
    full = optimal_compression(X, 5)
    assert full.error == 0
    close(full.decoder @ full.encoder, torch.eye(5, dtype=F64), 1e-12)


def test_optimum_of_any_batch_and_of_half_precision():
    X = draw(2, 3, 5, 4)
    for one, other in zip(
        optimal_compression(X, 2), optimal_compression(X.flatten(0, 1), 2), strict=True
    ):
        close(one, other)
    X = X.bfloat16()
    for one, other in zip(
        optimal_compression(X, 2), optimal_compression(X.double(), 2), strict=True
    ):
        assert one.dtype == torch.bfloat16
        assert (one.double() - other).abs().max() < 0.01 * other.abs().max()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("X", "kind", "message"),
    [
        (draw(3), ValueError, r"^X: expected shape \(…, n, d\) .*of shape \(3,\)"),
        (draw(3, 0), ValueError, r"^X: .*without empty dimensions, got .*\(3, 0\)"),
        (draw(3, 3) / 0, ValueError, "^X: expected finite values"),
        (torch.ones(3, 3, dtype=torch.int64), TypeError, "^X: expected a floating-point tensor"),
    ],
)
def test_bad_input_optimum(X, kind, message):
    with pytest.raises(kind, match=message):
        optimal_compression(X, 1)


# --- the user and the candidates -----------------------------------------------------------------


@torch.no_grad()
def test_split_is_the_whole():
    lce, x = LinearCompression(7, 3).double(), draw(2, 7, 4)
    blocks = lce.split(2, 4, 1)
    assert [tuple(block.shape) for block in blocks] == [(3, 2), (3, 4), (3, 1)]
    parts = x.split([2, 4, 1], dim=1)
    close(sum(W @ part for W, part in zip(blocks, parts, strict=True)), lce(x))


@given(n_user=st.integers(1, 5), n_candidate=st.integers(1, 4), candidates=st.integers(1, 6))
@torch.no_grad()
def test_user_half_once_equals_every_pair(n_user, n_candidate, candidates):
    lce = LinearCompression(n_user + n_candidate, 3).double()
    user, others = draw(2, n_user, 4), draw(2, candidates, n_candidate, 4, seed=2)
    y = lce.for_candidates(user, others)
    assert y.shape == (2, candidates, 3, 4)
    for c in range(candidates):
        close(y[:, c], lce(torch.cat([user, others[:, c]], dim=1)))


def test_user_half_is_counted_once():
    lce, d, candidates = LinearCompression(100, 10), 8, 50
    user, each_one = torch.ones(1, 90, d), torch.ones(1, candidates, 10, d)
    seen = count_flops(lce.for_candidates, user, each_one)
    once, each = 2 * 10 * 90 * d, 2 * 10 * 10 * d
    assert seen == once + candidates * each


def test_gradients_reach_both_halves():
    lce = LinearCompression(5, 2)
    lce.for_candidates(torch.ones(1, 3, 2), torch.ones(1, 4, 2, 2)).sum().backward()
    close(lce.weight.grad, torch.full((2, 5), 8.0))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("user", "candidates", "message"),
    [
        (draw(2, 3, 4), draw(2, 6, 3, 4), "user, candidates: expected together 5 .*got 3 and 3"),
        (draw(2, 3, 4), draw(1, 6, 2, 4), r"candidates: expected shape \(2, "),  # would broadcast
        (draw(2, 3, 1), draw(2, 6, 2, 4), r"candidates: expected shape \(2, n_candidates, .*, 1\)"),
        (draw(2, 3, 4), draw(2, 2, 4), r"candidates: expected shape \(2, "),
        (draw(3, 4), draw(2, 6, 2, 4), r"user: expected shape \(batch, n_user, d\)"),
        (draw(2, 3, 4), draw(2, 0, 2, 4), "candidates: .*without empty dimensions"),
    ],
)
def test_bad_input_candidates(user, candidates, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        LinearCompression(5, 2).double().for_candidates(user, candidates)


@pytest.mark.bad_input
def test_bad_input_split():
    lce = LinearCompression(5, 2)
    with pytest.raises(ValueError, match=r"^sizes: expected .*together 5 tokens, got \(2, 2\)"):
        lce.split(2, 2)
    with pytest.raises(ValueError, match=r"^sizes: expected a whole number >= 1, got 0"):
        lce.split(5, 0)
    with pytest.raises(TypeError, match=r"^user: expected a floating-point tensor"):
        lce.for_candidates([1.0], draw(1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"^candidates: expected finite values"):
        lce.for_candidates(draw(1, 4, 1), draw(1, 1, 1, 1) / 0)


# --- Linformer and MLP-Mixer ---------------------------------------------------------------------


def test_linformer_is_attention_to_compressed_keys():
    q, k, v = draw(2, 3, 5, 4), draw(2, 3, 8, 4, seed=2), draw(2, 3, 8, 6, seed=3)
    W_k, W_v = draw(2, 8, seed=4), draw(2, 8, seed=5)
    y = linformer_attention(q, k, v, W_k, W_v)
    expected = functional.scaled_dot_product_attention(q, W_k @ k, W_v @ v)
    close(y, expected)
    eye = torch.eye(8, dtype=F64)
    close(linformer_attention(q, k, v, eye, eye), attention(q, k, v))


def test_linformer_with_equal_keys_is_one_matrix():
    """With zero keys every weight is 1/m: y = mean of the rows of W_v v, a constant matrix."""
    q, k, v, W = draw(3, 4), torch.zeros(8, 4, dtype=F64), draw(8, 6), draw(2, 8, seed=2)
    close(linformer_attention(q, k, v, W, W), (W.mean(0) @ v).expand(3, 6))


def test_linformer_gives_the_past_the_future():
    q, k, v, W = draw(6, 4), draw(6, 4, seed=2), draw(6, 3, seed=3), draw(2, 6, seed=4)
    J = torch.autograd.functional.jacobian(lambda v: linformer_attention(q, k, v, W, W), v)
    assert (J.abs().amax(dim=(1, 3)) > 0).all()


def test_token_mixing_is_an_mlp_on_the_transpose():
    x = draw(2, 5, 3)
    first, second = torch.nn.Linear(5, 9, bias=False), torch.nn.Linear(9, 4, bias=False)
    network = torch.nn.Sequential(first, torch.nn.GELU(), second).double()
    close(token_mixing(x, first.weight, second.weight), network(x.mT).mT)


@pytest.mark.bad_input
def test_bad_input_matrices():
    x, W = draw(2, 5, 3), draw(4, 5)
    for bad in (W.T, W[0], W[None]):
        with pytest.raises(ValueError, match=r"^first: expected shape \(hidden, 5\)"):
            token_mixing(x, bad, W)
        with pytest.raises(ValueError, match=r"^compress_k: expected shape \(m, 5\)"):
            linformer_attention(x, x, x, bad, W)
        with pytest.raises(ValueError, match=r"^compress_v: expected shape \(4, 5\)"):
            linformer_attention(x, x, x, W, bad)
    with pytest.raises(ValueError, match=r"^second: expected shape \(n_out, 4\)"):
        token_mixing(x, W, W)
    with pytest.raises(TypeError, match=r"^first: expected a floating-point tensor"):
        token_mixing(x, [[1.0]], W)
    with pytest.raises(ValueError, match=r"^x: expected shape \(…, n, d\)"):
        token_mixing(x[0, 0], W, W)
    for bad, name in ((x / 0, "x"), (W / 0, "first"), (draw(3, 4) / 0, "second")):
        given = {"x": x, "first": W, "second": draw(3, 4), name: bad}
        with pytest.raises(ValueError, match=f"^{name}: expected finite values"):
            token_mixing(**given)
    for name in ("q", "k", "v", "compress_k", "compress_v"):
        given = {"q": x, "k": x, "v": x, "compress_k": W, "compress_v": W}
        with pytest.raises(ValueError, match=f"^{name}: expected finite values"):
            linformer_attention(**{**given, name: given[name] / 0})


# --- what a constant matrix can keep --------------------------------------------------------------


def test_share_kept_is_one_less_the_share_lost():
    X, best = draw(3, 6, 5), optimal_compression(draw(3, 6, 5), 2)
    lost = X - best.decoder @ best.encoder @ X
    expected = 1 - float(np.linalg.norm(lost) ** 2 / np.linalg.norm(X) ** 2)
    assert share_kept(X, best.encoder, best.decoder) == pytest.approx(expected, abs=1e-12)
    assert expected == pytest.approx(1 - float(best.error) / float(X.square().sum()), abs=1e-12)
    assert share_kept(X, torch.eye(6, dtype=F64), torch.eye(6, dtype=F64)) == 1
    assert share_kept(X, torch.eye(6, dtype=F64), -torch.eye(6, dtype=F64)) == pytest.approx(-3)


@pytest.mark.bad_input
def test_bad_input_share_kept():
    X, W = draw(6, 5), draw(2, 6)
    with pytest.raises(ValueError, match=r"^decoder: expected shape \(6, 2\)"):
        share_kept(X, W, W)
    with pytest.raises(ValueError, match=r"^encoder: expected shape \(m, 6\)"):
        share_kept(X, W.mT, W)
    with pytest.raises(ValueError, match=r"^X: expected an entry other than 0, got none"):
        share_kept(0 * X, W, W.mT)


@given(n=st.integers(1, 20), data=st.data())
def test_cosines_are_scipys_transform(n, data):
    m = data.draw(st.integers(1, n))
    x = draw(n, 3)
    expected = scipy.fft.dct(x.numpy(), type=2, norm="ortho", axis=0)[:m]
    close(cosines(n, m) @ x, torch.from_numpy(expected))


@pytest.mark.bad_input
def test_bad_input_cosines():
    with pytest.raises(ValueError, match=r"^m: expected at most n = 3, got 4"):
        cosines(3, 4)
    with pytest.raises(ValueError, match=r"^n: expected a whole number >= 1, got 0"):
        cosines(0, 1)


@pytest.mark.parametrize(("n", "m"), [(12, 3), (12, 6), (64, 32), (6, 1)])
def test_means_are_optimal_for_tokens_without_an_order(n, m):
    """All orders of a list at once: every permutation of its places, or a I + b 1 1^T."""
    X = draw(n, 40) + 0.7 * draw(1, 40, seed=2)
    every_shift = torch.stack([X.roll(k, 0) for k in range(n)])  # not all orders: b differs
    a = (X.square().sum() - X.sum(0).square().sum() / n) / (n - 1)
    b = X.square().sum() / n - a
    assert b > 0
    moment = a * torch.eye(n, dtype=F64) + b
    W = matrix(MeanPooling(n, m)).double()
    Q = W / W.norm(dim=1, keepdim=True)
    close(torch.trace(Q @ moment @ Q.T), torch.linalg.eigvalsh(moment)[-m:].sum())
    random = torch.linalg.qr(draw(n, m, seed=3)).Q
    assert torch.trace(random.T @ moment @ random) < torch.trace(Q @ moment @ Q.T)
    # The mean over the shifts keeps the trace and the sum, as the mean over all orders does.
    shifted = torch.einsum("knd,kmd->nm", every_shift, every_shift) / n
    close(torch.trace(shifted), torch.trace(moment), 1e-9)
    close(shifted.sum(), moment.sum(), 1e-9)


def test_windows_at_all_shifts_make_the_best_matrix_nearly_cosines():
    heart = ecg().x - ecg().x.mean()
    windows = heart[:512].unfold(0, 128, 1).T
    learned, fixed = optimal_compression(windows, 8).encoder, cosines(128, 8)
    overlap = torch.linalg.svdvals(learned @ fixed.T)
    assert (overlap[:6] > 0.99).all() and overlap.min() > 0.95
    pieces = heart.reshape(8, 128).T
    kept = [share_kept(pieces, W, W.T) for W in (learned, fixed)]
    assert 0 < kept[0] - kept[1] < 0.02
    half = [share_kept(pieces[:, :4], W, W.T) for W in (learned, fixed)]
    assert half[0] < half[1]  # it loses where it was fitted


@pytest.mark.parametrize("sizes", [(100, 32, 16, 16, 8, 256), (30, 8, 5, 3, 2, 11)])
def test_a_layer_of_wukong_counted_and_what_the_split_saves_of_it(sizes):
    n, d, n_fm, n_lcb, rank, hidden = sizes
    cost, x = wukong_layer(*sizes), torch.randn(1, n, d)
    assert cost.lce == count_flops(LinearCompression(n, n_lcb), x)
    assert cost.shortcut == count_flops(LinearCompression(n, n_fm + n_lcb), x)
    assert cost.rest == count_flops(FactorizationMachine(n, n_fm, d, rank, (hidden,)), x)
    lce = LinearCompression(n, n_lcb)
    user, items = torch.randn(1, n - 4, d), torch.randn(1, 50, 4, d)
    once = count_flops(lce.for_candidates, user, items)
    assert split_ratio(n - 4, 4, 50) == pytest.approx(50 * cost.lce / once)


def test_the_drawing_of_lce_is_to_scale():
    """The operations that its bars and words state: 302, 8.4 and 3.1 million."""
    n, m, d = 1024, 64, 64
    attend = [8 * k * d**2 + 4 * k**2 * d for k in (n, m)]
    assert [round(v / 1e6, 1) for v in (*attend, 2 * m * n * d)] == [302.0, 3.1, 8.4]
