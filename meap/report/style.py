"""How the page looks, and what its switches do: they are form fields before the page, which the style sheet reads."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["STYLE", "style_of_axes", "style_of_runs"]

# Colours that remain distinct without colour vision (Okabe and Ito 2008), in shades for light and dark paper.
_LIGHT = ("#0072b2", "#d55e00", "#008f67", "#b5568f", "#3f9fd6", "#a97900", "#5a5f66", "#7a3fb0")
_DARK = ("#5cb3ec", "#ff8f45", "#37c99c", "#e58fc0", "#9ad4f7", "#e6b93f", "#b4bac2", "#c09af0")

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --faint: #667; --line: #e2e5e9; --panel: #f6f7f9;
  --good: #18794e; --bad: #b3261e; LIGHT }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e4e6ea; --faint: #9aa3ad; --line: #2e343b;
  --panel: #1f2329; --good: #5fd39d; --bad: #ff8a80; DARK } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 92rem; padding: 0 1.25rem 3rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
body > input { position: absolute; opacity: 0; pointer-events: none; }
nav { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .4rem 2rem;
  justify-content: space-between; padding: .6rem 0; background: var(--paper); border-bottom: 1px solid var(--line); }
nav span { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; }
nav label { cursor: pointer; opacity: .45; overflow-wrap: anywhere; }
nav .way { padding: 0 .55rem; border: 1px solid var(--line); border-radius: 99px; font-size: .85rem;
  line-height: 1.7; }
nav svg { display: inline-block; width: 24px; height: 8px; margin-right: .4rem; }
h1 { font-size: 1.35rem; margin: 1.3rem 0 .6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
.remarks { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: .7rem 1rem .7rem 2rem;
  max-width: 62rem; margin: 0; } .remarks:empty { display: none; }
.remarks li { margin: .15rem 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem 1.4rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
th { font-weight: 500; color: var(--faint); } thead th { color: var(--ink); font-weight: 600; }
.number { text-align: right; } small { font-size: .8rem; color: var(--faint); } td small { display: block; }
.good { color: var(--good); } .bad { color: var(--bad); }
.note { color: var(--faint); font-size: .88rem; max-width: 62rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); gap: 1.4rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: .7rem .7rem .3rem; max-width: 60rem; }
figcaption { font-weight: 600; margin: 0 0 .3rem .3rem; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--faint); font: 12px system-ui, sans-serif; }
.intervals { width: 200px; margin-top: .2rem; }
.grid { stroke: var(--line); fill: none; } .main, .raw { fill: none; stroke-linejoin: round; }
.main { stroke-width: 2; } .raw { stroke-width: 1; opacity: .28; }
.mark { stroke-width: 1.2; stroke-dasharray: 1.5 3; opacity: .8; }
.at rect { fill: transparent; } .at path { stroke: var(--faint); stroke-dasharray: 3 3; }
.at path, .at text { opacity: 0; pointer-events: none; } .at:hover path, .at:hover text { opacity: 1; }
svg .at text { font-weight: 600; paint-order: stroke; stroke: var(--paper); stroke-width: 5px; stroke-linejoin: round; }
svg .at .place { fill: var(--ink); }
details { margin: .5rem 0; } summary { cursor: pointer; color: var(--faint); }
#unsmoothed:not(:checked) ~ main .raw { display: none; }
#unsmoothed:checked ~ nav [for=unsmoothed] { opacity: 1; border-color: var(--faint); }
#unsmoothed:focus-visible ~ nav [for=unsmoothed] { outline: 2px solid var(--faint); }
@media print { nav { position: static; } }
"""


def _colours(colours: Sequence[str]) -> str:
    return " ".join(f"--c{number}: {colour};" for number, colour in enumerate(colours))


STYLE = _STYLE.replace("LIGHT", _colours(_LIGHT)).replace("DARK", _colours(_DARK))


def style_of_runs(num_runs: int) -> str:
    """Colours of lines (s), of marks and numbers (f), and the switch of each run; beyond the colours, dashes too."""
    rules: list[str] = []
    for run in range(num_runs):
        colour, round_ = run % len(_LIGHT), run // len(_LIGHT)
        dashes = f" stroke-dasharray: {6 * round_} 3;" if round_ else ""
        rules.append(
            f".s{run} {{ stroke: var(--c{colour});{dashes} }} svg .f{run} {{ fill: var(--c{colour}); }}\n"
            f"#run{run}:not(:checked) ~ main .r{run} {{ display: none; }}\n"
            f"#run{run}:checked ~ nav [for=run{run}] {{ opacity: 1; }}\n"
            f"#run{run}:focus-visible ~ nav [for=run{run}] {{ outline: 2px solid var(--faint); }}\n"
        )
    return "".join(rules)


def style_of_axes(axes: Sequence[str]) -> str:
    """The switch between axes: charts by another than the chosen one are hidden."""
    return "".join(
        f"#by-{axis}:not(:checked) ~ main .by-{axis} {{ display: none; }}\n"
        f"#by-{axis}:checked ~ nav [for=by-{axis}] {{ opacity: 1; border-color: var(--faint); }}\n"
        f"#by-{axis}:focus-visible ~ nav [for=by-{axis}] {{ outline: 2px solid var(--faint); }}\n"
        for axis in axes
    )
