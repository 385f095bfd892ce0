"""Write what is generated: `python -m cai_operator.crd` at the repository's root.

The CustomResourceDefinition and the reference page from the models; from these, operator/install/ and values.yaml the
chart's files and README, and the bundle for kubectl.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cai_operator.api import GROUP, PLURAL
from cai_operator.crd.chart_readme import with_values
from cai_operator.crd.definition import definition
from cai_operator.crd.installation import BUNDLE, CHART, INSTALL, PARTS, ROLES, bundle, chart_files, dumped
from cai_operator.crd.reference import reference

HEADER = "# Made by `make manifests` from operator/cai_operator/api.py and crd/rules.py; change those, not this.\n"


def generated(root: Path) -> dict[Path, str]:
    """The generated files: path below the repository's root -> text."""

    def text_of(path: Path) -> str:
        return (root / path).read_text(encoding="utf-8")

    resource = HEADER + dumped(definition())
    return {
        Path(f"crds/{GROUP}_{PLURAL}.yaml"): resource,
        Path("docs/reference.md"): reference(),
        **chart_files(definition(), text_of(ROLES)),
        BUNDLE: bundle(resource, [text_of(INSTALL / name) for name in PARTS]),
        CHART / "README.md": with_values(text_of(CHART / "README.md"), text_of(CHART / "values.yaml")),
    }


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(
        prog="python -m cai_operator.crd", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path(), help="the repository's root (default: here)")
    root = parser.parse_args().root
    for path, text in generated(root).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
        print(root / path)


if __name__ == "__main__":
    main()
