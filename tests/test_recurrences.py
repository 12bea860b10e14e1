"""Chapter 21: one recurrence, every member of the family beside code that is not ours.

Where the authors' code, or a library's, runs on a CPU, it is the oracle; references cast to
float32 inside, so they agree to about 1e-6. Nobody's code stands for Titans and TTT without its
LayerNorm: there the oracle is the gradient that their papers take.
"""

import importlib.util
import math
import sys
import types
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from minGRU_pytorch import minGRU
from mlstm_kernels.torch.parallel.native.fw import mlstm_parallel_fw
from mlstm_kernels.torch.recurrent.native_step import mlstm_recurrent_step__native_fw
from torch.nn import functional
from transformers import (
    BambaConfig,
    BambaForCausalLM,
    GraniteMoeHybridConfig,
    Lfm2Config,
    MiniMaxConfig,
    RecurrentGemmaConfig,
    RwkvConfig,
    RwkvForCausalLM,
)
from transformers.models.kimi_linear.modeling_kimi_linear import (
    chunk_kimi_delta_attention,
    recurrent_kimi_delta_attention,
)
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan
from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention
from transformers.models.qwen3_next.modeling_qwen3_next import (
    torch_chunk_gated_delta_rule,
    torch_recurrent_gated_delta_rule,
)
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru

from helpers import close, draw
from linear_time import recurrences
from linear_time.discretization import zero_order_hold_diagonal
from linear_time.duality import ssd
from linear_time.family import FAMILY
from linear_time.recurrences import (
    Terms,
    delta_net,
    delta_product,
    gated_delta_net,
    gdn2,
    gla,
    kda,
    lightning,
    linear_attention,
    mamba1,
    mamba2,
    mamba3,
    min_gru,
    min_gru_g,
    min_lstm,
    mlstm,
    positive,
    recurrence,
    retnet,
    rg_lru,
    rwkv6,
    rwkv7,
    step,
    titans,
    transitions,
    ttt_linear,
)
from linear_time.selective import selective_scan

F64 = torch.float64
BATCH, LENGTH, HEADS, DK, DV = 2, 64, 3, 5, 4  # 64: some references take only whole chunks
seeds = st.integers(0, 2**31 - 1)


def naive(path: str, name: str):
    """A function of fla's plain references, from its file: the package's own import needs triton.

    transformers' functions are taken from below their wrappers, which would call fla's kernels.
    """
    spec = importlib.util.find_spec("fla")
    file = Path(spec.submodule_search_locations[0], "ops", path)
    loaded = importlib.util.spec_from_file_location(f"fla_naive_{file.parent.name}", file)
    module = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(module)
    return getattr(module, name)


def unit(x):
    return functional.normalize(x, dim=-1)


def gate(*sizes, seed, low=0.0, dtype=F64):
    """Numbers between low and 1."""
    return low + (1 - low) * torch.sigmoid(draw(*sizes, seed=seed, dtype=dtype))


def keys(seed=1, length=LENGTH, dtype=F64):
    """q, k, v with unit q and k."""
    q = unit(draw(BATCH, length, HEADS, DK, seed=seed, dtype=dtype))
    k = unit(draw(BATCH, length, HEADS, DK, seed=seed + 1, dtype=dtype))
    return q, k, draw(BATCH, length, HEADS, DV, seed=seed + 2, dtype=dtype)


def numbers(seed, length=LENGTH, **options):
    return gate(BATCH, length, HEADS, seed=seed, **options)


def channels(seed, length=LENGTH, **options):
    return gate(BATCH, length, HEADS, DK, seed=seed, **options)


def near(left, right, tolerance=2e-6):
    """As ``close``, beside a reference in float32: relative to the largest entry."""
    assert left.shape == right.shape
    assert (left.double() - right.double()).abs().max() <= tolerance * right.abs().max()


def both(terms, S=None):
    """y and the last state as theirs: the state is (batch, heads, dk, dv) there."""
    y, last = recurrence(terms, True, initial_state=S)
    return y, last.mT


def written_out(terms, S):
    """Loops over everything, by ``step`` and ``transitions``: the definition."""
    A = transitions(terms)
    batch, length, heads, _ = terms.k.shape
    y = torch.zeros(batch, length, heads, terms.v.shape[-1], dtype=F64)
    S = S.clone()
    for b in range(batch):
        for h in range(heads):
            for t in range(length):
                w = 1.0 if terms.w is None else terms.w[b, t, h]
                old = S[b, h].clone()
                at = A[b, t, h], w, terms.v[b, t, h], terms.k[b, t, h], terms.q[b, t, h]
                y[b, t, h], S[b, h] = step(S[b, h], *at)
                if terms.bonus is not None:
                    seen = old + torch.outer(terms.v[b, t, h], terms.bonus[b, t, h])
                    y[b, t, h] = seen @ terms.q[b, t, h]
    if terms.floor is not None:
        y = y[..., :-1] / torch.maximum(y[..., -1:].abs(), terms.floor[..., None])
    return y[:, terms.every - 1 :: terms.every], S


