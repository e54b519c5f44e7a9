"""Write the map of all experiments: experiments/README.md, and the part of README.md that sums it up.

    python experiments/map.py                                             # from what experiments/results/ holds
    python experiments/map.py add=[runs/experiments/d_repetition]         # takes over that folder's results first

Every sentence about a result comes from the numbers in experiments/results/ by rule; what is declared and not finished
is said to be so.
"""

from pathlib import Path

from lab.declaration import MapConfig

from meap.config import run_command
from meap.processes import leave


def main(cfg: MapConfig) -> None:
    """Take over, write both pages."""
    from lab.pages import FOLDER, ROOT, page_of, read_all, take_over, with_summary

    for each in cfg.add:
        take_over(Path(each))
    experiments = read_all()
    page, readme = FOLDER / "README.md", ROOT / "README.md"
    page.write_text(page_of(experiments), encoding="utf-8")
    readme.write_text(with_summary(readme.read_text(encoding="utf-8"), experiments), encoding="utf-8")
    print(f"written     {page}\nwritten     {readme}")


if __name__ == "__main__":
    leave(run_command, MapConfig, main, doc=__doc__, starts_bare=True)
