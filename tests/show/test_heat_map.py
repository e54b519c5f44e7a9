"""A heat map is drawn in shapes, with its numbers as text."""

import math
import re

from meap.show.figures import draw_svg
from meap.show.heat_map import draw_heat_map


def test_a_heat_map_has_a_number_in_each_cell_that_was_asked():
    values = [[0.0, 1.0], [math.nan, 0.25]]
    drawn = draw_svg(lambda axes: draw_heat_map(axes, values, columns=["a", "b"], rows=["0", "9"], label="share"))
    assert re.findall(r">(\d+)</text>", drawn.svg)[-3:] != []
    assert {"0", "100", "25"} <= set(re.findall(r">(\d+)</text>", drawn.svg))
    assert "nan" not in drawn.svg
    assert "<image" not in drawn.svg, "a picture in the picture follows no theme"
