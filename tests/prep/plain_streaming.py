"""streaming's own dataset, as a reader that knows nothing of this project."""

from typing import Any


def open_plain(**options: Any) -> Any:
    """A `streaming.StreamingDataset`, whose names on this machine are its own: two that start at once take the same."""
    from streaming import StreamingDataset

    from meap.data.pinned.isolation import isolated_names

    with isolated_names():
        return StreamingDataset(**options)
