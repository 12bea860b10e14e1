"""The plotting style."""

import matplotlib.pyplot as plt
import pytest

from linear_time import figures


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


@pytest.mark.parametrize(
    ("times", "expected"),
    [([0.07, 0.3], {"0.1", "0.2", "0.3"}), ([0.5, 20], {"1", "10"}), ([1, 1000], None)],
)
def test_a_short_logarithmic_axis_has_plain_numbers(times, expected):
    fig, ax = figures.figure()
    ax.loglog([1, 1000], times)
    figures.label(ax, "length in tokens", "time in s")
    figures.finish(fig)
    fig.canvas.draw()
    ticks = [*ax.yaxis.get_majorticklabels(), *ax.yaxis.get_minorticklabels()]
    shown = {tick.get_text() for tick in ticks} - {""}
    assert shown >= expected if expected else all("10^" in text for text in shown)
    assert all("10^" in tick.get_text() for tick in ax.xaxis.get_majorticklabels())
    plt.close(fig)


def test_powers_of_two_stay_powers():
    fig, ax = figures.figure()
    ax.plot([4, 64], [0, 1])
    ax.set_xscale("log", base=2)
    figures.label(ax, "length in tokens", "share")
    figures.finish(fig)
    fig.canvas.draw()
    assert "$\\mathdefault{2^{4}}$" in {t.get_text() for t in ax.get_xticklabels()}
    plt.close(fig)
