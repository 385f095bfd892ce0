"""The page the report program makes of artifacts, taken apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

from cai_jobs import report

VOID = {"meta", "br", "img", "line", "rect", "circle", "polyline", "polygon"}

Publish = Callable[..., None]
Inputs = dict[str, str]


class Page(HTMLParser):
    """Reads a page: its elements with attributes, its text, and whether its elements are nested properly."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def run(tmp_path: Path, inputs: Inputs, *flags: str) -> tuple[str, Page]:
    argv = ["--pipeline", "demo", "--artifacts", str(tmp_path / "artifacts"), "--inputs", json.dumps(inputs)]
    report.main([*argv, "--output-dir", str(tmp_path / "out"), *flags])
    html = (tmp_path / "out" / "report.html").read_text()
    return html, Page(html)
