"""Draw the flow of data, and what masking does to a row: docs/flow.svg, legible in light and dark.

    python docs/flow.py

The picture has its own background and both palettes, so that it never depends on the page around it.
"""

from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 1040, 348
STAGES = (
    ("raw text", "tokens", "rows", "shards"),
    ("samples", "masked batch", "loss", "checkpoint"),
    ("Hugging Face", "folder"),
    ("numbers,", "pictures"),
)
LANES = (
    ("PREPARE", "dataprep/c4_to_mds.py", "datatrove, tokenizers, MDS", 24, 312, "prepare"),
    ("TRAIN", "recipes/meap_1b.py", "streaming, meap.masking, Composer", 352, 364, "train"),
    ("EXPORT", "export_hf.py", "safetensors", 732, 132, "export"),
    ("EVALUATE", "evaluate.py", "transformers", 880, 136, "evaluate"),
)
"""Title, entry point, libraries, left edge, width, palette class."""

INPUTS = ("BOS", "the", "[MASK]", "of", "the", "mill", "[MASK]", "97817", ".")
LABELS = ("the", "number", "of", "the", "mill", "is", "97817", ".", "EOS")

STYLE = """
  .page { fill: #ffffff; stroke: #d0d7de }
  text { font-family: -apple-system, "Segoe UI", Inter, "DejaVu Sans", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .title { font-size: 12px; font-weight: 700; letter-spacing: .08em }
  .code { font-family: ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; font-size: 12px }
  .small { font-size: 12px; fill: #57606a }
  .stage { font-size: 13px }
  .box { fill: #ffffff; stroke: #8c959f }
  .lane { stroke-width: 1 }
  .prepare { fill: #ddf4ff; stroke: #54aeff }
  .train { fill: #dafbe1; stroke: #4ac26b }
  .export { fill: #fff8c5; stroke: #d4a72c }
  .evaluate { fill: #fbefff; stroke: #c297ff }
  .arrow { stroke: #57606a; stroke-width: 1.5; fill: none }
  .head { fill: #57606a }
  .masked { fill: #cf222e; stroke: #cf222e }
  .on-masked { fill: #ffffff; font-weight: 700 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; stroke: #30363d }
    text { fill: #e6edf3 }
    .small { fill: #9198a1 }
    .box { fill: #161b22; stroke: #6e7681 }
    .prepare { fill: #0c2d4a; stroke: #388bfd }
    .train { fill: #10321c; stroke: #2ea043 }
    .export { fill: #3a2c06; stroke: #bb8009 }
    .evaluate { fill: #2d1f47; stroke: #8957e5 }
    .arrow { stroke: #9198a1 }
    .head { fill: #9198a1 }
    .masked { fill: #da3633; stroke: #da3633 }
    .on-masked { fill: #ffffff }
  }
"""


def text(x: float, y: float, content: str, style: str, anchor: str = "start") -> str:
    """One line of text."""
    return f'<text x="{x:g}" y="{y:g}" class="{style}" text-anchor="{anchor}">{escape(content)}</text>'


def box(x: float, y: float, width: float, height: float, style: str, radius: float = 5) -> str:
    """A box with round corners."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" class="{style}"/>'


def arrow(x: float, y: float, length: float) -> str:
    """An arrow to the right."""
    end = x + length
    head = f'<path d="M{end:g} {y:g}l-6 -4v8z" class="head"/>'
    return f'<path d="M{x:g} {y:g}H{end - 5:g}" class="arrow"/>{head}'


def lane(number: int) -> list[str]:
    """A step of the flow with its entry point and its stages."""
    title, script, libraries, left, width, palette = LANES[number]
    parts = [
        box(left, 24, width, 142, f"lane {palette}", 8),
        text(left + 12, 46, title, "title"),
        text(left + 12, 66, script, "code"),
        text(left + 12, 152, libraries, "small"),
    ]
    stages = STAGES[number]
    if number < 2:
        gap = 14
        widths = [7.4 * len(stage) + 12 for stage in stages]
        room = width - 24 - gap * (len(stages) - 1)
        scale, x = room / sum(widths), left + 12.0
        for place, (stage, natural) in enumerate(zip(stages, widths, strict=True)):
            wide = natural * scale
            parts += [box(x, 84, wide, 40, "box"), text(x + wide / 2, 108.5, stage, "stage", "middle")]
            if place < len(stages) - 1:
                parts.append(arrow(x + wide + 1, 104, gap - 2))
            x += wide + gap
    else:
        middle = left + width / 2
        parts += [box(left + 12, 84, width - 24, 40, "box")]
        parts += [text(middle, 100 + 16 * line, stage, "stage", "middle") for line, stage in enumerate(stages)]
    if number < len(LANES) - 1:
        parts.append(arrow(left + width + 1, 104, 14))
    return parts


def row(y: float, name: str, note: str, tokens: tuple[str, ...]) -> list[str]:
    """A row of tokens, the masked ones marked."""
    parts = [text(24, y + 20, name, "title"), text(24, y + 36, note, "small")]
    for place, token in enumerate(tokens):
        x, masked = 196 + 90 * place, token.startswith("[")
        parts.append(box(x, y + 4, 84, 34, "masked" if masked else "box"))
        parts.append(text(x + 42, y + 26, token, "code on-masked" if masked else "code", "middle"))
    return parts


def main() -> None:
    """Write the picture beside this file."""
    parts = [box(0.5, 0.5, WIDTH - 1, HEIGHT - 1, "page", 10)]
    for number in range(len(LANES)):
        parts += lane(number)
    parts.append(text(24, 204, "What masking changes: some input tokens. Labels, attention and loss stay.", "stage"))
    parts += row(218, "INPUT", "about 15 % masked", INPUTS)
    parts += row(268, "LABEL", "clean, shifted by one", LABELS)
    parts.append(text(196, 330, "every position predicts its label: plain next-token prediction", "small"))
    title = "The flow: raw text to shards, shards to a trained model, export, evaluation; masking replaces inputs only"
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{title}</title>",
        f"<style>{STYLE}</style>",
        *parts,
        "</svg>",
    ]
    Path(__file__).with_suffix(".svg").write_text("\n".join(svg) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
