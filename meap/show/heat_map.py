"""A heat map on axes of a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from meap.extras import require_packages
from meap.show.figures import COLOURS, INK, PAPER

__all__ = ["draw_heat_map"]

_LEVELS = 20


def draw_heat_map(
    axes: Any,
    values: Sequence[Sequence[float]],
    *,
    columns: Sequence[str],
    rows: Sequence[str],
    label: str,
    most_numbers: int = 150,
) -> None:
    """Draw shares as shades of one colour, with numbers in the cells where there are few enough; NaN stays empty.

    Args:
        axes: To draw on.
        values: Of each row, from the top.
        columns: Labels below.
        rows: Labels beside.
        label: What the values are.
        most_numbers: Cells that may have a number.
    """
    require_packages("a heat map", "matplotlib", extra="train")
    from matplotlib.colors import ListedColormap, to_rgb

    # One colour over paper, so that the cells of a page follow light and dark.
    shades = ListedColormap([(*to_rgb(COLOURS[0]), 0.04 + 0.96 * level / _LEVELS) for level in range(_LEVELS + 1)])
    shades = shades.with_extremes(bad=(0, 0, 0, 0))
    mesh = axes.pcolormesh(np.ma.masked_invalid(values), vmin=0, vmax=1, cmap=shades)
    axes.invert_yaxis()
    axes.grid(visible=False)
    if len(rows) * len(columns) <= most_numbers:
        for row, of_row in enumerate(values):
            for column, value in enumerate(of_row):
                if not math.isnan(value):
                    colour = PAPER if value > 0.5 else INK
                    text = f"{100 * value:.0f}"
                    axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=30, ha="right")
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    bar = axes.figure.colorbar(mesh, ax=axes, fraction=0.04, pad=0.02, label=label)
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
