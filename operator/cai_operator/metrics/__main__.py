"""Write the table of metrics into a page, between its two marks: `python -m cai_operator.metrics docs/metrics.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from cai_operator.made_part import with_part
from cai_operator.metrics.catalogue import table

BEGIN, END = "<!-- metrics: made by python -m cai_operator.metrics docs/metrics.md -->\n", "<!-- end of metrics -->\n"


def with_table(page: str) -> str:
    """The page with the table of today."""
    return with_part("the page", page, BEGIN, END, table())


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
