"""Over processes, against one: outputs and gradients, what is sent, and who waits for whom."""

import ast
import gc
import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize, scaled_dot_product_attention

import ranks_programs as programs
from book import CHAPTERS, ROOT, code_cells
from linear_time.decoder import SwiGLU
from linear_time.delta_rule import delta_rule
from linear_time.distributed import compose
from linear_time.duality import ssd
from linear_time.mamba2 import Mamba2, Mamba2Config, Mamba2LM
from linear_time.pictures.distributed import HEADS, STATE, WIDTH, bytes_sent
from linear_time.ranks import Ranks
from linear_time.scan import combine

F64 = torch.float64
EVEN, UNEVEN = [8, 8, 8], [5, 12, 7]


@pytest.fixture(scope="module")
def ranks():
    with Ranks(3) as started:
        yield started


def alone(function, inputs):
    leaves = [t.clone().requires_grad_() for t in inputs]
    return programs.gradients(function(*leaves), leaves)


def assert_equal(shards, whole, dim=1):
    for parts, one in zip(zip(*shards, strict=True), whole, strict=True):
        torch.testing.assert_close(torch.cat(parts, dim), one, rtol=1e-10, atol=1e-11)


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    x, delta = torch.randn(2, 24, 6, 4, dtype=F64), torch.rand(2, 24, 6, dtype=F64)
    B, C = torch.randn(2, 2, 24, 3, 5, dtype=F64)
    return [x, delta, B, C], -torch.rand(6, dtype=F64), torch.randn(6, dtype=F64)


@pytest.mark.parametrize("school", ["states", "heads"])
def test_a_scan_over_shards_is_the_scan(ranks, inputs, school):
    tensors, A, D = inputs
    found = ranks.run(programs.scan, tensors, A, D, EVEN, school)
    whole = alone(lambda x, delta, B, C: ssd(x, delta, A, B, C, D), tensors)
    assert_equal([one for one, _, _ in found], whole)


@pytest.mark.parametrize("groups", [1, 2])
def test_groups_that_the_ranks_do_not_divide_are_copied(ranks, inputs, groups):
    (x, delta, B, C), A, D = inputs
    tensors = [x, delta, B[:, :, :groups], C[:, :, :groups]]
    found = ranks.run(programs.scan, tensors, A, D, EVEN, "heads")
    whole = alone(lambda x, delta, B, C: ssd(x, delta, A, B, C, D), tensors)
    assert_equal([one for one, _, _ in found], whole)
    # The copies are sent: three of one group, six of two.
    token = 2 * 6 * 4 + 6 + 2 * 3 * groups * 5
    assert all(sent == pytest.approx(2 * 8 * token * 8 * 2 / 3) for *_, (_, sent) in found)


def test_shards_may_differ_in_length_and_begin_from_a_state(ranks, inputs):
    tensors, A, D = inputs
    S = torch.randn(2, 6, 4, 5, dtype=F64)
    found = ranks.run(programs.scan, tensors, A, D, UNEVEN, "states", S)
    _, last = ssd(tensors[0], tensors[1], A, *tensors[2:], D, True, initial_state=S)
    whole = alone(lambda x, delta, B, C: ssd(x, delta, A, B, C, D, False, initial_state=S), tensors)
    assert_equal([one for one, _, _ in found], whole)
    for _, after, _ in found:
        torch.testing.assert_close(after, last)


@pytest.mark.parametrize("channels", [False, True])
def test_a_delta_rule_over_shards_is_the_rule(ranks, channels):
    torch.manual_seed(2)
    q, k = torch.randn(2, 2, 24, 2, 5, dtype=F64)
    v, beta = torch.randn(2, 24, 2, 4, dtype=F64), 2 * torch.rand(2, 24, 2, dtype=F64)
    gate = -torch.rand(2, 24, 2, *((5,) if channels else ()), dtype=F64)
    tensors = [q, normalize(k, dim=-1), v, beta, gate]
    assert_equal(ranks.run(programs.delta, tensors, UNEVEN), alone(delta_rule, tensors))


