"""Histograms hold every value once."""

import pytest

from meap.show.bins import bin_by_powers_of_two, bin_linearly


@pytest.mark.parametrize("values", [[], [1], [1, 1, 3, 900], [0, 5, 5, 23, 77, 10_000], list(range(1, 25))])
def test_bins_hold_every_value_once(values):
    for bin_values, allowed in ((bin_linearly, values), (bin_by_powers_of_two, [each for each in values if each])):
        labels, counts = bin_values(allowed)
        assert sum(counts) == len(allowed)
        edges = [[int(edge.replace(",", "")) for edge in label.split("-")] for label in labels]
        for (low, *high), count in zip(edges, counts, strict=True):
            assert sum(low <= value <= (high or [low])[0] for value in allowed) == count
        assert len(labels) <= 26