def every_member(length=6):
    """Terms of every row of the table, some of them in two ways."""
    q, k, v = keys(1, length)
    beta, alpha = numbers(4, length), numbers(5, length, low=0.3)
    vector, a = channels(6, length, low=0.3), channels(7, length)
    x, z, h = (draw(BATCH, length, HEADS, seed=seed) for seed in (8, 9, 10))
    several = unit(draw(BATCH, length, HEADS, 2, DK, seed=11))
    values = draw(BATCH, length, HEADS, 2, DV, seed=12)
    betas = 2 * gate(BATCH, length, HEADS, 2, seed=13)
    A, N = -gate(HEADS, 4, seed=14), draw(BATCH, length, 4, seed=15)
    groups = draw(BATCH, length, 1, DK, seed=16), draw(BATCH, length, 1, DK, seed=17)
    return {
        "linear_attention": linear_attention(q, k, v),
        "linear_attention, normalized": linear_attention(positive(q), positive(k), v, True),
        "retnet": retnet(q, k, v),
        "lightning": lightning(q, k, v, 1, 4),
        "mamba1": mamba1(x, beta, A, N, N.flip(1)),
        "mamba2": mamba2(v, beta, A[:, 0], *groups),
        "gla": gla(q, k, v, vector),
        "rwkv6": rwkv6(q, k, v, vector, draw(HEADS, DK, seed=18)),
        "delta_net": delta_net(q, k, v, beta),
        "gated_delta_net": gated_delta_net(q, k, v, beta, alpha),
        "kda": kda(q, k, v, beta, vector),
        "gdn2": gdn2(q, k, v, a, gate(BATCH, length, HEADS, DV, seed=19), vector),
        "rwkv7": rwkv7(q, k, v, vector, k.flip(1), a),
        "delta_product": delta_product(q, several, values, betas, alpha),
        "titans": titans(q, k, v, beta, 1 - alpha),
        "titans, momentum": titans(q, k, v, beta, 1 - alpha, numbers(20, length)),
        "ttt_linear": ttt_linear(q, k, v, beta, 4),
        "rg_lru": rg_lru(x, alpha, beta),
        "min_gru": min_gru(torch.sigmoid(z), min_gru_g(h)),
        "min_lstm": min_lstm(torch.sigmoid(z), beta, h),
        "mlstm": mlstm(q, k, v, 3 * x, alpha.log()),
        "mlstm, not stabilized": mlstm(q, k, v, 3 * x, alpha.log(), False),
        "mamba3": mamba3(v, beta, -alpha, numbers(21, length), k, q),
    }


MEMBERS = every_member()


# --- the recurrence ------------------------------------------------------------------------------


def test_the_table_has_every_member():
    assert {name.partition(",")[0] for name in MEMBERS} == set(FAMILY)
    for name, member in FAMILY.items():
        assert member.terms is getattr(recurrences, name)
        assert member.arxiv in member.terms.__doc__
        assert all(isinstance(field, str) and field for field in member[:5])


@pytest.mark.parametrize("name", MEMBERS)
def test_it_is_the_two_lines(name):
    terms = MEMBERS[name]
    S = draw(BATCH, terms.v.shape[2], terms.v.shape[3], terms.k.shape[3], seed=30)
    want, last = written_out(terms, S)
    y, state = recurrence(terms, True, initial_state=S)
    close(y, want, 1e-10)
    close(state, last, 1e-10)
    close(recurrence(terms), written_out(terms, torch.zeros_like(S))[0], 1e-10)


@pytest.mark.parametrize("name", MEMBERS)
def test_a_later_token_changes_nothing_before(name):
    terms = every_member(8)[name]
    cut = 6 * terms.every

    def front(value):
        return value[:, :cut] if isinstance(value, torch.Tensor) else value

    close(recurrence(terms)[:, :6], recurrence(Terms(*map(front, terms))))


@pytest.mark.parametrize("name", sorted(set(MEMBERS) - {"mlstm", "titans, momentum"}))
def test_derivatives_against_differences(name):
    terms = MEMBERS[name]

    def run(q, k, v):
        return recurrence(terms._replace(q=q, k=k, v=v))

    inputs = [value[:1, :, :1].clone() for value in (terms.q, terms.k, terms.v)]
    small = [v[:1, :, :1] if isinstance(v, torch.Tensor) else v for v in terms]
    terms = Terms(*small)
    assert torch.autograd.gradcheck(run, [value.requires_grad_() for value in inputs])


def test_halves_are_summed_in_full():
    q, k, v = keys()
    low = [value.bfloat16() for value in (q, k, v)]
    y, S = recurrence(linear_attention(*low), True)
    want, last = recurrence(linear_attention(*(value.double() for value in low)), True)
    assert y.dtype == torch.bfloat16 and S.dtype == torch.float32
    close(S, last.float(), 1e-5)
    near(y, want, 2**-8)


# --- each beside its authors' code, or a library's -----------------------------------------------


def test_linear_attention_is_flas():
    q, k, v = keys()
    S = draw(BATCH, HEADS, DV, DK, seed=9)
    theirs = naive("linear_attn/naive.py", "naive_recurrent_linear_attn")
    want, last = theirs(q, k, v, 1.0, S.mT.float(), True)
    y, state = both(linear_attention(q, k, v), S)
    near(y, want)
    near(state, last)
    q, k = positive(q), positive(k)
    near(recurrence(linear_attention(q, k, v, True)), theirs(q, k, v, 1.0, normalize=True)[0])


