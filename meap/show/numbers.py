"""Formats sizes, durations and numbers for people."""

from __future__ import annotations

__all__ = ["clock", "short", "size"]

_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:05. Negative durations count as 0."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def short(value: float) -> str:
    """A number in few characters: 1.5B, 20k, 0.0004."""
    for factor, suffix in _SUFFIXES:
        if abs(value) >= factor:
            return f"{value / factor:.4g}{suffix}"
    return f"{value:.4g}"


def size(num_bytes: float) -> str:
    """Bytes in the largest unit of which there is at least one, powers of 1000: 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:,.0f} {unit}" if unit == "B" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.2f} TB"
