"""Chapter 22: followers by the definition, Fano's bound by counting, tables and their columns."""

import itertools
import math

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from sympy.combinatorics import AlternatingGroup, Permutation, SymmetricGroup

from linear_time import limits
from linear_time.limits import (
    arrangements,
    best_share,
    follower,
    recall,
    reflections,
    swaps,
    told_bits,
)
from linear_time.recurrences import delta_net, linear_attention, recurrence, transitions

F64 = torch.float64


def drawn(batch: int, length: int, n: int, seed: int = 0) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    return torch.rand(batch, length, n, generator=noise).argsort(-1)


@given(st.permutations(range(7)))
def test_swaps_make_the_permutation_and_are_as_few_as_can_be(permutation):
    now = list(range(7))
    pairs = swaps(permutation)
    for i, j in pairs:
        now[i], now[j] = now[j], now[i]
    assert now == list(permutation)
    assert len(pairs) == 7 - Permutation(permutation).cycles


def test_reflections_are_the_permutation_matrices():
    """Every permutation of four, by sympy's list of the group."""
    every = torch.tensor([list(g.array_form) for g in SymmetricGroup(4).generate()])
    keys, made = reflections(every[None])
    assert keys.shape == (1, 24, 3, 4) and made.shape == (1, 24, 3)
    eye = torch.eye(4, dtype=F64)
    for one, k, on in zip(every, keys[0], made[0], strict=True):
        product = eye
        for key, used in zip(k, on, strict=True):
            product = product @ (eye - 2 * used * torch.outer(key, key))
        row = torch.arange(4, dtype=F64)
        assert torch.allclose(row @ product, row[one], rtol=0, atol=1e-12)
        assert on.sum() == 4 - Permutation(one.tolist()).cycles
        assert torch.equal(k.norm(dim=1) > 0, on > 0)
        assert torch.allclose(k.norm(dim=1), on)


@pytest.mark.parametrize("n", [2, 3, 5, 7])
def test_a_follower_answers_what_lies_at_a_place(n):
    moves = drawn(3, 40, n)
    places = torch.randint(n, (3, 40), generator=torch.Generator().manual_seed(1))
    begin = torch.arange(n, dtype=F64).expand(3, 1, 1, n)
    said = recurrence(follower(moves, places), initial_state=begin)[..., 0, 0]
    now = torch.arange(n).expand(3, n)
    for t in range(40):  # by hand, in another way than the library's
        now = torch.stack([row[move] for row, move in zip(now, moves[:, t], strict=True)])
        wanted = now[torch.arange(3), places[:, t]].double()
        assert torch.allclose(said[:, t], wanted, rtol=0, atol=1e-10)
    assert torch.equal(arrangements(moves)[:, -1], now)


def test_less_strength_moves_both_towards_their_mean():
    """At β a swap keeps 1 − β of the difference and all of the sum."""
    moves, places = torch.tensor([[[1, 0]]]), torch.tensor([[0]])
    begin = torch.tensor([3.0, 7.0], dtype=F64).view(1, 1, 1, 2)
    for strength in (0.0, 0.5, 1.0, 1.9, 2.0):
        first = recurrence(follower(moves, places, strength), initial_state=begin).item()
        assert first == pytest.approx(5 + (1 - strength) * (3 - 5), abs=1e-12)


def test_two_places_are_parity():
    bits = torch.randint(0, 2, (2, 60), generator=torch.Generator().manual_seed(3))
    moves = torch.stack([bits, 1 - bits], -1)
    begin = torch.tensor([0.0, 1.0], dtype=F64).expand(2, 1, 1, 2)
    said = recurrence(follower(moves, torch.zeros_like(bits)), initial_state=begin).flatten(1)
    assert torch.allclose(said, (bits.cumsum(1) % 2).double(), rtol=0, atol=1e-12)


def test_the_matrices_do_not_commute_and_keep_every_length():
    moves = torch.tensor([[[1, 0, 2], [0, 2, 1]]])
    A = transitions(follower(moves, torch.zeros(1, 2, dtype=torch.int64)))[0, :, 0]
    one, other = A[0] @ A[1], A[2] @ A[3]
    assert not torch.allclose(one @ other, other @ one)
    for matrix in (one, other):
        assert torch.allclose(matrix @ matrix.T, torch.eye(3, dtype=F64), rtol=0, atol=1e-12)


def test_five_cups_are_the_first_that_are_not_solvable():
    assert [SymmetricGroup(n).is_solvable for n in (2, 3, 4, 5)] == [True, True, True, False]
    assert AlternatingGroup(5).order() == 60 and not AlternatingGroup(5).is_solvable
    assert AlternatingGroup(5).derived_subgroup().order() == 60