def test_retnet_is_flas():
    q, k, v = keys()
    theirs = naive("retention/naive.py", "naive_retention")
    want = theirs(*(value.transpose(1, 2) for value in (q, k, v))).transpose(1, 2)
    near(recurrence(retnet(q / math.sqrt(DK), k, v)), want)


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_lightning_is_that_of_transformers(layer):
    config = MiniMaxConfig(
        hidden_size=12, num_attention_heads=4, head_dim=3, num_hidden_layers=4, block_size=8
    )
    theirs = MiniMaxLightningAttention(config, layer)
    seen = {}
    theirs.norm.register_forward_pre_hook(lambda m, args: seen.update(y=args[0]))
    x = draw(2, 21, 12, dtype=torch.float32)
    with torch.no_grad():
        _, last = theirs(x, None, None)
        q, k, v = functional.silu(theirs.qkv_proj(x)).unflatten(-1, (4, 9)).split(3, dim=-1)
    y, state = both(lightning(q, k, v, layer, 4))
    near(y.flatten(2), seen["y"])
    near(state, last)


def test_mamba_is_the_selective_scan():
    u, delta = draw(2, 17, 6), gate(2, 17, 6, seed=2)
    A, B, C = -gate(6, 4, seed=3), draw(2, 17, 4, seed=4), draw(2, 17, 4, seed=5)
    want = selective_scan(u.mT, delta.mT, A, B.mT, C.mT).mT
    close(recurrence(mamba1(u, delta, A, B, C))[..., 0], want)


def test_mamba2_is_that_of_transformers_and_ours():
    x, delta = draw(2, 33, 4, 3), gate(2, 33, 4, seed=2)
    A, B, C = -gate(4, seed=3), draw(2, 33, 2, 5, seed=4), draw(2, 33, 2, 5, seed=5)
    y, S = recurrence(mamba2(x, delta, A, B, C), True)
    want, last = ssd(x, delta, A, B, C, return_last_state=True)
    close(y, want)
    close(S, last)
    inputs = [value.float() for value in (x, delta, A, B, C)]
    theirs, state = mamba2_chunk_scan(*inputs, 16, return_final_states=True)
    near(y, theirs)
    near(S, state)


def test_gla_is_flas():
    q, k, v = keys()
    alpha, S = channels(4), draw(BATCH, HEADS, DV, DK, seed=9)
    theirs = naive("gla/naive.py", "naive_recurrent_gla")
    want, last = theirs(q, k, v, alpha.log(), S.mT, True)
    y, state = both(gla(q / math.sqrt(DK), k, v, alpha), S)
    near(y, want)
    near(state, last)


def test_rwkv6_is_flas():
    q, k, v = keys()
    w, u, S = channels(4), draw(HEADS, DK, seed=5), draw(BATCH, HEADS, DV, DK, seed=9)
    theirs = naive("rwkv6/recurrent_naive.py", "naive_recurrent_rwkv6")
    turned = [value.transpose(1, 2) for value in (q, k, v, w.log())]
    want, last = theirs(*turned, u, 1.0, S.mT, True)
    y, state = both(rwkv6(q, k, v, w, u), S)
    near(y, want.transpose(1, 2))
    near(state, last)


def test_delta_net_is_flas():
    q, k, v = keys()
    beta, S = 2 * numbers(4), draw(BATCH, HEADS, DV, DK, seed=9)
    theirs = naive("delta_rule/naive.py", "delta_rule_recurrence")
    turned = [value.transpose(1, 2) for value in (q, k, v, beta)]
    want, last = theirs(*turned, S.mT)
    y, state = both(delta_net(q / math.sqrt(DK), k, v, beta), S)
    near(y, want.transpose(1, 2))
    near(state, last)


def test_gated_delta_net_is_that_of_transformers_and_flas():
    q, k, v = keys()
    beta, alpha, S = numbers(4), numbers(5), draw(BATCH, HEADS, DV, DK, seed=9)
    y, state = both(gated_delta_net(q / math.sqrt(DK), k, v, beta, alpha), S)
    for theirs in (torch_chunk_gated_delta_rule, torch_recurrent_gated_delta_rule):
        want, last = theirs.__wrapped__(
            *(q, k, v, alpha.log(), beta),
            initial_state=S.mT,
            output_final_state=True,
        )
        near(y, want)
        near(state, last)
    theirs = naive("gated_delta_rule/naive.py", "naive_recurrent_gated_delta_rule")
    want, last = theirs(q, k, v, beta, alpha.log(), None, S.mT, True)
    near(y, want)
    near(state, last)


def test_kda_is_that_of_transformers_and_flas():
    q, k, v = keys()
    beta, alpha, S = numbers(4), channels(5), draw(BATCH, HEADS, DV, DK, seed=9)
    y, state = both(kda(q / math.sqrt(DK), k, v, beta, alpha), S)
    for theirs in (chunk_kimi_delta_attention, recurrent_kimi_delta_attention):
        want, last = theirs.__wrapped__(
            *(q, k, v, alpha.log(), beta),
            initial_state=S.mT,
            output_final_state=True,
        )
        near(y, want)
        near(state, last)
    theirs = naive("kda/naive.py", "naive_recurrent_kda")
    want, last = theirs(q, k, v, alpha.log(), beta, None, S.mT, True)
    near(y, want)
    near(state, last)


