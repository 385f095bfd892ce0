"""Run the pocket pipeline with several seeds and print each model's rates: mean, lowest and highest.

    python -m benchmarks.five_seeds [--seeds 1 2 3 4 5] [--workdir runs/seeds] [--side-by-side 1]

Every seed draws its own data sets, held-out prompts, samples and shuffles; the base model and the judge are the shipped
ones. A seed that has run already is found done and only read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

MODELS = {"base": "base", "slCai": "SL-CAI", "rlCai": "RL-CAI"}
RATES = ("harmfulRate", "refusalRate", "offTopicRate", "overRefusalRate", "helpfulRate")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the seeds and print a Markdown table; 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, default=Path("examples/pocket.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--workdir", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--side-by-side", type=int, default=1, help="runs at a time")
    args = parser.parse_args(argv)
    with ThreadPoolExecutor(args.side_by_side) as pool:
        statuses = list(pool.map(lambda seed: run(args.manifest, seed, args.workdir / str(seed)), args.seeds))
    print_table(args.seeds, statuses)
    return 0 if all(status["phase"] == "Succeeded" for status in statuses) else 1


def run(manifest: Path, seed: int, workdir: Path) -> dict[str, Any]:
    """Run the manifest with another seed; the status it ends with."""
    document = yaml.safe_load(manifest.read_text())
    document["spec"]["seed"] = seed
    workdir.mkdir(parents=True, exist_ok=True)
    own = workdir / "pipeline.yaml"
    own.write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "cai_operator.cli", "run", str(own), "--workdir", str(workdir)]
    with (workdir / "run.log").open("a") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    status: dict[str, Any] = json.loads((workdir / "status.json").read_text())
    return status


def print_table(seeds: Sequence[int], statuses: Sequence[dict[str, Any]]) -> None:
    """Print each rate of each model as mean (lowest to highest), in percent, then every seed's harmful rates."""
    metrics = [
        next(stage for stage in status["stages"] if stage["name"] == "evaluate")["metrics"] for status in statuses
    ]
    print(f"| model | {' | '.join(rate.removesuffix('Rate') for rate in RATES)} |")
    print("|---" * (len(RATES) + 1) + "|")
    for name, title in MODELS.items():
        cells = []
        for rate in RATES:
            values = [100 * found[name][rate] for found in metrics if name in found]
            cells.append(f"{mean(values):.1f} ({min(values):.1f} to {max(values):.1f})" if values else "-")
        print(f"| {title} | {' | '.join(cells)} |")
    for seed, found in zip(seeds, metrics, strict=True):
        shown = {
            title: {rate.removesuffix("Rate"): round(100 * found[name][rate], 1) for rate in RATES}
            for name, title in MODELS.items()
            if name in found
        }
        print(f"seed {seed}: {shown}")


if __name__ == "__main__":
    sys.exit(main())
