"""Which recorded metrics are shown, and under which name."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HOURS", "METRICS", "Metric"]

HOURS = "time/total"
"""Hours of training so far, over all starts, as Composer's SpeedMonitor records them."""


@dataclass(frozen=True)
class Metric:
    """A row of the table of metrics."""

    key: str
    """Its name here and in the JSON."""
    title: str
    unit: str
    recorded: tuple[str, ...]
    """Names in metrics.jsonl; the first that a run has is taken."""
    is_smoothed: bool = False
    """Whether it is so noisy that the chart shows a running mean as well."""
    falls_steeply: bool = False
    """Whether the first values are so high that the chart may cut them off."""
    from_zero: bool = False
    """Whether the chart's axis begins at 0."""


METRICS = (
    Metric(
        "train_loss", "Training loss", "nats per token", ("loss/train/total",), is_smoothed=True, falls_steeply=True
    ),
    Metric(
        "heldout_loss",
        "Held-out loss, nothing masked",
        "nats per token",
        ("heldout/loss", "metrics/heldout/loss"),
        falls_steeply=True,
    ),
    Metric(
        "masked_loss",
        "Training loss where the target was masked",
        "nats per token",
        ("masking/loss_masked_targets",),
        is_smoothed=True,
        falls_steeply=True,
    ),
    Metric(
        "clean_loss",
        "Training loss where the target was not masked",
        "nats per token",
        ("masking/loss_clean_targets",),
        is_smoothed=True,
        falls_steeply=True,
    ),
    Metric(
        "mask_ratio",
        "Masked share of the input, or of the copied answers",
        "share",
        ("masking/ratio", "masking/ratio_of_answers"),
        is_smoothed=True,
    ),
    Metric("learning_rate", "Learning rate", "", ("lr-AdamW/group0",), from_zero=True),
    Metric(
        "tokens_per_second",
        "Throughput",
        "tokens per second, all devices",
        ("throughput/tokens_per_sec", "throughput/device/tokens_per_sec"),
        is_smoothed=True,
        from_zero=True,
    ),
    Metric(
        "mfu",
        "Share of the hardware's peak (MFU)",
        "share",
        ("throughput/device/mfu",),
        is_smoothed=True,
        from_zero=True,
    ),
    Metric("memory", "Peak memory of a GPU so far", "GB", ("memory/peak_allocated_mem",), from_zero=True),
    Metric("gradient_norm", "Gradient norm", "", ("l2_norm/grad/global",), is_smoothed=True, falls_steeply=True),
)
"""In the order in which they are shown; what no run recorded is left out."""