def test_gdn2_is_flas():
    q, k, v = keys()
    erase, write = channels(4), gate(BATCH, LENGTH, HEADS, DV, seed=5)
    alpha, S = channels(6), draw(BATCH, HEADS, DV, DK, seed=9)
    theirs = naive("gdn2/naive.py", "naive_recurrent_gdn2")
    want, last = theirs(q, k, v, alpha.log(), erase, write, 1.0, S.mT, True)
    y, state = both(gdn2(q, k, v, erase, write, alpha), S)
    near(y, want)
    near(state, last)


def test_rwkv7_is_flas():
    """There A = diag(w) + α βᵀ with α = −κ and β = a ⊙ κ."""
    q, k, v = keys()
    w, a, kappa = channels(4, low=0.545), channels(5), unit(draw(BATCH, LENGTH, HEADS, DK, seed=6))
    S = draw(BATCH, HEADS, DV, DK, seed=9)
    theirs = naive("generalized_delta_rule/dplr/naive.py", "dplr_recurrence")
    turned = [value.transpose(1, 2) for value in (q, k, v, -kappa.float(), a * kappa, w.log())]
    want, last = theirs(*turned, S.mT)
    y, state = both(rwkv7(q / math.sqrt(DK), k, v, w, kappa, a), S)
    near(y, want.transpose(1, 2))
    near(state, last)


def test_delta_product_is_flas():
    q, _, _ = keys()
    k = unit(draw(BATCH, LENGTH, HEADS, 3, DK, seed=2))
    v, beta = draw(BATCH, LENGTH, HEADS, 3, DV, seed=3), 2 * gate(BATCH, LENGTH, HEADS, 3, seed=4)
    alpha, S = numbers(5), draw(BATCH, HEADS, DV, DK, seed=9)
    theirs = naive("gated_delta_product/naive.py", "naive_recurrent_gated_delta_product")

    def steps(x):
        return x.transpose(2, 3).flatten(1, 2)

    flat = [steps(value) for value in (k, v)]
    want, last = theirs(
        *(q, *flat, alpha.log(), steps(beta), 1.0),
        initial_state=S.mT.float(),
        num_householder=3,
    )
    y, state = both(delta_product(q, k, v, beta, alpha), S)
    near(y, want)
    near(state, last)
    one = delta_product(q, k[:, :, :, 0, None], v[:, :, :, 0, None], beta[..., :1], alpha)
    single = gated_delta_net(q, k[:, :, :, 0], v[:, :, :, 0], beta[..., 0], alpha)
    close(recurrence(one), recurrence(single))


@pytest.mark.parametrize("momentum", [False, True])
def test_titans_takes_the_papers_gradient(momentum):
    q, k, v = keys(length=9)
    theta, alpha = numbers(4, 9), numbers(5, 9)
    eta = numbers(6, 9) if momentum else torch.zeros_like(theta)
    M, Z = torch.zeros(2, BATCH, HEADS, DV, DK, dtype=F64)
    outputs = []
    for t in range(9):
        M = M.requires_grad_()
        loss = 0.5 * ((M @ k[:, t, ..., None])[..., 0] - v[:, t]).square().sum()
        (slope,) = torch.autograd.grad(loss, M)
        at = (slice(None), t, slice(None), None, None)
        Z = eta[at] * Z - theta[at] * slope
        M = ((1 - alpha[at]) * M + Z).detach()
        outputs.append((M @ q[:, t, ..., None])[..., 0])
    y, S = recurrence(titans(q, k, v, theta, alpha, eta if momentum else None), True)
    close(y, torch.stack(outputs, 1))
    close(S, torch.cat([M, Z], -1) if momentum else M)


@pytest.mark.parametrize("mini_batch", [1, 4, 16])
def test_ttt_takes_the_gradients_of_a_mini_batch_at_its_start(mini_batch):
    q, k, v = keys(length=18)
    eta = numbers(4, 18)
    W = torch.zeros(BATCH, HEADS, DV, DK, dtype=F64)
    outputs = []
    for t in range(18):
        if t % mini_batch == 0:
            start = W.requires_grad_()
        loss = 0.5 * ((start @ k[:, t, ..., None])[..., 0] - v[:, t]).square().sum()
        (slope,) = torch.autograd.grad(loss, start)
        W = W.detach() - eta[:, t, :, None, None] * slope
        outputs.append((W @ q[:, t, ..., None])[..., 0])
    y, S = recurrence(ttt_linear(q, k, v, eta, mini_batch), True)
    close(y, torch.stack(outputs, 1))
    close(S[..., :DK], W)
    same = torch.allclose(y, recurrence(delta_net(q, k, v, eta)))
    assert same == (mini_batch == 1)


