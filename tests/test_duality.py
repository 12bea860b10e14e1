"""Chapter 20: three forms of one map, the Mamba-2 block, its start, cost and checkpoints."""

import json
import math

import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from transformers import FalconH1Config, Mamba2ForCausalLM
from transformers import Mamba2Config as TheirConfig
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1RMSNormGated as FalconNorm
from transformers.models.mamba2.modeling_mamba2 import (
    MambaRMSNormGated,
    mamba2_chunk_scan,
    segment_sum,
)
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNormGated
from transformers.models.zamba2.modeling_zamba2 import Zamba2RMSNormGated

from helpers import (
    Largest,
    changed,
    close,
    count_flops,
    draw,
    released_folder,
    shaken,
    tokens_of,
)
from linear_time import mamba2_folders
from linear_time.checkpoints import REQUIRED
from linear_time.cost import cost
from linear_time.duality import (
    mamba2_cost,
    segment_sums,
    ssd,
    ssd_matrix,
    ssd_quadratic,
    ssd_recurrent,
)
from linear_time.mamba2 import (
    GatedNorm,
    Mamba2,
    Mamba2Config,
    Mamba2LM,
    Mamba2State,
)
from linear_time.mixer import LanguageModel, Residual
from linear_time.selective import selective_scan
from linear_time.training import parameter_groups

F64 = torch.float64
VOCAB = 53
seeds = st.integers(0, 2**31 - 1)


def system(batch=2, length=23, heads=4, P=3, groups=2, N=5, seed=0, dtype=F64):
    """x, Δ, A, B, C, D; the decays of a step lie between 0.1 and 1."""
    x, B, C = (
        draw(batch, length, *sizes, seed=seed + i, dtype=dtype)
        for i, sizes in enumerate(((heads, P), (groups, N), (groups, N)))
    )
    delta = torch.rand(batch, length, heads, generator=torch.Generator().manual_seed(seed)).to(
        dtype
    )
    A = -draw(heads, seed=seed + 4, dtype=dtype).abs()
    return x, delta, A, B, C, draw(heads, seed=seed + 5, dtype=dtype)


def written_out(x, delta, A, B, C, D, S=None):
    """Loops over everything, from the two lines of the module."""
    batch, length, heads, P = x.shape
    groups, N = B.shape[2:]
    S = torch.zeros(batch, heads, P, N, dtype=x.dtype) if S is None else S.clone()
    y = torch.zeros_like(x)
    for b in range(batch):
        for t in range(length):
            for h in range(heads):
                g = h * groups // heads
                write = delta[b, t, h] * torch.outer(x[b, t, h], B[b, t, g])
                S[b, h] = math.exp(delta[b, t, h] * A[h]) * S[b, h] + write
                y[b, t, h] = S[b, h] @ C[b, t, g] + D[h] * x[b, t, h]
    return y, S


# --- the forms -----------------------------------------------------------------------------------


@given(
    seed=seeds,
    batch=st.integers(1, 3),
    length=st.integers(1, 19),
    groups=st.integers(1, 3),
    shared=st.integers(1, 3),
    P=st.integers(1, 4),
    N=st.integers(1, 4),
    chunk=st.integers(1, 23),
)
def test_all_forms_are_the_two_lines(seed, batch, length, groups, shared, P, N, chunk):
    inputs = system(batch, length, groups * shared, P, groups, N, seed)
    S = draw(batch, groups * shared, P, N, seed=seed + 9)
    y, last = written_out(*inputs, S)
    for form in (ssd_recurrent, lambda *a, **k: ssd(*a, chunk=chunk, **k)):
        got, state = form(*inputs, True, initial_state=S)
        close(got, y, 1e-10)
        close(state, last, 1e-10)
    without = written_out(*inputs)[0]
    close(ssd_quadratic(*inputs), without, 1e-10)
    close(ssd(*inputs, chunk=chunk), without, 1e-10)
    close(ssd_recurrent(*inputs), without, 1e-10)
    plain = ssd(*inputs[:5], chunk=chunk)
    close(plain + inputs[5][:, None] * inputs[0], without, 1e-10)


@pytest.mark.parametrize("chunk", [1, 4, 7, 23, 64])
def test_the_gradients_of_all_forms_are_one(chunk):
    inputs = [value.requires_grad_() for value in system()]
    S = draw(2, 4, 3, 5, seed=9).requires_grad_()
    weight, state_weight = draw(2, 23, 4, 3, seed=10), draw(2, 4, 3, 5, seed=11)

    def gradients(form, **options):
        y, last = form(*inputs, True, initial_state=S, **options)
        return torch.autograd.grad((weight * y).sum() + (state_weight * last).sum(), [*inputs, S])

    wanted = gradients(ssd_recurrent)
    for got, want in zip(gradients(ssd, chunk=chunk), wanted, strict=True):
        close(got, want, 1e-10)


