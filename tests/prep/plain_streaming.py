"""streaming's own dataset, as a reader that knows nothing of this project."""

from typing import Any


def open_plain(**options: Any) -> Any:
    """A `streaming.StreamingDataset`, whose names on this machine are its own: two that start at once take the same."""
    from streaming import StreamingDataset

    from meap.data.machine_wide import names_of_its_own

    with names_of_its_own():
        return StreamingDataset(**options)
