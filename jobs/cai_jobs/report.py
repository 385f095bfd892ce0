"""Write the report of a pipeline: one self-contained HTML page from the artifacts of whichever stages ran."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cai_jobs.contract import artifacts, program
from cai_jobs.contract.program import InputError, Parser
from cai_jobs.formats import constitution
from cai_jobs.reporting.artifacts import read_metrics, read_stages

PAGE = "report.html"


def build_parser() -> Parser:
    """The flags."""
    parser = Parser("report", "Write one self-contained HTML page about a pipeline's run.")
    parser.add_argument("--pipeline", required=True, help="the pipeline's name, as the page is to show it")
    parser.add_argument(
        "--artifacts", type=Path, default=Path(), help="directory the paths in --inputs are relative to"
    )
    parser.add_argument("--inputs", required=True, help="JSON object: node -> artifact directory, of stages that ran")
    parser.add_argument("--constitution", type=Path, default=constitution.INSTRUCTIONS, help="the principles used")
    parser.add_argument("--judge-prompt", type=Path, default=constitution.JUDGE_PROMPT, help="the judge's prompt used")
    parser.add_argument(
        "--comparison-principles",
        type=Path,
        help="the principles the judge compared by, where it went by one at a time; shown in place of its prompt",
    )
    parser.add_argument("--judge", help="what chose the preferences, in words; default: rlData's judge parameter")
    parser.add_argument("--output-dir", type=Path, default=Path(), help="used without --artifact-dir")
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Run the program; its last word names the models the page compares."""
    from cai_jobs.reporting import page

    args = build_parser().parse_args(argv)
    inputs = _inputs(args.inputs)
    with artifacts.open_artifact(args.artifact_dir, args.artifact_header, args.output_dir) as artifact:
        if artifact is None:
            manifest = artifacts.read(args.artifact_dir)
            return artifacts.last_word(manifest) if manifest else None
        stages = read_stages(args.artifacts, inputs)
        html = page.render(
            args.pipeline,
            stages,
            args.constitution,
            args.judge_prompt,
            args.comparison_principles,
            args.judge,
            datetime.now(UTC),
        )
        artifacts.write_synced(artifact.path / PAGE, html)
        artifact.metrics.update({"page": PAGE, "stages": list(stages), "models": list(read_metrics(stages))})
        return artifact.publish()


def _inputs(text: str) -> Mapping[str, Any]:
    try:
        inputs = json.loads(text)
    except ValueError as problem:
        raise InputError(f"--inputs is not JSON: {problem}") from problem
    if not isinstance(inputs, dict) or not all(isinstance(path, str) for path in inputs.values()):
        raise InputError("--inputs: a JSON object of node -> artifact directory is wanted")
    return inputs


if __name__ == "__main__":
    program.run(main)