def test_derivatives_against_differences():
    inputs = [value.requires_grad_() for value in system(1, 5, 2, 2, 1, 2)]
    assert torch.autograd.gradcheck(lambda *a: ssd(*a, chunk=2), inputs)
    assert torch.autograd.gradgradcheck(lambda *a: ssd(*a, chunk=2), inputs)


def test_the_matrix_is_the_definition():
    _, delta, A, B, C, _ = system(1, 7, 2, 3, 1, 4)
    M = ssd_matrix(delta, A, B, C)
    for h in range(2):
        for t in range(7):
            for s in range(7):
                between = sum(float(delta[0, r, h] * A[h]) for r in range(s + 1, t + 1))
                want = float(C[0, t, 0] @ B[0, s, 0] * delta[0, s, h]) * math.exp(between)
                close(M[0, h, t, s], want if s <= t else 0.0)


def test_the_rank_below_the_diagonal_is_the_state():
    """Of every block; a softmax of the same scores has full rank."""
    _, delta, A, B, C, _ = system(1, 64, 1, 3, 1, 4)
    M = ssd_matrix(delta, A, B, C)[0, 0]
    for cut in (8, 32, 50):
        assert torch.linalg.matrix_rank(M[cut:, : cut + 1]) == 4
    scores = (C[0, :, 0] @ B[0, :, 0].T).masked_fill(~torch.ones(64, 64).tril().bool(), -math.inf)
    assert torch.linalg.matrix_rank(scores.softmax(-1)[32:, :32]) == 32


def test_it_is_the_selective_scan_with_one_decay_a_head():
    x, delta, A, B, C, D = system(2, 31, 4, 3, 1, 5)
    S = draw(2, 4, 3, 5, seed=9)
    want, last = selective_scan(
        x.flatten(2).mT,
        delta.repeat_interleave(3, 2).mT,
        A.repeat_interleave(3)[:, None].expand(-1, 5),
        B[:, :, 0].mT,
        C[:, :, 0].mT,
        D.repeat_interleave(3),
        return_last_state=True,
        initial_state=S.flatten(1, 2),
    )
    y, state = ssd(x, delta, A, B, C, D, True, initial_state=S, chunk=8)
    close(y.flatten(2), want.mT)
    close(state.flatten(1, 2), last)


@given(seed=seeds, length=st.integers(1, 40), chunk=st.sampled_from([1, 5, 16, 64]))
def test_it_is_that_of_transformers(seed, length, chunk):
    inputs = system(length=length, seed=seed, dtype=torch.float32)
    S = draw(2, 4, 3, 5, seed=9, dtype=torch.float32)
    want, last = mamba2_chunk_scan(
        *inputs[:5], 16, D=inputs[5], initial_states=S, return_final_states=True
    )
    y, state = ssd(*inputs, True, initial_state=S, chunk=chunk)
    torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-5)


def test_a_state_is_handed_on_between_pieces():
    inputs = system(length=30)
    y, last = ssd(*inputs, True, chunk=8)
    x, delta, A, B, C, D = inputs
    pieces, S = [], None
    for cut in (slice(0, 1), slice(1, 12), slice(12, 30)):
        part = (x[:, cut], delta[:, cut], A, B[:, cut], C[:, cut], D)
        piece, S = ssd(*part, True, initial_state=S, chunk=8)
        pieces.append(piece)
    close(torch.cat(pieces, 1), y, 1e-12)
    close(S, last, 1e-12)


def test_a_step_of_zero_leaves_the_state():
    x, delta, A, B, C, D = system()
    delta[:, 10:] = 0
    _, last = ssd(x, delta, A, B, C, D, True, chunk=8)
    _, before = ssd(x[:, :10], delta[:, :10], A, B[:, :10], C[:, :10], D, True)
    close(last, before)


@torch.no_grad()
def test_the_chunked_form_holds_no_matrix_of_the_whole_length():
    inputs = system(1, 512, 2, 4, 1, 4)
    with Largest() as largest:
        ssd(*inputs, chunk=16)
    assert largest.numbers <= 512 * 2 * 16  # the entries of M inside the chunks
    with Largest() as largest:
        ssd_quadratic(*inputs)
    assert largest.numbers == 2 * 512 * 512


@torch.no_grad()
def test_the_cost_of_a_chunk_is_as_counted():
    """Products alone: 2 C (P + C) + 4 P N a head and token, and 2 C N a group for the scores."""
    length, heads, P, groups, N = 256, 4, 8, 2, 16
    inputs = system(1, length, heads, P, groups, N)
    for chunk in (8, 32, 64):
        a_token = heads * (2 * chunk * (P + chunk) + 4 * P * N) + groups * 2 * chunk * N
        assert count_flops(lambda c=chunk: ssd(*inputs[:5], chunk=c)) == a_token * length