def test_permutations_compose_in_a_tree():
    """1,024 of them in ten levels: at a fixed length depth suffices."""
    level, levels = drawn(1, 1024, 5)[0], 0
    whole = arrangements(level[None])[0, -1]
    while len(level) > 1:
        level, levels = level[0::2].gather(1, level[1::2]), levels + 1
    assert levels == 10 and torch.equal(level[0], whole)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_channel_in_finite_precision_comes_to_rest(sign):
    """h ← round(round(a h) + b), from every number of an 8-bit format: cycles of one and of two."""

    def rounded(x):
        return x.clamp(-448, 448).to(torch.float8_e4m3fn).float()

    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    every = every[every.isfinite()]
    noise = torch.Generator().manual_seed(0)
    a = sign * rounded(1.5 * torch.rand(100, 1, generator=noise))
    b = every[torch.randint(len(every), (100, 1), generator=noise)]
    h = every.expand(100, -1)
    for _ in range(len(every)):
        h = rounded(rounded(a * h) + b)
    then = rounded(rounded(a * h) + b)
    assert torch.equal(rounded(rounded(a * then) + b), h)
    assert bool((then == h).all()) == (sign > 0)


def test_a_layer_that_reads_a_cycle_of_p_ends_in_p_or_2p():
    """Real factors of either sign, inputs of period 4 in integers: never a period of three."""
    noise = torch.Generator().manual_seed(0)
    for _ in range(200):
        a = torch.randint(-3, 4, (4,), generator=noise) / 2
        b = torch.randint(-5, 6, (4,), generator=noise)
        h, seen = torch.tensor(1.0), []
        for t in range(600):
            h = (a[t % 4] * h + b[t % 4]).round().clamp(-20, 20)
            seen.append(float(h))
        assert seen[-8:] == seen[-16:-8]
        assert not (seen[-3:] == seen[-6:-3] and len(set(seen[-3:])) == 3)


def test_told_bits_is_the_information_of_the_channel_that_errs_evenly():
    """The mutual information of V kinds and an answer, right with chance p and else any other."""
    for kinds, share in ((2, 0.7), (5, 0.9), (16, 0.3), (7, 1.0), (3, 1 / 3)):
        joint = torch.full((kinds, kinds), (1 - share) / (kinds - 1), dtype=F64)
        joint.fill_diagonal_(share)
        joint = joint / kinds
        product = joint.sum(0)[:, None] * joint.sum(1)[None]
        wanted = float(
            (torch.xlogy(joint, joint) - torch.xlogy(joint, product)).sum() / math.log(2)
        )
        assert told_bits(share, kinds) == pytest.approx(wanted, abs=1e-12)


@given(st.integers(1, 300), st.integers(2, 500), st.floats(0, 2000))
def test_best_share_meets_the_inequality(pairs, kinds, bits):
    share = best_share(bits, pairs, kinds)
    assert 1 / kinds - 1e-9 <= share <= 1
    assert pairs * told_bits(max(share, 1 / kinds), kinds) <= bits + 1e-6
    if share < 1 - 1e-6:
        assert pairs * told_bits(min(1.0, share + 1e-6), kinds) > bits - 1e-9


def test_no_small_memory_beats_best_share():
    """All memories of one bit for three values of two kinds, each with the best reader there is."""
    lists = list(itertools.product((0, 1), repeat=3))
    most = 0.0
    for memory in itertools.product((0, 1), repeat=len(lists)):
        right = 0
        for state in (0, 1):
            kept = [one for one, there in zip(lists, memory, strict=True) if there == state]
            right += sum(max(sum(x), len(kept) - sum(x)) for x in zip(*kept, strict=True))
        most = max(most, right / (3 * len(lists)))
    assert most == 0.75
    assert best_share(1, 3, 2) >= most
    assert best_share(3, 3, 2) == 1 and best_share(0, 3, 2) == pytest.approx(0.5, abs=1e-4)


def test_recall_reads_the_last_state():
    noise = torch.Generator().manual_seed(0)
    keys = torch.nn.functional.normalize(torch.randn(2, 5, 4, generator=noise, dtype=F64), dim=-1)
    values = torch.randn(2, 10, 3, generator=noise, dtype=F64)
    twice = keys.repeat(1, 2, 1)
    S = torch.einsum("btv,btk->bvk", values, twice)
    answers = recall(linear_attention, keys, values)
    assert torch.allclose(answers, torch.einsum("bvk,bnk->bnv", S, keys), rtol=0, atol=1e-12)
    other = recall(
        lambda q, k, v: delta_net(q, k, v, torch.ones(k.shape[:3], dtype=F64)), keys, values
    )
    assert torch.allclose(other[:, -1], values[:, -1], rtol=0, atol=1e-12)  # the last word


