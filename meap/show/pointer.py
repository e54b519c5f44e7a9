"""Shows the values of a chart under the pointer: strips beside each other, each with a line and a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap.show.pages import render

__all__ = ["MARGINS", "pointer_strips"]

MARGINS = {"left": 0.12, "right": 0.985, "top": 0.97, "bottom": 0.14}
"""Where the axes of a chart with strips end: room for labels of six characters."""


@dataclass(frozen=True)
class _Strip:
    """A column of a chart, and what it shows under the pointer."""

    left: float
    right: float
    x: float
    label: str
    values: Sequence[tuple[int, str]]


def pointer_strips(
    axes: Any, places: NDArray[np.float64], told: Sequence[tuple[str, Sequence[tuple[int, str]]]]
) -> str:
    """Strips around `places`, as SVG in the units of the view box.

    Args:
        axes: Those of the chart, in their final size.
        places: Along the horizontal axis, ascending.
        told: For each place a label, and the number and the value of each series there.
    """
    if not len(places):
        return ""
    box = axes.get_window_extent()
    across = axes.get_xaxis_transform().transform(np.column_stack([places, np.zeros(len(places))]))[:, 0]
    borders = np.concatenate([[box.x0], (across[1:] + across[:-1]) / 2, [box.x1]])
    strips = [
        _Strip(float(borders[number]), float(borders[number + 1]), float(across[number]), label, values)
        for number, (label, values) in enumerate(told)
    ]
    bottom = axes.figure.bbox.height - box.y0
    top = axes.figure.bbox.height - box.y1
    return render("strips.svg", strips=strips, top=top, bottom=bottom, middle=(box.x0 + box.x1) / 2)