@pytest.mark.parametrize("taps", [2, 4])
def test_a_whole_layer_over_shards_is_the_layer(ranks, taps):
    torch.manual_seed(3)
    mixer = Mamba2(8, N=4, P=4, groups=2, taps=taps, chunk=4).double()
    x = torch.randn(2, 24, 8, dtype=F64)
    assert_equal(ranks.run(programs.layer, mixer, x, UNEVEN), alone(mixer, [x]))


@pytest.mark.parametrize("causal", [True, False])
def test_a_ring_is_attention(ranks, causal):
    torch.manual_seed(4)
    tensors = list(3 * torch.randn(3, 2, 2, 24, 5, dtype=F64))
    found = ranks.run(programs.ring, tensors, EVEN, causal)
    whole = alone(lambda *t: scaled_dot_product_attention(*t, is_causal=causal), tensors)
    assert_equal([one for one, _ in found], whole, 2)
    for _, (rounds, sent) in found:
        # Two rounds of the keys and values of a shard.
        assert rounds == {"send": 4} and sent == 2 * 2 * (2 * 2 * 8 * 5) * 8


@pytest.mark.parametrize("shared", [1, 2, 4])
def test_a_ring_sends_less_where_many_queries_share_a_key(ranks, shared):
    """With g heads of queries to one of keys an all-to-all sends W/(1 + g) times less."""
    q, k = torch.randn(1, 3 * shared, 8, 4), torch.randn(1, 3, 8, 4)
    for by_heads, around in ranks.run(programs.keys_of_groups, q, k):
        assert around / by_heads == pytest.approx(3 / (1 + shared))


@pytest.mark.parametrize("work", ["ssd_shards", "ssd_heads", "delta", "layer", "ring"])
def test_a_group_of_some_of_the_ranks_is_a_world_of_its_own(ranks, inputs, work):
    torch.manual_seed(7)
    tensors, A, D = inputs
    dim, others = 1, (A, D)
    if work == "ring":
        dim, tensors = 2, list(torch.randn(3, 2, 2, 24, 5, dtype=F64))

        def whole(q, k, v):
            return scaled_dot_product_attention(q, k, v, is_causal=True)

    elif work == "layer":
        whole = Mamba2(8, N=4, P=4, groups=2, chunk=4).double()
        tensors, others = [torch.randn(2, 24, 8, dtype=F64)], (whole,)
    elif work == "delta":
        q, k, v = torch.randn(3, 2, 24, 2, 5, dtype=F64)
        tensors, whole = [q, normalize(k, dim=-1), v, torch.rand(2, 24, 2, dtype=F64)], delta_rule
    else:

        def whole(x, delta, B, C):
            return ssd(x, delta, A, B, C, D)

    none, *found = ranks.run(programs.in_a_group, work, tensors, dim, others)
    assert none is None
    assert_equal(found, alone(whole, tensors), dim)


def test_what_the_schools_send_is_what_the_book_counts(ranks, inputs):
    tensors, A, D = inputs
    batch, length, heads, P, groups, N, world = 2, 24, 6, 4, 3, 5, 3
    for _, _, (rounds, sent) in ranks.run(programs.scan, tensors, A, D, EVEN, "states"):
        assert rounds == {"gather": 1}
        assert sent == (world - 1) * batch * heads * (P * N + 1) * 8
    token = 2 * heads * P + heads + 2 * groups * N
    for _, _, (rounds, sent) in ranks.run(programs.scan, tensors, A, D, EVEN, "heads"):
        assert rounds == {"all-to-all": 5}
        assert sent == pytest.approx(batch * length / world * token * 8 * (world - 1) / world)


def test_the_explorer_draws_these_counts():
    sent = bytes_sent(4096, 8)
    assert sent["states"] == 7 * HEADS * (WIDTH * STATE + 1) * 2
    assert sent["ring"] == 7 * 512 * 2 * HEADS * WIDTH * 2
    token = 2 * HEADS * WIDTH + HEADS + 2 * 8 * STATE
    assert sent["heads"] == pytest.approx(7 / 8 * 512 * token * 2)


