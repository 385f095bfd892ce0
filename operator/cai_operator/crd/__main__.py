"""Write the CustomResourceDefinition and the reference page: `python -m cai_operator.crd` at the repository's root."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from cai_operator.api import GROUP, PLURAL
from cai_operator.crd.definition import definition
from cai_operator.crd.reference import reference

HEADER = "# Made by `make manifests` from operator/cai_operator/api.py and crd/rules.py; change those, not this.\n"


class _WithoutAnchors(yaml.SafeDumper):
    def ignore_aliases(self, _data: Any) -> bool:
        return True


def generated() -> dict[Path, str]:
    """The generated files: path below the repository's root -> text."""
    document = yaml.dump(definition(), Dumper=_WithoutAnchors, sort_keys=False, width=120, allow_unicode=True)
    return {Path(f"crds/{GROUP}_{PLURAL}.yaml"): HEADER + document, Path("docs/reference.md"): reference()}


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(prog="python -m cai_operator.crd", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="the repository's root (default: here)")
    root = parser.parse_args().root
    for path, text in generated().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
        print(root / path)


if __name__ == "__main__":
    main()