def test_rg_lru_is_that_of_transformers():
    config = RecurrentGemmaConfig(hidden_size=12, lru_width=12, num_attention_heads=3)
    theirs = RecurrentGemmaRglru(config)
    for i, parameter in enumerate(theirs.parameters()):
        parameter.data = draw(*parameter.shape, seed=i, dtype=torch.float32)
    x = draw(2, 21, 12, seed=9, dtype=torch.float32)
    places = torch.arange(1, 22).expand(2, -1)  # at 0 they do not scale the input
    with torch.no_grad():
        want = theirs(x, places)
        heads = x.unflatten(-1, (3, 4))

        def gate_of(weight, bias):
            return torch.sigmoid(torch.einsum("blhi,hij->blhj", heads, weight) + bias).flatten(2)

        r = gate_of(theirs.recurrent_gate_weight, theirs.recurrent_gate_bias)
        i = gate_of(theirs.input_gate_weight, theirs.input_gate_bias)
        a = torch.sigmoid(-theirs.recurrent_param) ** (8 * r)  # their parameter is −Λ
    near(recurrence(rg_lru(x, a, i))[..., 0], want, 1e-5)


def test_min_gru_is_lucidrains():
    theirs = minGRU(6).double()
    x = draw(2, 21, 6)
    with torch.no_grad():
        want = theirs(x)
        h, z = theirs.to_hidden_and_gate(x).chunk(2, dim=-1)
    y = recurrence(min_gru(torch.sigmoid(z), min_gru_g(h)))[..., 0]
    close(y, want, 1e-10)


def test_min_lstm_is_its_line():
    f, i, h = numbers(1, 9), numbers(2, 9), draw(BATCH, 9, HEADS, seed=3)
    state, outputs = torch.zeros(BATCH, HEADS, dtype=F64), []
    for t in range(9):
        state = (f[:, t] * state + i[:, t] * h[:, t]) / (f[:, t] + i[:, t])
        outputs.append(state)
    close(recurrence(min_lstm(f, i, h))[..., 0], torch.stack(outputs, 1))


def test_mlstm_is_its_authors():
    q, k, v = keys()
    i, f = 3 * draw(BATCH, LENGTH, HEADS, seed=4), 2 + draw(BATCH, LENGTH, HEADS, seed=5)
    y = recurrence(mlstm(q, k, v, i, functional.logsigmoid(f)))
    turned = [value.transpose(1, 2) for value in (q, k, v, i, f)]
    want, _, _ = mlstm_parallel_fw(*turned, eps=0.0)
    close(y, want.transpose(1, 2), 1e-9)
    state = [torch.zeros(BATCH, HEADS, *s, dtype=F64) for s in ((DK, DV), (DK,), (1,))]
    state[2] -= math.inf  # their loop starts at m = 0, as if a state of e⁰ times 0 had been there
    for t in range(LENGTH):
        at = [value[:, t] for value in (q, k, v)]
        gates = [value[:, t, :, None] for value in (i, f)]
        out, state = mlstm_recurrent_step__native_fw(*state, *at, *gates, 0.0, F64)
        close(y[:, t], out, 1e-9)


def test_mlstm_stabilized_is_the_same_where_nothing_overflows():
    q, k, v = keys()
    i, f = 3 * draw(BATCH, LENGTH, HEADS, seed=4), numbers(5).log()
    close(recurrence(mlstm(q, k, v, i, f)), recurrence(mlstm(q, k, v, i, f, False)), 1e-9)
    # A floor of 1 on the stabilised state would be another model.
    wrong = mlstm(q, k, v, i, f)._replace(floor=torch.ones_like(i))
    assert (recurrence(wrong) - recurrence(mlstm(q, k, v, i, f))).abs().max() > 0.1
    large = mlstm(q, k, v, 500 * i, f)
    assert recurrence(large).isfinite().all()
    assert large.w.max() <= 1 and large.decay.max() <= 1
    assert not mlstm(q, k, v, 500 * i, f, False).w.isfinite().all()


def test_mamba3_with_lambda_one_is_mamba2():
    x, delta = draw(2, 17, 4, 3), gate(2, 17, 4, seed=2)
    A, B, C = -gate(4, seed=3), draw(2, 17, 4, 5, seed=4), draw(2, 17, 4, 5, seed=5)
    ones = torch.ones_like(delta)
    close(
        recurrence(mamba3(x, delta, ones * A, ones, B, C)),
        recurrence(mamba2(x, delta, A, B, C)),
    )


# --- equal under which restriction ---------------------------------------------------------------


def vector(alpha):
    return alpha[..., None].expand(*alpha.shape, DK)


def same(left, right, tolerance=1e-12):
    (one, S), (other, Z) = (recurrence(terms, True) for terms in (left, right))
    close(one, other, tolerance)
    close(S, Z, tolerance)


def test_mamba_of_one_value_of_A_and_one_step_a_head_is_mamba2():
    x, delta = draw(2, 17, 3, 4), gate(2, 17, 3, seed=2)
    A, B, C = -gate(3, seed=3), draw(2, 17, 5, seed=4), draw(2, 17, 5, seed=5)
    wide = mamba1(
        x.flatten(2),
        delta.repeat_interleave(4, 2),
        A.repeat_interleave(4)[:, None].expand(12, 5),
        B,
        C,
    )
    y = recurrence(wide)[..., 0].unflatten(2, (3, 4))
    close(y, recurrence(mamba2(x, delta, A, B[:, :, None], C[:, :, None])))