def test_collectives_and_their_gradients(ranks):
    x = torch.randn(3, 3, 2)
    found = ranks.run(programs.collectives, x)
    for rank, (gathered, of_gather, shifted, of_shift, swapped, of_swap) in enumerate(found):
        torch.testing.assert_close(gathered, x)
        # Each rank r weighs what came from `rank` by (rank + 1)(r + 1).
        torch.testing.assert_close(of_gather, torch.full((3, 2), (rank + 1) * 6.0))
        torch.testing.assert_close(shifted, x[rank - 1])
        torch.testing.assert_close(of_shift, torch.full((3, 2), (rank + 1) % 3 + 1.0))
        torch.testing.assert_close(swapped, torch.cat([x[r, rank : rank + 1] for r in range(3)], 1))
        torch.testing.assert_close(of_swap, torch.arange(1.0, 4)[:, None].expand(3, 2))


def test_maps_are_composed_as_chapter_17_composes_them():
    torch.manual_seed(5)
    M, S = torch.rand(2, 1, 3, dtype=F64), torch.randn(2, 1, 3, 4, 5, dtype=F64)
    both = compose((M[0], S[0]), (M[1], S[1]))
    wide = M[..., None, None].expand(2, 1, 3, 4, 5)
    wanted = combine((wide[0], S[0]), (wide[1], S[1]))
    torch.testing.assert_close(both[1], wanted[1])
    torch.testing.assert_close(both[0], wanted[0][..., 0, 0])
    full = torch.randn(3, 1, 2, 5, 5, dtype=F64), torch.randn(3, 1, 2, 4, 5, dtype=F64)
    one, two, three = zip(*full, strict=True)
    for left, right in zip(
        compose(compose(one, two), three), compose(one, compose(two, three)), strict=True
    ):
        torch.testing.assert_close(left, right)
    state = torch.randn(1, 2, 4, 5, dtype=F64)
    M_12, S_12 = compose(one, two)
    torch.testing.assert_close(state @ M_12 + S_12, (state @ one[0] + one[1]) @ two[0] + two[1])


# --- who waits for whom ---------------------------------------------------------------------------


def test_a_rank_that_ignores_what_it_gathered_stops_the_others(ranks):
    with pytest.raises(TimeoutError, match="rank 0: finished; rank 1: waited in vain; rank 2: w"):
        ranks.run(programs.ignoring, False, timeout=1)
    found = ranks.run(programs.ignoring, True)
    assert [g.tolist() for g in found] == [[3.0, 3.0], [2.0, 2.0], [1.0, 1.0]]


def test_what_is_kept_may_be_infinite(ranks):
    for y, grad in ranks.run(programs.infinite):
        assert y == 1 and grad == 0


def test_a_fault_is_told_at_once_and_the_processes_go_on(ranks):
    with pytest.raises(RuntimeError, match=r"rank 1:(.|\n)*this one has a fault of its own"):
        ranks.run(programs.breaking)
    found = ranks.run(programs.number, world=2)
    assert [one[:2] for one in found] == [(0, 2), (1, 2)]
    assert found[0][2] == torch.get_default_dtype() and found[0][3] == found[1][3]
    with pytest.raises(ValueError, match="world: expected at most 3 processes, got 4"):
        ranks.run(programs.number, world=4)


def test_a_start_that_failed_is_not_counted(ranks):
    """It fails in some ranks only, where others have ended before all have met."""
    ranks.run(programs.starts_badly)
    with pytest.raises(RuntimeError, match="no transport"):
        ranks.run(programs.number, world=1)
    assert [one[:2] for one in ranks.run(programs.number, timeout=20)] == [(0, 3), (1, 3), (2, 3)]


