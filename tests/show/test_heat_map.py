"""A heat map is drawn in shapes, with its numbers as text."""

import math
import re

import numpy as np

from meap.show.figures import draw_svg
from meap.show.heat_map import draw_heat_map, ink_on


def test_a_heat_map_has_a_number_in_each_cell_that_was_asked():
    values = [[0.0, 1.0], [math.nan, 0.25]]
    drawn = draw_svg(lambda axes: draw_heat_map(axes, values, columns=["a", "b"], rows=["0", "9"], label="share"))
    assert re.findall(r">(\d+)</text>", drawn.svg)[-3:] != []
    assert {"0", "100", "25"} <= set(re.findall(r">(\d+)</text>", drawn.svg))
    assert "nan" not in drawn.svg
    assert "<image" not in drawn.svg, "a picture in the picture follows no theme"


def test_digits_contrast_with_every_shade():
    """WCAG 2 asks for 4.5 : 1 of text; the scale is the same on light and dark paper, and so are its digits."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    def luminance(colour):
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in colour]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    shades = [colormaps["cividis"](level / 100)[:3] for level in range(101)]
    for shade in shades:
        light, dark = sorted((luminance(shade), luminance(to_rgb(ink_on(shade)))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5
    lightness = [luminance(shade) for shade in shades]
    assert lightness == sorted(lightness), "more is lighter, for whoever sees no colours"
    drawn = draw_svg(lambda axes: draw_heat_map(axes, [[0.5]], columns=["a"], rows=["0"], label="share", chance=0.25))
    assert "var(--paper)" not in drawn.svg
    assert [entry.label for entry in drawn.legend] == ["chance, 25 %, on the scale"]