def test_a_step_in_the_write_may_stand_in_v():
    """Mamba-2 with Δ folded into v is linear attention with a gate of one number."""
    q, k, v = keys()
    delta, A = numbers(4), -gate(HEADS, seed=5)
    alpha = torch.exp(delta * A)
    same(mamba2(v, delta, A, k, q), gla(q, k, delta[..., None] * v, vector(alpha)))
    theirs = naive("simple_gla/naive.py", "naive_recurrent_simple_gla")
    want, _ = theirs(q, k, delta[..., None] * v, delta * A, 1.0)
    near(recurrence(mamba2(v, delta, A, k, q)), want)


def test_constant_gates():
    """A constant gate is RetNet, a gate of 1 linear attention."""
    q, k, v = keys()
    gamma = 1 - 2.0 ** (-5 - torch.arange(HEADS, dtype=F64))
    same(gla(q, k, v, vector(gamma.expand(BATCH, LENGTH, HEADS))), retnet(q, k, v))
    same(gla(q, k, v, torch.ones_like(k)), linear_attention(q, k, v))


def test_the_delta_rules():
    """KDA of equal decays, gated DeltaNet, DeltaNet; GDN-2 of equal gates, KDA."""
    q, k, v = keys()
    beta, alpha, decays = numbers(4), numbers(5), channels(6)
    same(kda(q, k, v, beta, vector(alpha)), gated_delta_net(q, k, v, beta, alpha))
    same(gated_delta_net(q, k, v, beta, torch.ones_like(beta)), delta_net(q, k, v, beta))
    gates = vector(beta), beta[..., None].expand(v.shape)
    same(gdn2(q, k, v, *gates, decays), kda(q, k, v, beta, decays))


def test_gated_delta_net_is_rwkv7():
    """With w = α 1, a = α β 1 and a written key of β k."""
    q, k, v = keys()
    beta, alpha = numbers(4), numbers(5)
    a = vector(alpha * beta)
    same(
        gated_delta_net(q, k, v, beta, alpha),
        rwkv7(q, beta[..., None] * k, v, vector(alpha), k, a),
        1e-11,
    )


def test_the_order_of_decay_and_erase_is_two_models():
    """With one decay a channel, no gate a ⊙ κ of RWKV-7's gives KDA's A."""
    q, k, v = keys()
    beta, alpha = numbers(4), channels(5)
    first = kda(q, k, v, beta, alpha)
    late = first._replace(decay_first=False)
    one, other = recurrence(first), recurrence(late)
    assert (one - other).abs().max() > 0.1 * one.abs().max()
    # What is erased is of rank one in both; its column is α ⊙ k in one, k in the other.
    low = [torch.diag_embed(alpha) - transitions(terms) for terms in (first, late)]
    close(low[0], beta[..., None, None] * (alpha * k)[..., None] * k[..., None, :])
    close(low[1], beta[..., None, None] * k[..., None] * k[..., None, :])


def test_titans_without_momentum_is_a_delta_rule_of_the_undecayed_state():
    q, k, v = keys()
    theta, alpha = numbers(4), numbers(5)
    same(
        titans(q, k, v, theta, alpha),
        rwkv7(q, theta[..., None] * k, v, vector(1 - alpha), k, vector(theta)),
        1e-11,
    )
    same(titans(q, k, v, theta, torch.zeros_like(alpha)), delta_net(q, k, v, theta))
    none = torch.zeros_like(theta)
    close(
        recurrence(titans(q, k, v, theta, alpha, none)),
        recurrence(titans(q, k, v, theta, alpha)),
    )


def test_one_gradient_step():
    """On ½ ‖S k − v‖² it is DeltaNet, on −⟨S k, v⟩ linear attention."""
    _, k, v = keys(length=1)
    beta, S = numbers(4, 1), draw(BATCH, HEADS, DV, DK, seed=9).requires_grad_()
    seen = (S @ k[:, 0, ..., None])[..., 0]
    for loss, terms, size in (
        (0.5 * (seen - v[:, 0]).square().sum(), delta_net(k, k, v, beta), beta[:, 0]),
        (-(seen * v[:, 0]).sum(), linear_attention(k, k, v), torch.ones(())),
    ):
        (slope,) = torch.autograd.grad(loss, S, retain_graph=True)
        _, after = recurrence(terms, True, initial_state=S.detach())
        close(after, (S - size[..., None, None] * slope).detach())


def test_min_gru_is_a_selective_state_space_model():
    """Zero-order hold, N = 1, A = −1, B = C = 1 and Δ = softplus(z̃): chapter 12's gate."""
    z, h = draw(2, 21, 6), min_gru_g(draw(2, 21, 6, seed=2))
    a, b = zero_order_hold_diagonal(
        -torch.ones(1, dtype=F64), torch.ones(1, dtype=F64), functional.softplus(z)[..., None]
    )
    close(a[..., 0], 1 - torch.sigmoid(z))
    close(b[..., 0], torch.sigmoid(z))
    one = torch.ones(2, 1, 21, dtype=F64)
    y = recurrence(min_gru(torch.sigmoid(z), h))[..., 0]
    want = selective_scan(
        h.mT,
        functional.softplus(z).mT,
        -torch.ones(6, 1, dtype=F64),
        one,
        one,
        rule="zero_order_hold",
    )
    close(y, want.mT)