def test_who_comes_late_on_a_busy_computer_is_waited_for(ranks):
    """The time after which a rank gives up begins when all have met."""
    ranks.run(programs.starts_late)
    assert len(ranks.run(programs.number, timeout=0.5)) == 3


def test_a_function_of_a_notebook_is_sent(ranks):
    factor = 3
    assert ranks.run(lambda rank, x: factor * x[rank], [1, 2, 4]) == [3, 6, 12]


def test_a_shard_shorter_than_its_halo_is_refused(ranks):
    with pytest.raises(RuntimeError, match="x: expected a shard of at least 3 steps"):
        ranks.run(programs.halo_of, torch.zeros(1, 2, 2), 3)
    with pytest.raises(RuntimeError, match="x: expected 3 ranks to divide dimension 0"):
        ranks.run(programs.uneven)


# --- torch's own sharding -------------------------------------------------------------------------


def test_a_fully_sharded_model_is_the_model(ranks):
    torch.manual_seed(0)
    model = Mamba2LM(Mamba2Config(vocab_size=11, d_model=8, n_layer=2, N=4, P=4, chunk=4))
    tokens = torch.randint(11, (2, 9))
    with torch.no_grad():
        wanted, after = model(tokens), model.prefill(tokens)[0]
    found = ranks.run(programs.sharded_model, tokens, True)
    for logits, last, _ in found:
        torch.testing.assert_close(logits, wanted)
        torch.testing.assert_close(last, after)
    assert sum(held for _, _, held in found) == sum(p.numel() for p in model.parameters())


def test_a_sharded_model_stays_off_the_gpu():
    """Without a mesh torch takes a GPU where there is one, and processes that talk by gloo fail."""
    sources = [cell.source for path in CHAPTERS for cell in code_cells(path)]
    files = [*Path(__file__).parent.glob("*.py"), *ROOT.glob("src/**/*.py")]
    calls = [
        node
        for source in [*sources, *(path.read_text(encoding="utf8") for path in files)]
        if "fully_shard(" in source
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "fully_shard"
    ]
    assert len(calls) >= 6
    for call in calls:
        assert "mesh" in [keyword.arg for keyword in call.keywords], ast.unparse(call)


def test_a_method_that_is_not_registered_meets_sharded_weights(ranks):
    with pytest.raises(RuntimeError, match=r"mixed torch\.Tensor and DTensor"):
        ranks.run(programs.sharded_model, torch.randint(11, (2, 9)), False)


def test_an_mlp_over_torchs_tensor_parallelism(ranks):
    torch.manual_seed(6)
    mlp, x = SwiGLU(8, 12), torch.randn(2, 5, 8)
    for y, held, rounds in ranks.run(programs.tensor_parallel, x, mlp.state_dict()):
        torch.testing.assert_close(y, mlp(x))
        assert held == (4, 8) and rounds == {"all-reduce": 1}


def test_torchs_context_parallel_does_not_run_on_a_cpu(ranks):
    """When it does, chapter 23's sentence on it has to go."""
    with pytest.raises(RuntimeError, match="does not have a sharding strategy"):
        ranks.run(programs.torchs_context_parallel, torch.randn(3, 1, 2, 12, 4))


def test_a_share_of_the_pairs():
    """The last of W ranks of a causal ring has (2W − 1)/W² of all pairs."""
    for world in (2, 4, 8):
        n = 16 * world
        allowed = torch.ones(n, n).tril()
        last = allowed[-16:].sum() / allowed.sum()
        assert math.isclose(last, (2 * world - 1) / world**2, rel_tol=0.02)


def test_ranks_that_nothing_holds_end():
    """A cell that starts them is run again: the first have ended, and only they."""
    ranks = Ranks(1)
    (before,) = ranks.processes
    ranks = Ranks(1)
    gc.collect()
    before.join(60)
    assert before.exitcode is not None
    assert ranks.run(int) == [0]
    ranks.close()
    ranks.close()  # twice is as once
    assert not ranks.processes[0].is_alive()
