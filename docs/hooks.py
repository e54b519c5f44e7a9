"""For mkdocs: pages that lie outside of docs/, and links between them as they work on the forge.

README.md becomes the start page. A file of the repository keeps its path in the site; a file of docs/ loses `docs/`.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

__all__ = ["on_files", "on_page_markdown"]

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = (
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "meap/train/README.md", "yamls/**/*.*"),
    *("experiments/README.md", "experiments/*.yaml", "experiments/results/*.png"),
)
"""What the site has besides docs/."""

_LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and files outside of docs/."""
    for path in _outside():
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    place = PurePosixPath(page.file.src_uri)
    source = place if (ROOT / place).is_file() else "docs" / place

    def moved(link: re.Match[str]) -> str:
        target = os.path.normpath(source.parent / link[2]).removeprefix("docs/")
        return link[1] + os.path.relpath(target, place.parent)

    return _LINK.sub(moved, markdown)


def _outside() -> Iterator[str]:
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            yield path.relative_to(ROOT).as_posix()