@pytest.mark.parametrize(("beta", "eigenvalue"), [(0.5, 0.5), (1.0, 0.0), (2.0, -1.0)])
def test_eigenvalues_of_a_delta_step(beta, eigenvalue):
    q, k, v = keys(length=1)
    A = transitions(delta_net(q, k, v, torch.full((BATCH, 1, HEADS), beta, dtype=F64)))
    values = torch.linalg.eigvalsh(A)
    want = torch.ones(DK, dtype=F64)
    want[0] = eigenvalue
    close(values, want.expand(values.shape), 1e-12)


def test_five_things_are_permuted_by_reflections():
    """Four reflections a token give any permutation of five: k = (e_i − e_j)/√2 and β = 2."""
    generator = torch.Generator().manual_seed(0)
    k = torch.zeros(1, 50, 1, 4, 5, dtype=F64)
    k[..., 0] = 1  # a token that moves nothing has β = 0
    beta = torch.zeros(1, 50, 1, 4, dtype=F64)
    state, places = torch.arange(5.0, dtype=F64), []
    for t in range(50):
        order = torch.randperm(5, generator=generator).tolist()
        places.append(state := state[order])
        now, j = list(range(5)), 0
        for to in range(5):
            source = now.index(order[to])
            if source != to:
                now[to], now[source] = now[source], now[to]
                k[0, t, 0, j] = torch.eye(5, dtype=F64)[to] - torch.eye(5, dtype=F64)[source]
                beta[0, t, 0, j], j = 2, j + 1
    k = unit(k)
    q = torch.eye(5, dtype=F64)[:1].expand(1, 50, 1, 5)
    S = torch.arange(5.0, dtype=F64)[None, None, None]
    none = torch.zeros(1, 50, 1, 4, 1, dtype=F64)
    y = recurrence(delta_product(q, k, none, beta), initial_state=S)
    close(y[0, :, 0, 0], torch.stack(places)[:, 0], 1e-12)


@given(seed=seeds)
def test_it_is_linear_in_v_and_in_the_state(seed):
    q, k, v = keys(seed, 7)
    terms = gated_delta_net(q, k, v, numbers(seed, 7), numbers(seed + 1, 7))
    S = draw(BATCH, HEADS, DV, DK, seed=seed)
    parts = recurrence(terms) + recurrence(terms._replace(v=torch.zeros_like(v)), initial_state=S)
    close(recurrence(terms, initial_state=S), parts, 1e-10)


# --- where others' code is not what it says ------------------------------------------------------


def by_tokens(model, tokens, positions):
    """Logits of one token after the other, with or without their positions."""
    cache, rows = None, []
    for t in range(tokens.shape[1]):
        more = {"position_ids": torch.full((len(tokens), 1), t)} if positions else {}
        out = model(tokens[:, t : t + 1], past_key_values=cache, use_cache=True, **more)
        cache = out.past_key_values
        rows.append(out.logits)
    return torch.cat(rows, dim=1)


@pytest.mark.parametrize("attending", [0, 1])
@torch.no_grad()
def test_bamba_without_positions_steps_wrongly(attending):
    """Wherever its attention layer is; with position_ids the steps are right."""
    config = BambaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, attn_layer_indices=[attending],
        mamba_n_heads=4, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=8, mamba_chunk_size=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BambaForCausalLM(config).eval()
    for i, parameter in enumerate(model.parameters()):
        parameter += 0.3 * draw(*parameter.shape, seed=i, dtype=torch.float32)
    tokens = torch.randint(0, 50, (2, 12))
    want = model(tokens, use_cache=False).logits
    near(by_tokens(model, tokens, True), want, 1e-5)
    gap = (by_tokens(model, tokens, False) - want).abs().max() / want.abs().max()
    assert gap > 0.1


@torch.no_grad()
def test_their_rwkv_steps_one_sequence_rightly_and_two_not():
    config = RwkvConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, context_length=32,
        attention_hidden_size=16,
    )  # fmt: skip
    model = RwkvForCausalLM(config).eval()
    tokens = torch.arange(12).reshape(2, 6)
    for batch, shape in ((1, (1, 1, 50)), (2, (2, 2, 50))):
        state = model(tokens[:batch, :5], use_cache=True).state
        assert model(tokens[:batch, 5:], state=state, use_cache=True).logits.shape == shape


def test_default_hybrids_are_none():
    for config, kinds in (
        (BambaConfig(), {"linear_attention"}),
        (GraniteMoeHybridConfig(), {"linear_attention"}),
        (Lfm2Config(), {"full_attention"}),
    ):
        assert set(config.layer_types) == kinds
    # MiniMax-01 has an attention after every seven of Lightning.
    kinds = MiniMaxConfig().layer_types
    assert kinds[::2] == ["full_attention"] * 16 and kinds[1::2] == ["linear_attention"] * 16


