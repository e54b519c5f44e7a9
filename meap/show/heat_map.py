"""A heat map on axes of a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from meap.extras import require_packages
from meap.show.figures import FAINT

__all__ = ["DIGITS", "draw_heat_map", "ink_on"]

DIGITS = ("#000001", "#fffffe")
"""Dark and light; no colours of the theme, since cells look the same on light and dark paper."""

_LEVELS = 21


def draw_heat_map(
    axes: Any,
    values: Sequence[Sequence[float]],
    *,
    columns: Sequence[str],
    rows: Sequence[str],
    label: str,
    chance: float | None = None,
    most_numbers: int = 150,
) -> None:
    """Draw shares on a perceptually uniform scale (cividis), with percent in the cells where there are few enough.

    The scale looks the same to the colour-blind, and goes from dark to light on any paper. NaN stays empty.

    Args:
        axes: To draw on.
        values: Of each row, from the top.
        columns: Labels below.
        rows: Labels beside.
        label: What the values are, in percent.
        chance: Chance level, marked on the scale.
        most_numbers: Cells that may have a number.
    """
    require_packages("a heat map", "matplotlib", extra="train")
    from matplotlib import colormaps

    shades = colormaps["cividis"].resampled(_LEVELS).with_extremes(bad=(0, 0, 0, 0))
    mesh = axes.pcolormesh(np.ma.masked_invalid(values), vmin=0, vmax=1, cmap=shades)
    axes.invert_yaxis()
    axes.grid(visible=False)
    if len(rows) * len(columns) <= most_numbers:
        for row, of_row in enumerate(values):
            for column, value in enumerate(of_row):
                if not math.isnan(value):
                    text, colour = f"{100 * value:.0f}", ink_on(shades(value)[:3])
                    axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=30, ha="right")
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    bar = axes.figure.colorbar(mesh, ax=axes, fraction=0.04, pad=0.02, label=label)
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
    if chance is not None:
        bar.ax.axhline(chance, color=DIGITS[1] if chance < 0.5 else DIGITS[0], linestyle="--", linewidth=1)
        axes.plot([], [], color=FAINT, linestyle="--", label=f"chance, {100 * chance:.3g} %, on the scale")
        axes.legend()


def ink_on(colour: Sequence[float]) -> str:
    """The one of `DIGITS` that contrasts more with a colour, by its relative luminance (WCAG 2).

    Args:
        colour: Red, green and blue in [0, 1].
    """
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in colour]
    luminance = sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return DIGITS[0] if (luminance + 0.05) ** 2 > 1.05 * 0.05 else DIGITS[1]
