"""The picture of an experiment: a panel for each declared one, means with their intervals over seeds."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from meap.evals.scoring import Group, estimate
from meap.show.figures import FAINT, colour_of, save_panels
from meap.show.intervals import draw_interval_points

from .declaration import ExperimentConfig, PictureConfig

__all__ = ["draw"]

Found = dict[str, Any]


def draw(cfg: ExperimentConfig, found: Found, path: Path) -> None:
    """Write a PNG."""
    runs = found["runs"]
    title = f"{cfg.title}: {runs['finished']} of {runs['declared']} runs, 95 % intervals over seeds"
    panels = [partial(_panel, found=found, picture=picture, cfg=cfg) for picture in cfg.pictures.values()]
    save_panels(panels, path, title=title, columns=2)


def _panel(axes: Any, *, found: Found, picture: PictureConfig, cfg: ExperimentConfig) -> None:
    chosen = picture.arms or tuple(cfg.arms)
    for number, arm in enumerate(cfg.arms):
        if arm not in chosen:
            continue
        numbers = found["arms"][arm]
        if picture.curve:
            metric = cfg.measures[picture.curve].metric
            curves = [each[metric] for each in numbers["curves"]]
            columns = list(zip(*curves, strict=False))
            points = [asdict(estimate([Group(np.array(column))])) for column in columns]
            places = [float(place) for place in range(1, len(points) + 1)]
        else:
            named = [(x, name) for x, name in zip(picture.x, picture.measures, strict=True)]
            named = [(x, name) for x, name in named if name in numbers["measures"]]
            points = [numbers["measures"][name] for _, name in named]
            places = [x for x, _ in named]
        if points:
            scale = 100 if _first(picture, cfg).percent else _first(picture, cfg).scale
            scaled = [{key: _times(scale, each[key]) for key in ("value", "low", "high")} for each in points]
            spread = 1 + 0.006 * (number - len(cfg.arms) / 2) if picture.log_x else 1
            draw_interval_points(
                axes, [spread * x for x in places], scaled, colour=colour_of(number), label=numbers["label"]
            )
    measure = _first(picture, cfg)
    if measure.chance is not None:
        axes.axhline(100 * measure.chance if measure.percent else measure.chance, color=FAINT, linestyle=":")
    axes.set(xlabel=picture.x_title, ylabel=picture.y_title)
    axes.set_title(picture.title, loc="left")
    if picture.log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
    if picture.x:
        axes.set_xticks(picture.x)
    axes.legend()


def _first(picture: PictureConfig, cfg: ExperimentConfig) -> Any:
    return cfg.measures[(picture.measures or (picture.curve,))[0]]


def _times(scale: float, value: float | None) -> float | None:
    return None if value is None else scale * value