@pytest.mark.parametrize(("n", "dk"), [(8, 16), (16, 16), (24, 8), (40, 8), (64, 32)])
def test_no_table_errs_less_than_its_columns_allow(n, dk):
    """Least squares meets 1 − dk/n in the mean, and no rule is below least squares."""
    noise = torch.Generator().manual_seed(n)
    keys = torch.nn.functional.normalize(torch.randn(60, n, dk, generator=noise, dtype=F64), dim=-1)
    values = torch.randn(60, n, 32, generator=noise, dtype=F64)
    best = (keys @ torch.linalg.pinv(keys) @ values - values).square().mean((1, 2))
    assert best.mean() == pytest.approx(max(0, 1 - dk / n), abs=0.02)
    if n > dk:  # of the values of one draw it is no bound
        assert best.min() < 0.95 * (1 - dk / n)
    for beta in (0.3, 1.0):
        answers = recall(
            lambda q, k, v, b=beta: delta_net(q, k, v, torch.full(k.shape[:3], b, dtype=F64)),
            keys,
            values,
        )
        assert ((answers - values).square().mean((1, 2)) >= best - 1e-12).all()


def test_one_hot_values_make_any_number_of_pairs_look_recalled():
    """The trap: a row of its own for each pair is a list of the keys."""
    noise = torch.Generator().manual_seed(0)
    for n in (8, 64, 300):
        keys = torch.nn.functional.normalize(
            torch.randn(4, n, 16, generator=noise, dtype=F64), dim=-1
        )
        symbols = torch.eye(n, dtype=F64).expand(4, n, n)
        answers = recall(linear_attention, keys, symbols)
        assert (answers.argmax(-1) == torch.arange(n)).all()
        assert torch.allclose(answers, keys @ keys.mT, rtol=0, atol=1e-12)


def test_at_a_fifth_of_its_strength_the_delta_rule_is_level_on_one_hot_values():
    """With a sum, which has all of them; at full strength it has six in ten."""
    noise = torch.Generator().manual_seed(0)
    keys = torch.randn(40, 64, 32, generator=noise, dtype=F64)
    keys = torch.nn.functional.normalize(keys, dim=-1)

    def right(strength):
        answers = recall(
            lambda q, k, v: delta_net(q, k, v, torch.full(k.shape[:3], strength, dtype=F64)),
            keys,
            torch.eye(64, dtype=F64).expand(40, 64, 64),
        )
        return (answers.argmax(-1) == torch.arange(64)).double().mean()

    assert right(0.2) > 0.999 and right(1.0) < 0.65


def test_who_attends_how_often():
    """The ratios that the table of chapter 22 reads from transformers."""
    layers = {
        name: getattr(transformers, f"{name}Config")().layer_types
        for name in ("Jamba", "RecurrentGemma", "Zamba2", "Qwen3Next", "OlmoHybrid", "KimiLinear")
    }
    wanted = {"Jamba": (4, 32), "RecurrentGemma": (8, 26), "Zamba2": (9, 54)}
    wanted |= {"Qwen3Next": (12, 48), "OlmoHybrid": (8, 32), "KimiLinear": (6, 27)}
    for name, kinds in layers.items():
        assert (sum(kind != "linear_attention" for kind in kinds), len(kinds)) == wanted[name]
    assert [i for i, kind in enumerate(layers["Jamba"]) if kind == "full_attention"] == [
        4,
        12,
        20,
        28,
    ]
    assert transformers.RecurrentGemmaConfig().attention_window_size == 2048


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: swaps([0, 0, 1]), "permutation: expected 0"),
        (lambda: swaps([]), "permutation: expected 0"),
        (lambda: reflections(torch.tensor([[[0, 0]]])), "permutations: expected 0"),
        (lambda: reflections(torch.tensor([[[0]]])), "permutations: expected 0"),
        (lambda: reflections(torch.zeros(2, 3)), "permutations: expected"),
        (lambda: arrangements(torch.tensor([[1, 0]])), "permutations: expected"),
        (lambda: follower(drawn(1, 2, 3), torch.tensor([[0, 3]])), "places: expected"),
        (lambda: follower(drawn(1, 2, 3), torch.tensor([[0]])), "places: expected"),
        (lambda: follower(drawn(1, 2, 3), torch.tensor([[0, 1]]), -1.0), "strength: expected"),
        (lambda: told_bits(0.1, 2), "share: expected"),
        (lambda: told_bits(1.1, 2), "share: expected"),
        (lambda: told_bits(0.5, 1), "kinds: expected"),
        (lambda: best_share(-1, 2, 2), "bits: expected"),
        (lambda: best_share(1, 0, 2), "pairs: expected"),
        (
            lambda: recall(linear_attention, torch.ones(1, 2, 3), torch.ones(1, 3, 2)),
            "values: expected a multiple",
        ),
        (lambda: recall(linear_attention, torch.ones(2, 3), torch.ones(1, 3, 2)), "keys: expected"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()


def test_the_module_names_its_chapter():
    assert limits.__doc__.startswith("Chapter 22")
