"""A page as a reader and a browser see it."""

import re
from html.parser import HTMLParser

VOID = {"meta", "input"}
FORBIDDEN = {"script", "link", "img", "iframe", "object", "base", "form", "image"}


class Page(HTMLParser):
    """Elements, checked for nesting; the texts; the cells of each row; text and masks of each <pre>."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.samples: list[str] = []
        self.masked: list[int] = []
        self.is_at_start_of_pre = False
        self.feed(html)
        self.close()
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        self.is_at_start_of_pre = tag == "pre"
        if tag == "pre":
            self.samples.append("")
            self.masked.append(0)
        if tag == "span" and "masked" in (dict(attrs).get("class") or "").split() and "pre" in self.open:
            self.masked[-1] += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        if "pre" in self.open:
            # Browsers drop a newline that follows the tag at once.
            self.samples[-1] += data.removeprefix("\n") if self.is_at_start_of_pre else data
            self.is_at_start_of_pre = False

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


def whole_page(html: str) -> Page:
    """The page, which must be well-formed and load nothing."""
    page = Page(html)
    assert not page.tags & FORBIDDEN
    for _, attributes in page.elements:
        assert not {name for name in attributes if name.startswith("on")} | ({"src", "srcset"} & attributes.keys())
        assert (attributes.get("href") or "#").startswith("#")
    loading = " ".join(re.findall(r"<style>.*?</style>|<[^>]+>", html, re.DOTALL))  # texts may hold addresses
    assert not re.search(r"url\((?!#)|@import|https?:", loading)
    assert "prefers-color-scheme: dark" in html
    assert [tag for tag, _ in page.elements if tag in {"html", "head", "body"}] == ["html", "head", "body"]
    referred = set(re.findall(r'(?:url\(|href=")#([\w-]+)', html))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert referred <= set(ids)
    assert len(ids) == len(set(ids)), "an id is given twice"
    return page
