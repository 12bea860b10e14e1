"""The chapters' explorers: what they show is the library's."""

import math
import re

import nbformat
import pytest
import torch

from book import NOTEBOOKS, ROOT, load
from linear_time import cost
from linear_time.datasets import ecg
from linear_time.discretization import METHODS
from linear_time.hippo import project, reconstruct, sample_ages
from linear_time.pictures.attention import dictionary_drawing
from linear_time.pictures.compression import split_ratio, wukong_layer
from linear_time.pictures.convolution import padding_explorer
from linear_time.pictures.cost import cost_explorer, machines_drawing, short
from linear_time.pictures.discretization import PANEL, curve, discretization_explorer
from linear_time.pictures.hippo import memory_explorer
from linear_time.pictures.home import PATHS, paths_drawing
from linear_time.pictures.mamba import state_explorer
from linear_time.pictures.scan import SCANS, rounds_explorer, rounds_of
from linear_time.pictures.selective import (
    ROW,
    TWINS,
    gate_explorer,
    gate_shares,
    gate_tokens,
    three_matrices,
)
from linear_time.scan import (
    blelloch_cost,
    combine,
    hillis_steele_cost,
    sequential_cost,
    sequential_scan,
)
from linear_time.selective import selective_scan
from linear_time.show import Source

notebooks = load(ROOT / "book" / "notebooks.py")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_chapters_hold_the_pictures_of_today(path):
    for output, thing in notebooks.displayed(nbformat.read(path, as_version=4)):
        if isinstance(thing, Source):
            continue  # tests/test_show.py looks at it
        says = f"run: python book/notebooks.py renew chapters/{path.name}"
        assert output.data == notebooks.bundle(thing), says


@pytest.mark.parametrize(("delta", "a"), [(0.9, -2.0), (2.0, -1.5), (1.0, -2.0)])
def test_rules_without_the_script_are_the_librarys(delta, a):
    html = discretization_explorer(delta, a)._repr_html_()
    values = dict(re.findall(r'data-value="([\w.]+)">([^<]*)</', html))
    one = torch.ones(1, dtype=torch.float64)
    for name, rule in METHODS.items():
        A_bar, B_bar = rule(a * one[None], one, delta)
        assert float(values[f"{name}.A_bar"]) == pytest.approx(A_bar.item(), abs=5e-5)
        assert float(values[f"{name}.B_bar"]) == pytest.approx(B_bar.item(), abs=5e-5)
        growth = abs(A_bar.item())
        sign = "&lt;" if growth < 1 else "&gt;" if growth > 1 else "="
        assert values[f"{name}.stable"].startswith(sign)
        assert curve(name, delta, a) in html
    assert float(values["delta"]) == delta and float(values["a"]) == a


def test_zero_order_hold_is_drawn_on_the_exact_state():
    """Its steps are points of the exact curve: a held input is what it assumes."""

    def points(name, delta):
        return [tuple(map(float, p.split())) for p in curve(name, delta, -2.0)[1:].split("L")]

    exact = dict(points("exact", 1.0))
    steps = points("zero_order_hold", 0.5)
    assert len(steps) == 13 and all(abs(exact[t] - h) < 0.11 for t, h in steps)
    assert steps[0] == (PANEL.at_x(0), pytest.approx(PANEL.at_y(0), abs=0.05))
    # at its limit of stability forward Euler swings from 0 to twice the exact state
    swing = [h for _, h in points("forward_euler", 1.0)]
    ends = PANEL.at_y(0), PANEL.at_y(2)
    assert all(min(abs(h - end) for end in ends) < 0.11 for h in swing) and len(set(swing)) == 2


@pytest.mark.parametrize("at", [0, 8, 16])
def test_costs_are_the_formulas(at):
    shown = cost_explorer(start=at).shown(at)
    length = 2 ** (at + 4)
    assert shown["length"] == f"{length:,}"
    prefixes = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
    for name in ("GRU", "attention", "S4D", "Mamba"):
        row = getattr(cost, f"{name.lower()}_cost")(length, 1024)
        wanted = {"forward": row.forward_flops, "step": row.step_flops, "state": 4 * row.state}
        for key, value in wanted.items():
            number, _, prefix = shown[f"{name}.{key}"].partition(" ")
            assert float(number) * prefixes[prefix] == pytest.approx(value, rel=6e-3)


