# SPDX-License-Identifier: BSD-3-Clause
"""Pages of the documentation, part of which a benchmark writes."""

from __future__ import annotations

from pathlib import Path

__all__ = ["put_between"]


def put_between(page: Path, marks: tuple[str, str], text: str) -> None:
    """Replace what stands between the marks of a page."""
    before, start, rest = page.read_text("utf-8").partition(marks[0])
    _, end, after = rest.partition(marks[1])
    page.write_text(f"{before}{start}\n{text}\n{end}{after}", "utf-8")
