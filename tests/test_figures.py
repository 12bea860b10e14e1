"""The plotting style, and the numbers that an interactive figure shows before its script runs."""

import re

import matplotlib.pyplot as plt
import pytest
import torch

from linear_time import cost, figures
from linear_time.discretization import METHODS


def test_style_is_set_on_import():
    assert plt.rcParams["figure.facecolor"] == "white"
    assert plt.rcParams["axes.grid"]


def test_finish_refuses_an_axis_without_a_label():
    fig, ax = figures.figure()
    ax.plot([0, 1])
    ax.set_xlabel("time in s")
    with pytest.raises(ValueError, match="axes 0 expected a label on its y axis"):
        figures.finish(fig)
    assert not plt.get_fignums()


def test_finish_shows_a_labelled_figure(monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    fig, ax = figures.figure()
    figures.label(ax, "time in s", "position in m", "a title")
    figures.finish(fig)
    assert shown == [True] and ax.get_title(loc="left") == "a title"
    plt.close(fig)


@pytest.mark.parametrize(("delta", "a"), [(0.9, -2.0), (2.0, -1.5), (1.0, -2.0)])
def test_explorer_without_its_script_shows_the_librarys_numbers(delta, a):
    html = figures.discretization_explorer(delta, a)._repr_html_()
    values = dict(re.findall(r'data-value="([\w.]+)">([^<]*|[<>=] 1, \w+)</', html))
    one = torch.ones(1, dtype=torch.float64)
    for name, rule in METHODS.items():
        A_bar, B_bar = rule(a * one[None], one, delta)
        assert float(values[f"{name}.A_bar"]) == pytest.approx(A_bar.item(), abs=5e-5)
        assert float(values[f"{name}.B_bar"]) == pytest.approx(B_bar.item(), abs=5e-5)
        growth = abs(A_bar.item())
        sign = "&lt;" if growth < 1 else "&gt;" if growth > 1 else "="
        assert values[f"{name}.stable"].startswith(sign)
    assert float(values["delta"]) == delta and float(values["a"]) == a


def test_explorer_says_its_name():
    shown = figures.discretization_explorer()
    assert repr(shown) == "<interactive figure: discretization-explorer>"
    assert 'data-interactive="discretization-explorer"' in shown._repr_html_()


@pytest.mark.parametrize("at", [0, 8, 16])
def test_cost_explorer_without_its_script_shows_the_formulas(at):
    html = figures.cost_explorer(at=at)._repr_html_()
    values = dict(re.findall(r'data-value="([\w.]+)">([^<]*)<', html))
    length = 2 ** (at + 4)
    assert values["length"] == f"{length:,}"
    prefixes = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
    for name in ("gru", "attention", "s4d", "mamba"):
        row = getattr(cost, f"{name}_cost")(length, 1024)
        shown = {"gru": "GRU", "s4d": "S4D", "mamba": "Mamba"}.get(name, name)
        wanted = {"forward": row.forward_flops, "step": row.step_flops, "state": 4 * row.state}
        for key, value in wanted.items():
            number, _, prefix = values[f"{shown}.{key}"].partition(" ")
            assert float(number) * prefixes[prefix] == pytest.approx(value, rel=6e-3)
    script = html[html.rindex("<script>") : html.rindex("</script>")]
    assert len(script) < 2048


def test_short_numbers_have_three_digits():
    cases = {
        1: "1", 999: "999", 1000: "1.00 k", 12_345: "12.3 k", 999_499: "999 k",
        999_999: "1.00 M", 123_456_789: "123 M", 10**12: "1.00 T",
    }  # fmt: skip
    assert {value: figures._short(value) for value in cases} == cases