# --- segment sums --------------------------------------------------------------------------------


def test_segment_sums_are_their_own_terms():
    x = draw(2, 6)
    S = segment_sums(x)
    for t in range(6):
        for s in range(6):
            if s > t:
                assert (S[:, t, s] == -math.inf).all()
            else:
                close(S[:, t, s], x[:, s + 1 : t + 1].sum(1))
    torch.testing.assert_close(S, segment_sum(x))


def test_a_difference_of_cumulative_sums_loses_digits():
    """256 steps that forget nearly all: errors of exp of a neighbour's sum, relative."""
    x = -8 - 3 * torch.rand(256, generator=torch.Generator().manual_seed(0))
    exact = segment_sums(x.double()).exp()
    c = x.cumsum(0)
    below = torch.ones(256, 256).tril().bool() & (exact > 1e-9)

    def error(sums):
        return ((sums.double().exp() - exact) / exact)[below].abs().max()

    assert error(segment_sums(x)) < 3e-6 < 1e-4 < error(c[:, None] - c[None])
    # exp before the mask overflows above the diagonal, and 0 · inf is no number.
    assert (c[:, None] - c[None]).exp().isinf().any()


def test_one_reset_does_not_spoil_what_follows():
    """After a step that forgets all, sums of small terms keep their digits."""
    x = torch.full((64,), -1e-3)
    x[3] = -1e6
    assert (segment_sums(x)[63, 10] + 0.053).abs() < 1e-7
    c = x.cumsum(0)
    assert (c[63] - c[10] + 0.053).abs() > 1e-3


def test_one_reset_does_not_spoil_what_a_chunk_adds():
    """What follows a step that forgets all fades by its own small terms, in single precision."""
    x, delta, _, B, C, _ = system(1, 16, 1, 2, 1, 3)
    A, delta = -torch.ones(1, dtype=F64), torch.full_like(delta, 3e-3)
    delta[:, 3] = 1e6
    want = ssd(x, delta, A, B, C, return_last_state=True)[1]
    single = (value.float() for value in (x, delta, A, B, C))
    got = ssd(*single, return_last_state=True, chunk=16)[1]
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1.0)


def test_half_precision_is_summed_in_full():
    x = torch.full((300,), -0.01, dtype=torch.bfloat16)
    assert segment_sums(x).dtype == torch.float32
    assert abs(float(segment_sums(x)[299, 0]) - 299 * float(x[0])) < 1e-4


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, torch.zeros(2, 23, 4), r"^x: expected shape \(2, 23, 4, P\)"),
        (0, torch.zeros(2, 23, 3, 3), r"^x: expected shape \(2, 23, 4, P\)"),
        (1, torch.zeros(2, 23, 4, 1), r"^delta: expected shape \(batch, length, heads\)"),
        (1, -torch.ones(2, 23, 4, dtype=F64), "^delta: expected step sizes >= 0, got .* -1$"),
        (1, torch.full((2, 23, 4), math.nan, dtype=F64), "^delta: expected finite values"),
        (2, torch.zeros(3, dtype=F64), r"^A: expected shape \(4,\)"),
        (3, torch.zeros(2, 23, 3, 5, dtype=F64), r"^C: expected shape \(2, 23, 3, 5\)"),
        (4, torch.zeros(2, 22, 2, 5, dtype=F64), r"^C: expected shape \(2, 23, 2, 5\)"),
        (5, torch.zeros(4, 3, dtype=F64), r"^D: expected shape \(4,\)"),
        (5, torch.zeros(4), "^D: expected the precision of delta"),
    ],
)
@pytest.mark.parametrize("form", [ssd, ssd_quadratic, ssd_recurrent])
def test_bad_arguments(at, value, message, form):
    inputs = list(system())
    inputs[at] = value
    with pytest.raises((TypeError, ValueError), match=message):
        form(*inputs)


