"""The book's one plotting style."""

from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator

#: Okabe and Ito's palette, distinguishable with every common colour-vision
#: deficiency; its yellow is left out, being too pale for a line.
COLORS = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "orange": "#E69F00",
    "black": "#222222",
    "grey": "#8A8A8A",
}

STYLE: dict[Any, Any] = {
    "figure.figsize": (6.8, 3.2),
    "figure.dpi": 144,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "axes.prop_cycle": cycler(color=list(COLORS.values())),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "font.family": "DejaVu Sans",
    "image.cmap": "Blues",
}


def use_style() -> None:
    """Set matplotlib to the book's style: white ground, safe colours.

    A dark page turns the figure's lightness around (``book/_static``).
    """
    mpl.rcParams.update(STYLE)


def figure(
    n_rows: int = 1, n_cols: int = 1, height: float = 3.2, **kwargs: Any
) -> tuple[Figure, Any]:
    """A figure as wide as the page, and its axes (an array if several).

    Args:
        n_rows: rows of axes.
        n_cols: columns of axes.
        height: of the whole figure, in inches; the width is the page's.
        **kwargs: as for ``plt.subplots``.
    """
    return plt.subplots(
        n_rows, n_cols, figsize=(STYLE["figure.figsize"][0], height), **kwargs
    )


def label(ax: Axes, x: str, y: str, title: str = "") -> None:
    """Name both axes, with units, and give a title where there are several."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if title:
        ax.set_title(title)


class _Plain(LogFormatterSciNotation):
    """The labels of a logarithmic axis, written 0.3 and not 3 × 10⁻¹."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def finish(fig: Figure) -> None:
    """Show a figure, and refuse one whose axes have no labels.

    The numbers on a logarithmic axis of less than two decades are plain ones.

    Raises:
        ValueError: if an axis that is drawn has no label.
    """
    for i, ax in enumerate(fig.axes):
        if not ax.axison or ax.get_label() == "<colorbar>":
            continue
        for axis in (ax.xaxis, ax.yaxis):
            low, high = axis.get_view_interval()
            ten = getattr(axis.get_transform(), "base", 0) == 10
            free = isinstance(axis.get_major_locator(), LogLocator)
            if ten and free and 1e-3 < low < high < min(100 * low, 1e4):
                axis.set_major_formatter(_Plain())
                axis.set_minor_formatter(_Plain(labelOnlyBase=False))
            shown = axis.get_visible() and any(
                t.get_visible() for t in axis.get_ticklabels()
            )
            if shown and not axis.get_label_text():
                plt.close(fig)
                raise ValueError(
                    f"fig: axes {i} expected a label on its "
                    f"{axis.axis_name} axis, got none"
                )
    plt.show()


use_style()