def test_the_three_machines_carry_what_the_formulas_count():
    says = re.sub(r"<[^>]*>", "", machines_drawing().svg())
    d, L = 4096, 2**10
    gru, mamba = cost.gru_cost(L, d), cost.mamba_cost(L, d)
    attention = cost.attention_cost(L, d)
    assert gru.state == d and attention.state == 2 * d * L and mamba.state == 38 * d
    assert gru.step_flops == 12 * d**2 and attention.step_flops == 8 * d**2 + 4 * d * L
    assert mamba.step_flops == pytest.approx(12 * d**2, rel=0.1)  # "for large d"
    assert (gru.depth, attention.depth, mamba.depth) == (L, 1 + 10, 2 * 10)
    for written in ("38 d", "2 d L", "12 d2", "8 d2 + 4 d L", "1 + log2 L", "2 log2 L"):
        assert written in says, written


def test_every_chapter_of_a_path_is_reached_by_an_arrow():
    """But the first of each further row, which its row reaches."""
    lines = [re.match(r'<path d="M(\d+) (\d+)L(\d+) (\d+)"', p) for p in paths_drawing().parts]
    arrows = [tuple(map(int, line.groups())) for line in lines if line]
    many = [len(path.chapters) for path in PATHS.values()]
    assert len(arrows) == sum(n - (n - 1) // 7 for n in many)
    assert all(y == y_end and 0 < x_end - x < 20 for x, y, x_end, y_end in arrows)
    assert sum(x == 83 for x, *_ in arrows) == len(many)  # from the ten minutes


def test_the_weights_of_the_drawn_dictionary_sum_to_one():
    weights = [float(w) for w in re.findall(r">(0\.\d\d)<", dictionary_drawing().svg())]
    assert len(weights) == 4 and sum(weights) == pytest.approx(1)


def test_short_numbers_have_three_digits():
    cases = {
        1: "1", 999: "999", 1000: "1.00 k", 12_345: "12.3 k", 999_499: "999 k",
        999_999: "1.00 M", 123_456_789: "123 M", 10**12: "1.00 T",
    }  # fmt: skip
    assert {value: short(value) for value in cases} == cases


def test_the_memory_is_read_back_and_no_spike_is_cut():
    made = memory_explorer()
    x = ecg().x - ecg().x.mean()
    c = project(x, 32)
    for at in (0, 9, 31):
        end = 1024 * (at + 1) // 32
        past = reconstruct(c[end - 1], sample_ages(end))
        seen = torch.tensor(made.frames[at].curves["memory"])
        kept = torch.tensor(range(0, end, 3))
        assert torch.allclose(seen[: len(kept)], past[kept].to(seen.dtype))
        assert seen[len(kept) :].isnan().all()
        shown = made.shown(at)
        error = float((past - x[:end]).norm() / x[:end].norm())
        assert shown["samples"] == str(end) and float(shown["error"]) == pytest.approx(
            error, abs=6e-3
        )
        assert float(shown["time"]) == pytest.approx(end / 360, abs=6e-3)
    low, high = made.panels[0].y_range
    assert low < x.min() and x.max() < high
    assert torch.allclose(torch.tensor(made.panels[0].curves["signal"].ys).double(), x)
    assert (len(x) - 1) % 3 == 0  # the last point of either curve is the last sample


def test_each_zero_of_padding_mends_one_output():
    """Of 16 outputs, 31 − n are wrong with a transform of length n: none from 16 + 16 − 1 on."""
    made = padding_explorer()
    causal = made.panels[0].curves["right"].ys
    for n, frame in zip(range(16, 33), made.frames, strict=True):
        wrong = [
            abs(y - right) > 1e-9 for y, right in zip(frame.curves["fft"], causal, strict=True)
        ]
        assert wrong == [k < 31 - n for k in range(16)]
        assert int(frame.numbers["wrong"]) == max(31 - n, 0)


def test_the_state_beside_a_cache_is_counted():
    """Two Mamba layers carry what a layer of attention caches for 38 tokens, or for 304 of 8:1."""
    made = state_explorer()
    places = [(k, sharing) for k in range(21) for sharing in (1, 2, 4, 8)]
    for at, (k, sharing) in enumerate(places):
        shown = made.shown(at)
        assert shown["even"] == str(38 * sharing) and shown["mamba.state"] == short(76 * 1024)
        ratio = 2**k / (38 * sharing)
        assert float(shown["ratio"].replace(",", "")) == pytest.approx(ratio, rel=0.01, abs=0.006)
        assert shown["cache.state"] == short(2 * 1024 // sharing * 2**k)


def test_four_sequences_are_alike_place_by_place():
    rows = [list(row) for row in TWINS]
    second = [[token for token in row if token][1] for row in rows]
    assert second == [3, 3, 7, 7]
    for column in zip(*rows, strict=True):
        assert sorted(column[:2]) == sorted(column[2:])


def test_the_three_matrices_are_what_they_are_called():
    """Attention's rows are shares; the fixed one has diagonals; noise has no column."""
    K = three_matrices()
    assert torch.allclose(K["attention"].sum(1), torch.ones(11, dtype=torch.float64))
    assert all(torch.equal(matrix, matrix.tril()) for matrix in K.values())
    fixed = K["fixed"]
    assert torch.allclose(fixed[1:, 1:], fixed[:-1, :-1]) and (fixed.tril() > 0).sum() == 66
    data = torch.tensor([token.isdigit() for token in ROW])
    assert data.sum() == 3 and (K["selective"][:, ~data] == 0).all()
    u = torch.randn(1, 1, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, A = torch.ones_like(u), -torch.ones(1, 1, dtype=torch.float64)
    steps = {"fixed": 0.25 * one, "selective": torch.where(data, 0.7 * one, 1e-13)}
    for name, delta in steps.items():
        y = selective_scan(u, delta, A, one, one)
        assert torch.allclose(K[name] @ u[0, 0], y[0, 0], rtol=0, atol=1e-11)


def test_the_gate_holds_shares_of_what_it_read():
    made, x = gate_explorer(), gate_tokens()
    for at in (0, 17, 47):
        shown = made.shown(at)
        noise, data = float(shown["on_noise"]), float(shown["on_data"])
        delta = torch.full_like(x, noise)
        delta[3] = data
        h, states = 0.0, [0.0]
        for x_k, step in zip(x.tolist(), delta.tolist(), strict=True):
            h = math.exp(-step) * h + (1 - math.exp(-step)) * x_k
            states.append(h)
        assert made.frames[at].curves["state"] == pytest.approx(states)
        mine = (1 - math.exp(-data)) * math.exp(-8 * noise)
        rest = math.exp(-data - 11 * noise)
        for name, value in (("data", mine), ("noise", 1 - mine - rest), ("rest", rest)):
            assert float(shown[name]) == pytest.approx(value, abs=6e-3)
    assert gate_shares(0.5, 0.5)[1][3] < 0.02 < 0.95 < gate_shares(0.001, 4.0)[1][3]


def test_the_rounds_are_the_scans():
    """The joins so far, and the whole past everywhere at the end; the loop is a scan, too."""
    made, costs = rounds_explorer(), (sequential_cost, hillis_steele_cost, blelloch_cost)
    for i, (scan, formula) in enumerate(zip(SCANS.values(), costs, strict=True)):
        rounds = rounds_of(scan, 16)
        work, depth = formula(16)
        assert (sum(map(len, rounds)), len(rounds)) == (work, depth)
        for done in range(16):
            shown, frame = made.shown(16 * i + done), made.frames[16 * i + done]
            assert int(shown["joins"]) == sum(map(len, rounds[:done]))
            assert int(shown["needs"]) == depth
            whole = [held == t + 1 for t, held in enumerate(frame.curves["held"])]
            assert int(shown["finished"]) == sum(whole) and all(whole) == (done >= depth)
        a, b = torch.randn(2, 3, 16).unbind()
        assert torch.allclose(scan(combine, (a, b))[1], sequential_scan(a, b), rtol=0, atol=1e-4)


@pytest.mark.bad_input
def test_an_operator_on_intervals_tests_a_scan():
    swapped = lambda operator, x: operator(x, x)  # noqa: E731
    with pytest.raises(ValueError, match="operator: expected neighbours, in their order"):
        rounds_of(swapped, 4)
    with pytest.raises(ValueError, match="scan: expected every prefix"):
        rounds_of(lambda operator, x: x, 4)


def test_the_shares_of_a_layer_that_chapter_05_quotes():
    """Operations of Wukong's first layer: LCE, shortcut, products, and the MLP behind them."""
    layer = wukong_layer()
    products = 4 * 100 * 32 * 8
    parts = (layer.lce, layer.shortcut, products, layer.rest - products)
    assert [int(100 * part / layer.whole) for part in parts] == [9, 18, 9, 62]
    assert round(100 * layer.shortcut / layer.whole) == 19
    saved = layer.whole / (layer.whole - layer.lce * (1 - 1 / split_ratio(90, 10, 200)))
    assert round(saved, 1) == 1.1