@pytest.mark.bad_input
def test_more_bad_arguments():
    x, delta, A, B, C, _ = system(groups=4)
    three = torch.zeros(2, 23, 3, 5, dtype=F64)
    with pytest.raises(ValueError, match=r"^B: expected groups to divide the heads, 4, got 3"):
        ssd(x, delta, A, three, three)
    with pytest.raises(ValueError, match=r"^initial_state: expected shape \(2, 4, 3, 5\)"):
        ssd(x, delta, A, B, C, initial_state=torch.zeros(2, 4, 5, 3, dtype=F64))
    with pytest.raises(ValueError, match=r"^chunk: expected a whole number >= 1, got 0"):
        ssd(x, delta, A, B, C, chunk=0)
    for name, options, says in (
        ("P", {"P": 5}, "a divisor of d_inner = 16, got 5"),
        ("groups", {"P": 4, "groups": 3}, "a divisor of heads = 4, got 3"),
        ("A_min", {"P": 4, "A_min": 17}, "at most A_max = 16.0, got 17"),
        ("A_min", {"P": 4, "A_min": 0}, "a finite number > 0, got 0"),
        ("N", {"P": 4, "N": 0}, "a whole number >= 1, got 0"),
        ("eps", {"P": 4, "eps": -1.0}, "a finite number > 0, got -1"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: expected {says}"):
            Mamba2(8, **options)


# --- the layer -----------------------------------------------------------------------------------


def mixer_of(d_model=8, seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"N": 5, "P": 4, "groups": 2} | options
    return shaken(Mamba2(d_model, **sizes), seed).double()


@torch.no_grad()
@pytest.mark.parametrize(
    "options", [{}, {"taps": 1, "bias": True}, {"groups": 1, "conv_bias": False}, {"eps": 0.5}]
)
def test_the_layer_is_its_equations_written_out(options):
    m = mixer_of(**options)
    heads, P, G, N, d = m.heads, m.P, m.groups, m.N, m.d_inner
    x = draw(2, 9, 8)
    y = m(x)
    for b in range(2):
        past = [torch.zeros(d + 2 * G * N, dtype=F64)] * (m.taps - 1)
        S = torch.zeros(heads, P, N, dtype=F64)
        for t in range(9):
            into = m.in_proj.weight @ x[b, t]
            into = into if m.in_proj.bias is None else into + m.in_proj.bias
            z, mixed, delta = into[:d], into[d : 2 * d + 2 * G * N], into[2 * d + 2 * G * N :]
            past.append(mixed)
            u = torch.zeros_like(mixed)
            for k in range(m.taps):  # the last tap reads the newest input
                u += m.conv1d.weight[:, 0, k] * past[t + k]
            u = u if m.conv1d.bias is None else u + m.conv1d.bias
            u = u / (1 + torch.exp(-u))
            u, B, C = u[:d].view(heads, P), u[d : d + G * N].view(G, N), u[d + G * N :].view(G, N)
            delta = torch.log(1 + torch.exp(delta + m.dt_bias))
            out = torch.zeros(heads, P, dtype=F64)
            for h in range(heads):
                g = h // (heads // G)
                S[h] = torch.exp(-delta[h] * m.A_log[h].exp()) * S[h]
                S[h] += delta[h] * torch.outer(u[h], B[g])
                out[h] = S[h] @ C[g] + m.D[h] * u[h]
            gated = (out.flatten() * z / (1 + torch.exp(-z))).view(G, -1)
            gated = gated / (gated.square().mean(1, keepdim=True) + m.norm.eps).sqrt()
            want = m.out_proj.weight @ (gated.flatten() * m.norm.weight)
            want = want if m.out_proj.bias is None else want + m.out_proj.bias
            close(y[b, t], want)


@torch.no_grad()
def test_the_order_of_gate_and_norm_and_the_groups_matter():
    """Each of the three would load the same weights, and is another model."""
    m = mixer_of()
    y, z = draw(2, 9, 16), draw(2, 9, 16, seed=2)
    right = m.norm(y, z)
    silu = functional.silu(z)
    groups = y.unflatten(-1, (2, -1))
    scaled = groups / (groups.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    norm_first = scaled.flatten(-2) * m.norm.weight * silu
    assert (right - norm_first).abs().max() > 1
    one_group = GatedNorm(16, 1).double()
    one_group.weight.copy_(m.norm.weight)
    assert (right - one_group(y, z)).abs().max() > 0.3


@torch.no_grad()
def test_who_gates_before_the_norm():
    """transformers' norms: Mamba-2 and Zamba2 do, Falcon-H1 has a switch, gated DeltaNet not."""
    y, z = (draw(1, 3, 16, seed=seed, dtype=torch.float32) for seed in (1, 2))
    silu = functional.silu(z)

    def norm(x, groups=1):
        parts = x.unflatten(-1, (groups, -1))
        return (parts / (parts.square().mean(-1, keepdim=True) + 1e-6).sqrt()).flatten(-2)

    def falcon(first):
        return FalconNorm(16, eps=1e-6, n_groups=2, norm_before_gate=first)

    torch.testing.assert_close(MambaRMSNormGated(16, 16)(y, z), norm(y * silu))
    zamba = Zamba2RMSNormGated(16, group_size=8)
    torch.testing.assert_close(zamba(y, z), norm(y * silu, 2))
    torch.testing.assert_close(falcon(False)(y, z), norm(y * silu, 2))
    torch.testing.assert_close(falcon(True)(y, z), norm(y, 2) * silu)
    torch.testing.assert_close(Qwen3NextRMSNormGated(16)(y, z), norm(y) * silu)
    assert FalconH1Config().mamba_rms_norm is False


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_a_written_folder_is_read_by_transformers(tmp_path, tied):
    """And by us; flash-linear-attention reads the norm's epsilon under a name of its own."""
    torch.manual_seed(0)
    settings = {"vocab_size": 19, "rows": 24, "d_model": 16, "n_layer": 2, "N": 6, "P": 8}
    config = Mamba2Config(**settings, groups=2, tied=tied, eps=1e-3, bias=True, taps=3)
    ours = Mamba2LM(config).eval()
    ours.save_pretrained(tmp_path / "new")
    theirs, told = Mamba2ForCausalLM.from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not any(told[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = torch.randint(19, (2, 11))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(tokens).logits, ours(tokens))
        again = Mamba2LM.from_pretrained(tmp_path / "new")
        torch.testing.assert_close(again(tokens), ours(tokens), rtol=0, atol=0)
    written = json.loads((tmp_path / "new" / "config.json").read_text(encoding="utf8"))
    assert written["norm_eps"] == written["layer_norm_epsilon"] == 1e-3
    assert written["num_heads"] == 4 and written["model_type"] == "mamba2"


def test_their_limit_of_the_step_holds_in_one_form_only():
    """Read at once and read step by step, a prompt gives other logits where Δ is limited."""
    tokens = tokens_of(1, 12)

    def apart(limit):
        torch.manual_seed(0)
        theirs = shaken(Mamba2ForCausalLM(config_of(time_step_limit=limit))).eval()
        whole = theirs(tokens).logits[:, -1]
        cache = theirs(tokens[:, :6], use_cache=True).cache_params
        for t in range(6, 12):
            found = theirs(tokens[:, t : t + 1], cache_params=cache, use_cache=True)
        return float((found.logits[:, -1] - whole).abs().max())

    assert apart((0.0, float("inf"))) < 1e-4 < 1e-2 < apart((0.0, 0.02))


@torch.no_grad()
@pytest.mark.parametrize("taps", [1, 2, 4])
@pytest.mark.parametrize("cut", [1, 2, 5, 13])
def test_prefill_goes_on_where_it_stopped(taps, cut):
    m = mixer_of(taps=taps, chunk=4)
    x = draw(2, 14, 8)
    y, end = m.prefill(x)
    close(y, m(x))
    first, state = m.prefill(x[:, :cut])
    second, last = m.prefill(x[:, cut:], state)
    close(torch.cat([first, second], 1), y)
    stepped = m.initial_state(2)
    for x_t in x.unbind(1):
        _, stepped = m.step(x_t, stepped)
    for a, b, c in zip(end, last, stepped, strict=True):
        close(a, b)
        close(a, c)
    assert end.window.shape == (2, 16 + 20, taps - 1) and end.S.shape == (2, 4, 4, 5)


@torch.no_grad()
@pytest.mark.parametrize("taps", [1, 4])
def test_padding_between_a_state_and_what_follows(taps):
    m = mixer_of(taps=taps)
    x, lengths = draw(3, 14, 8), (9, 4, 1)
    mask = torch.arange(9) >= 9 - torch.tensor(lengths)[:, None]
    _, state = m.prefill(x[:, :5])
    y, after = m.prefill(x[:, 5:], state, mask)
    for row, n in enumerate(lengths):
        one = slice(row, row + 1)
        own = Mamba2State(*(part[one] for part in state))
        wanted, last = m.prefill(x[one, 14 - n :], own)
        close(y[one, 9 - n :], wanted)
        for a, b in zip(after, last, strict=True):
            close(a[one], b)


def test_half_precision_keeps_the_system():
    m = Mamba2(8, N=4, P=4).bfloat16()
    assert m.A_log.dtype == m.dt_bias.dtype == torch.float32
    state = m.initial_state(1, dtype=torch.bfloat16)
    assert {part.dtype for part in state} == {torch.float32}
    x = torch.ones(1, 8, dtype=torch.bfloat16)
    y, state = m.step(x, state)
    assert y.dtype == torch.bfloat16 and {part.dtype for part in state} == {torch.float32}


# --- how many numbers ----------------------------------------------------------------------------


def test_the_number_of_parameters():
    """Of a block with its norm, in sympy, against transformers at several widths."""
    d, G, N, H = sympy.symbols("d G N H", positive=True)
    mixed = 2 * d + 2 * G * N
    total = d * (2 * d + mixed + H) + 5 * mixed + 3 * H + 2 * d + 2 * d**2 + d
    for width, P, groups, state in ((32, 8, 1, 16), (48, 8, 2, 5), (768, 64, 1, 128)):
        heads = 2 * width // P
        config = TheirConfig(
            hidden_size=width, num_heads=heads, head_dim=P, n_groups=groups, state_size=state,
            num_hidden_layers=1, vocab_size=3,
        )  # fmt: skip
        with torch.device("meta"):
            theirs = Mamba2ForCausalLM(config)
            ours = Residual(Mamba2(width, N=state, P=P, groups=groups))
        count = sum(p.numel() for p in ours.parameters())
        assert count == sum(p.numel() for p in theirs.backbone.layers.parameters())
        assert count == total.subs({d: width, G: groups, N: state, H: heads})
        assert cost(ours, 9).parameters == count
    assert total.subs({d: 768, G: 1, N: 128, H: 24}) == 3_765_320
    assert total.subs({d: 2560, G: 1, N: 128, H: 80}) == 40_216_560


def test_the_published_sizes():
    """130m and 2.7b, with the vocabulary filled up to a multiple of 16, tied."""
    for d_model, n_layer, want in ((768, 24, 128_989_632), (2560, 64, 2_702_599_680)):
        with torch.device("meta"):
            model = Mamba2LM(
                Mamba2Config(vocab_size=50_277, rows=50_288, d_model=d_model, n_layer=n_layer)
            )
        assert sum(p.numel() for p in model.parameters()) == want


@pytest.mark.parametrize("options", [{}, {"bias": True, "conv_bias": False}, {"groups": 1, "N": 3}])
def test_the_cost_is_read_from_the_layer(options):
    m = mixer_of(chunk=4, **options)
    made = cost(m, 16)
    assert made.parameters == sum(p.numel() for p in m.parameters())
    assert made.state == sum(part.numel() for part in m.initial_state(1))
    x = draw(1, 16, 8)
    with torch.no_grad():
        counted = count_flops(m, x)
        assert made.forward_flops == counted
        # The recurrent form: products by torch's count, and 3 P N of a head's state beside them.
        stepped = count_flops(m.step, x[:, 0], m.initial_state(1, dtype=F64))
    assert made.step_flops == stepped + 3 * m.d_inner * m.N
    assert made.depth == 1 + 3 + 4
    with pytest.raises(ValueError, match=r"^chunk: expected a whole number"):
        mamba2_cost(4, 8, chunk=0)


def test_the_state_of_the_published_model_is_larger_than_mambas():
    """262 d + 768 numbers against 38 d, at N = 128 and 16."""
    from linear_time.cost import mamba_cost

    for d in (768, 2560):
        assert mamba2_cost(1, d).state == 262 * d + 768
        assert mamba_cost(1, d).state == 38 * d


# --- the start -----------------------------------------------------------------------------------


def uniform_in(values, low, high):
    """In [low, high], close to both ends, with the mean and deviation of a uniform number."""
    wide = high - low
    assert values.min() >= low - 1e-6 * wide and values.max() <= high + 1e-6 * wide
    assert values.min() < low + 0.05 * wide and values.max() > high - 0.05 * wide
    assert abs(values.mean() - (low + high) / 2) < 0.06 * wide
    assert values.std().item() == pytest.approx(wide / math.sqrt(12), rel=0.1)


def test_every_initialisation():
    torch.manual_seed(0)
    m = Mamba2(512, P=4)
    assert (m.heads, m.N, m.groups, m.taps, m.chunk, m.norm.eps) == (256, 128, 1, 4, 64, 1e-5)
    uniform_in(-m.A, 1, 16)
    assert (m.D == 1).all() and (m.norm.weight == 1).all()
    for weight, fan_in in (
        (m.in_proj.weight, 512),
        (m.conv1d.weight, 4),
        (m.conv1d.bias, 4),
        (m.out_proj.weight, 1024),
    ):
        uniform_in(weight, -(fan_in**-0.5), fan_in**-0.5)
    delta = functional.softplus(m.dt_bias)
    uniform_in(delta.log10(), -3, -1)
    assert m.in_proj.bias is None and m.out_proj.bias is None
    narrow = Mamba2(8, P=4, A_min=2, A_max=2, delta_min=0.5, delta_max=0.5, delta_floor=0.7)
    close(narrow.A, torch.full((4,), -2.0), 1e-6)
    close(functional.softplus(narrow.dt_bias), torch.full((4,), 0.7), 1e-6)


def test_the_last_map_of_a_block_shrinks_with_the_depth():
    for n_layer in (1, 4):
        torch.manual_seed(0)
        model = Mamba2LM(Mamba2Config(vocab_size=VOCAB, d_model=64, n_layer=n_layer, P=16))
        bound = 128**-0.5 / math.sqrt(n_layer)
        for block in model.blocks:
            uniform_in(block.mixer.out_proj.weight, -bound, bound)
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_no_weight_decay_on_the_system():
    model = Mamba2LM(Mamba2Config(vocab_size=VOCAB, d_model=8, n_layer=1, P=4))
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, 1e-3, 0.1)
    decayed = {names[id(p)] for g in groups if g["weight_decay"] > 0 for p in g["params"]}
    assert {name.split("mixer.")[-1] for name in set(names.values()) - decayed} == {
        "A_log", "D", "conv1d.bias", "dt_bias", "norm.weight", "blocks.0.norm.weight"
    }  # fmt: skip


def test_hugging_face_starts_elsewhere():
    """A_log = log(1 … heads), taps' bias 0, W_in with 0.1, W_out without √n, groups, head."""
    theirs = Mamba2ForCausalLM(
        TheirConfig(hidden_size=64, num_heads=16, head_dim=8, num_hidden_layers=1, vocab_size=3)
    )
    mixer = theirs.backbone.layers[0].mixer
    close(mixer.A_log.data.exp(), torch.arange(1.0, 17), 1e-5)
    assert (mixer.conv1d.bias == 0).all() and mixer.n_groups == 8
    assert theirs.lm_head.weight is not theirs.backbone.embeddings.weight
    for weight in (mixer.in_proj.weight, theirs.backbone.embeddings.weight):
        assert 0.07 < weight.std() < 0.13
    deep = Mamba2ForCausalLM(
        TheirConfig(hidden_size=64, num_heads=16, head_dim=8, num_hidden_layers=9, vocab_size=3)
    )
    for layer in deep.backbone.layers:  # ±1/√128 as torch starts it, at any depth
        assert 0.8 < layer.mixer.out_proj.weight.abs().max() * 128**0.5 < 1.01
    with torch.no_grad():
        assert (Mamba2(64, P=8).conv1d.bias != 0).all()


# --- checkpoints ---------------------------------------------------------------------------------


def config_of(**changes):
    settings = {
        "vocab_size": VOCAB, "hidden_size": 24, "num_hidden_layers": 3, "num_heads": 12,
        "head_dim": 4, "state_size": 5, "n_groups": 2, "chunk_size": 16,
        "eos_token_id": None, "bos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    return TheirConfig(**{**settings, **changes})


def save(folder, **changes):
    """A model of transformers with weights far from their start, and its folder."""
    torch.manual_seed(0)
    model = shaken(Mamba2ForCausalLM(config_of(**changes))).eval()
    model.save_pretrained(folder)
    return model


VARIANTS = {
    "plain": {},
    "tied": {"tie_word_embeddings": True, "n_groups": 1, "conv_kernel": 2},
    "biases": {"use_bias": True, "use_conv_bias": False, "layer_norm_epsilon": 1e-2},
    "wide_one_layer": {
        "num_hidden_layers": 1, "expand": 3, "num_heads": 9, "head_dim": 8, "n_groups": 3,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=VARIANTS)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return save(folder, **VARIANTS[request.param]), folder


@torch.no_grad()
def test_logits_are_those_of_transformers(saved):
    theirs, folder = saved
    ours = Mamba2LM.from_pretrained(folder)
    tokens = tokens_of(3, 70)
    wanted = theirs(tokens).logits
    assert wanted.std() > 0.3
    torch.testing.assert_close(ours(tokens), wanted, rtol=1e-5, atol=1e-5)
    state = ours.initial_state(3)
    for token in tokens.unbind(1):
        logits, state = ours.step(token, state)
    torch.testing.assert_close(logits, wanted[:, -1], rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in ours.parameters()) == theirs.num_parameters()


@torch.no_grad()
def test_greedy_generation_is_that_of_transformers(saved):
    theirs, folder = saved
    prompt = tokens_of(3, 6)
    wanted = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=40,
        do_sample=False,
        pad_token_id=0,
    )
    ours = Mamba2LM.from_pretrained(folder)
    assert torch.equal(ours.generate(prompt, 40, temperature=0), wanted)
    assert torch.equal(LanguageModel.generate(ours, prompt, 40, temperature=0), wanted)
    assert len(wanted[:, 6:].unique()) > 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mamba2")
    save(folder, tie_word_embeddings=True)
    return folder


def released(source, target, **changes):
    """The folder of the released code for the layers of ``config_of``."""
    layer = {"layer": "Mamba2", "d_state": 5, "headdim": 4, "ngroups": 2}
    settings = {
        "ssm_cfg": layer | changes.pop("ssm_cfg", {}),
        "attn_layer_idx": [],
        "tie_embeddings": True,
    }
    return released_folder(source, target, **{**settings, **changes})


@torch.no_grad()
def test_the_released_keys_and_settings(folder, tmp_path):
    tokens = tokens_of(2, 30)
    wanted = Mamba2LM.from_pretrained(folder)(tokens)
    ours = Mamba2LM.from_pretrained(released(folder, tmp_path))
    assert torch.equal(ours(tokens), wanted)
    assert ours.head is None and ours.config.tied


@torch.no_grad()
def test_the_fill_of_the_released_vocabulary(folder, tmp_path):
    released(folder, tmp_path, vocab_size=50, pad_vocab_size_multiple=53)
    ours = Mamba2LM.from_pretrained(tmp_path)
    assert (ours.vocab_size, ours.config.rows) == (50, 53)
    assert (ours.generate(tokens_of(2, 4, 50), 20, 5.0) < 50).all()


def test_a_released_model_that_is_not_tied(tmp_path):
    (tmp_path / "hf").mkdir()
    save(tmp_path / "hf")
    released(tmp_path / "hf", tmp_path, tie_embeddings=False)
    ours = Mamba2LM.from_pretrained(tmp_path)
    tokens = tokens_of(2, 9)
    assert torch.equal(ours(tokens), Mamba2LM.from_pretrained(tmp_path / "hf")(tokens))
    assert ours.head is not None and not torch.equal(ours.head.weight, ours.embedding.weight)


@torch.no_grad()
def test_what_a_folder_leaves_out_is_its_writers_default(tmp_path):
    """Hugging Face's are those of its configuration; the released code's those of its layer."""
    torch.manual_seed(0)
    model = shaken(Mamba2LM(Mamba2Config(vocab_size=17, rows=24, d_model=64, n_layer=1)))
    (tmp_path / "hf").mkdir()
    model.save_pretrained(tmp_path / "hf")
    released_folder(tmp_path / "hf", tmp_path, vocab_size=17, ssm_cfg={"layer": "Mamba2"})
    settings = json.loads((tmp_path / "config.json").read_text(encoding="utf8"))
    del settings["pad_vocab_size_multiple"]
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf8")
    ours, tokens = Mamba2LM.from_pretrained(tmp_path), tokens_of(2, 9, 17)
    torch.testing.assert_close(ours(tokens)[..., :17], model(tokens)[..., :17], rtol=0, atol=0)
    found = ours.config
    assert (found.N, found.P, found.groups, found.taps, found.expand) == (128, 64, 1, 4, 2)
    assert found.tied and not found.bias and found.conv_bias and found.rows == 24
    theirs = TheirConfig()
    for setting in mamba2_folders.HUGGING_FACE.settings.values():
        if setting.default is not REQUIRED and setting.name != "time_step_limit":
            assert setting.default == getattr(theirs, setting.name), setting.name


IN_PROJ = "backbone.layers.2.mixer.in_proj.weight"


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "tensors", "message"),
    [
        ({}, {IN_PROJ: None}, rf"^{IN_PROJ}: expected a tensor of shape \(128, 24\), got no such"),
        ({}, {IN_PROJ: torch.ones(24, 128)}, rf"^{IN_PROJ}: expected shape \(128, 24\)"),
        ({}, {"backbone.more": torch.ones(1)}, "^backbone.more: expected no such key"),
        ({"num_heads": 11}, {}, r"num_heads · head_dim = expand · hidden_size = 48, got 11 · 4"),
        ({"model_type": "mamba"}, {}, "expected model_type = 'mamba2', the only one supported"),
        ({"hidden_act": "gelu"}, {}, "expected hidden_act = 'silu'"),
        (
            {"time_step_limit": [0.0, 0.02]},
            {},
            r"expected time_step_limit = \[0, infinity\], .*0\.02",
        ),
        ({"n_groups": 5}, {}, "^groups: expected a divisor of heads = 12, got 5"),
        ({"state_size": "5"}, {}, "expected state_size to be int, got '5'"),
    ],
)
def test_folders_that_cannot_be_loaded(folder, tmp_path, settings, tensors, message):
    changed(folder, tmp_path, settings, tensors)
    with pytest.raises(ValueError, match=message):
        Mamba2LM.from_pretrained(tmp_path)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"layer": "Mamba1"}, "expected layer = 'Mamba2'"),
        ({"norm_before_gate": True}, "expected norm_before_gate = False"),
        ({"rmsnorm": False}, "expected rmsnorm = True"),
        ({"D_has_hdim": True}, "expected D_has_hdim = False"),
        ({"d_ssm": 12}, "expected d_ssm = None"),
        ({"dt_limit": [0.01, 0.1]}, "expected dt_limit = .0, infinity."),
        ({"attn_layer_idx": [1]}, r"expected attn_layer_idx = \[\]"),
        ({"d_intermediate": 16}, "expected d_intermediate = 0"),
        ({"rms_norm": False}, "expected rms_norm = True"),
    ],
)
def test_released_settings_of_another_model(folder, tmp_path, layer, message):
    beside = {k: layer[k] for k in ("attn_layer_idx", "d_intermediate", "rms_norm") if k in layer}
    released(folder, tmp_path, ssm_cfg=layer if not beside else {}, **beside)
    with pytest.raises(ValueError, match=message):
        Mamba2LM.from_pretrained(tmp_path)


def test_the_gated_norm_is_torchs_where_nothing_is_gated():
    x, z = draw(3, 16), torch.full((3, 16), 50.0, dtype=F64)  # SiLU(50) = 50
    norm, plain = GatedNorm(16).double(), nn.RMSNorm(16, eps=1e-5 / 2500).double()
    close(norm(x, z), plain(x), 1e-10)