def test_an_implicit_step_is_a_delta_rule_of_another_strength():
    """The S with the least ½ ‖S − S₀‖² + ½ β ‖S k − v‖², k of any length (Longhorn)."""
    S, k, v, beta = draw(3, 4), draw(4, seed=1), draw(3, seed=2), 0.7
    eye = torch.eye(4, dtype=torch.float64)
    least = torch.linalg.solve(
        eye + beta * torch.outer(k, k), S + beta * torch.outer(v, k), left=False
    )
    q, keys, values = (x[None, None, None] for x in (k, k, v))
    strength = torch.full((1, 1, 1), beta / (1 + beta * float(k @ k)), dtype=torch.float64)
    _, after = recurrence(delta_net(q, keys, values, strength), True, initial_state=S[None, None])
    close(after[0, 0], least)


def test_two_tables_that_add_solve_the_regression():
    """G (H + Λ)⁻¹ q: what the S with the least Σ ‖S k − v‖² + ‖S Λ^½‖² answers (MesaNet)."""
    k, v, q = draw(1, 9, 1, 4), draw(1, 9, 1, 3, seed=1), draw(4, seed=2)
    ridge = torch.rand(4, dtype=torch.float64) + 0.1
    G, H = (recurrence(linear_attention(k, k, x), True)[1][0, 0] for x in (v, k))
    rows = torch.cat([k[0, :, 0], torch.diag(ridge.sqrt())])
    wanted = torch.linalg.lstsq(rows, torch.cat([v[0, :, 0], torch.zeros(4, 3).double()])).solution
    close(G @ torch.linalg.solve(H + torch.diag(ridge), q), wanted.T @ q)


def test_flas_naive_titans_lacks_a_bracket(monkeypatch):
    """The gradient of ½ ‖LayerNorm(k M) − (v − k)‖², read off one step, beside autograd's."""
    for name in ("fla", "fla.ops", "fla.ops.titans", "fla.ops.titans.log_impl"):
        found = importlib.util.find_spec("fla") if name == "fla" else None
        module = types.ModuleType(name)
        module.__spec__ = found
        module.combine_params_log = None
        monkeypatch.setitem(sys.modules, name, module)
    theirs = naive("titans/naive.py", "titans_linear")
    d, eps = 6, 1e-6
    q, k, v = (draw(1, 1, 1, d, seed=i, dtype=torch.float32) for i in (1, 2, 3))
    weight, bias = (draw(d, seed=i, dtype=torch.float32) for i in (4, 5))
    M = draw(1, 1, d, d, seed=6, dtype=torch.float32)
    one = torch.ones(1, 1, 1, 1)
    _, after = theirs(q, k, v, weight, bias, one, 0 * one, 0 * one, eps, 1, M, True)
    taken = (k @ (M - after) / (2 * k.square().sum()))[0, 0, 0]
    seen = (k @ M)[0, 0, 0].requires_grad_()
    normed = functional.layer_norm(seen, (d,), weight, bias, eps)
    loss = (normed - (v - k)[0, 0, 0]).square().sum() / 2
    (wanted,) = torch.autograd.grad(loss, seen)
    # With brackets: (d g − Σ g − x̂ Σ g x̂) / (d σ).
    scale = torch.sqrt(seen.detach().var(unbiased=False) + eps)
    hat = (seen.detach() - seen.detach().mean()) / scale
    g = (weight * hat + bias - (v - k)[0, 0, 0]) * weight
    right = (d * g - g.sum() - hat * (g * hat).sum()) / (d * scale)
    near(right, wanted, 1e-5)
    lacking = d * g - g.sum() / (d * scale) - hat * (g * hat).sum() / (d * scale)
    near(taken, lacking, 1e-4)
    assert (taken - wanted).abs().max() > 2 * wanted.abs().max()


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.bad_input
def test_bad_arguments():
    q, k, v = keys(length=6)
    good = delta_net(q, k, v, numbers(4, 6))
    for changed, says in (
        ({"k": k[0]}, r"^k: expected shape \(batch, length, heads, dk\)"),
        ({"v": v[:, :5]}, r"^v: expected shape \(2, 6, 3, dv\)"),
        ({"q": q[..., :4]}, r"^q: expected shape \(2, 6, 3, 5\)"),
        ({"w": v}, r"^w: expected shape \(2, 6, 3\)"),
        ({"decay": v}, r"^decay: expected shape \(2, 6, 3, 5\)"),
        ({"decay": v[0, 0]}, r"^decay: expected shape \(2, 6, 3\)"),
        ({"read": None}, "^erase: expected read and erase together"),
        ({"every": 4}, "^every: expected a divisor of length = 6, got 4"),
        ({"every": 0}, "^every: expected a whole number >= 1, got 0"),
        ({"q": q.float()}, "^q: expected the precision of k"),
        ({"v": v / 0}, "^v: expected finite values"),
    ):
        for function in (recurrence, transitions):
            with pytest.raises((TypeError, ValueError), match=says):
                function(good._replace(**changed))
    with pytest.raises(ValueError, match=r"^initial_state: expected shape \(2, 3, 4, 5\)"):
        recurrence(good, initial_state=torch.zeros(2, 3, 5, 4, dtype=F64))
    with pytest.raises(TypeError, match=r"^terms: expected Terms, got a list"):
        recurrence([q, k, v])
    with pytest.raises(ValueError, match=r"^mini_batch: expected a whole number >= 1, got 0"):
        ttt_linear(q, k, v, numbers(4, 6), 0)
