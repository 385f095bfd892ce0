"""Fetch the three data sets and bring them into the pipeline's formats, with held-out prompts kept apart.

    python -m cai_jobs.fetch_datasets --red-team '{"huggingFace": {"repo": "Anthropic/hh-rlhf", "dataDirs":
        ["red-team-attempts"]}}' --helpfulness '{"path": "helpful.jsonl"}' --preference '{"pocket": {}}' --held-out 200

Writes red_team_{train,held_out}.jsonl, helpfulness.jsonl, benign_held_out.jsonl and
preference_{train,test}_{prompts,comparisons}_with_chat_prompt.jsonl (docs/contracts.md). A held-out prompt is in no
other file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cai_jobs.contract import artifacts, program, seeds
from cai_jobs.contract.program import InputError, Parser
from cai_jobs.fetching import hh, rows, sources
from cai_jobs.fetching.sources import Source
from cai_jobs.formats.chat import EXTRA_ID
from cai_jobs.formats.comparisons import pairs_of_dialogues, write_split
from cai_jobs.formats.jsonl import write_jsonl
from cai_jobs.formats.red_team import first_question

Row = dict[str, Any]
SPLITS = ("train", "test")


def build_parser() -> Parser:
    parser = Parser("fetch_datasets", "Fetch red-team, helpfulness and preference data.")
    where = "where it comes from, JSON as in the manifest"
    parser.add_argument("--red-team", required=True, help=f"red-team transcripts: {where}")
    parser.add_argument("--helpfulness", help=f"dialogues to imitate: {where}")
    parser.add_argument("--preference", help=f"pairs of dialogues, the better one known: {where}")
    parser.add_argument(
        "--held-out", type=int, default=200, help="red-team and helpfulness prompts kept for evaluation"
    )
    parser.add_argument("--seed", type=int, default=1234, help="draws which prompts are held out")
    parser.add_argument("--output-dir", type=Path, default=Path("datasets"), help="where to, without --artifact-dir")
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    args = build_parser().parse_args(argv)
    if args.held_out < 1:
        raise InputError(f"--held-out {args.held_out}: at least 1 is wanted")
    wanted = {
        flag: sources.parse(flag, text)
        for flag, text in {
            "--red-team": args.red_team,
            "--helpfulness": args.helpfulness,
            "--preference": args.preference,
        }.items()
        if text is not None
    }
    with artifacts.open_artifact(args.artifact_dir, args.artifact_header, args.output_dir) as artifact:
        if artifact is None:
            return artifacts.last_word(artifacts.read(args.artifact_dir) or {})
        held_out: set[str] = set()
        for flag, source in wanted.items():
            print(f"fetching {flag.removeprefix('--')} from {source.kind}", flush=True)
            artifact.metrics |= _fetch(flag, source, artifact.path, args.held_out, args.seed, held_out)
        return artifact.publish()


def fetch_red_team(source: Source, directory: Path, count: int, seed: int, held_out: set[str]) -> dict[str, int]:
    """Write red_team_train.jsonl and red_team_held_out.jsonl.

    Args:
        count: distinct questions held out.
        held_out: the held-out questions are added to it.

    Returns:
        File name -> rows.

    Raises:
        InputError: a row has no usable transcript, or there are too few distinct questions.
    """
    found = [
        (first_question(row.get("transcript"), where), {"transcript": row["transcript"]})
        for where, row in rows.rows_of(source, "--red-team")
    ]
    drawn = _draw("--red-team", [question for question, _ in found], count, seed)
    held_out |= drawn
    first = {question: row for question, row in reversed(found) if question in drawn}
    return {
        "red_team_train.jsonl": write_jsonl(
            directory / "red_team_train.jsonl", (row for question, row in found if question not in drawn)
        ),
        "red_team_held_out.jsonl": write_jsonl(
            directory / "red_team_held_out.jsonl", (first[question] for question in sorted(drawn))
        ),
    }


def fetch_helpfulness(source: Source, directory: Path, count: int, seed: int, held_out: set[str]) -> dict[str, int]:
    """Write helpfulness.jsonl and benign_held_out.jsonl; as `fetch_red_team`. Single questions only are held out."""
    found = [rows.sft_row(row, where) for where, row in rows.rows_of(source, "--helpfulness")]
    usable = [row for row in found if row is not None]
    singles = {_question(row): row for row in reversed(usable) if len(row["conversations"]) == 2}
    drawn = _draw("--helpfulness", list(singles), count, seed)
    held_out |= drawn
    benign = (
        {"prompt": question, "reference": singles[question]["conversations"][1]["value"]} for question in sorted(drawn)
    )
    return {
        "helpfulness.jsonl": write_jsonl(
            directory / "helpfulness.jsonl", (row for row in usable if _question(row) not in held_out)
        ),
        "benign_held_out.jsonl": write_jsonl(directory / "benign_held_out.jsonl", benign),
        "helpfulnessLeftOut": len(found) - len(usable),
    }


def fetch_preference(source: Source, directory: Path, held_out: set[str]) -> dict[str, int]:
    """Write the prompts and comparisons files of train and test; pairs about a held-out question are left out."""
    figures: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folders: Sequence[str] = source.data_dirs
        roots = source.paths
        if source.kind == "huggingFace":
            roots = (hh.download(source, Path(scratch)),)
        for split in SPLITS:
            found = (row for root in roots for row in hh.rows(root, folders, split))
            pairs, left_out = pairs_of_dialogues(found, EXTRA_ID)
            starts = tuple(EXTRA_ID.prompt(question) for question in held_out)
            kept = [pair for pair in pairs if not pair.prompt.startswith(starts)]
            if not kept:
                raise InputError(f"--preference: no usable pair among {len(pairs) + left_out} rows of {split}")
            write_split(kept, directory, "preference", split)
            figures[f"preference_{split}"] = len(kept)
            figures[f"preference_{split}_left_out"] = left_out + len(pairs) - len(kept)
    return figures


def _fetch(flag: str, source: Source, directory: Path, count: int, seed: int, held_out: set[str]) -> dict[str, int]:
    if source.kind == "pocket":
        from cai_jobs.pocket.datasets import Kind, write_pocket_datasets

        kinds: dict[str, Kind] = {
            "--red-team": "redTeam",
            "--helpfulness": "helpfulness",
            "--preference": "preference",
        }
        return write_pocket_datasets(kinds[flag], directory, count, seed)
    if flag == "--preference":
        return fetch_preference(source, directory, held_out)
    fetch: Callable[[Source, Path, int, int, set[str]], dict[str, int]]
    fetch = fetch_red_team if flag == "--red-team" else fetch_helpfulness
    return fetch(source, directory, count, seed, held_out)


def _draw(flag: str, questions: Sequence[str], count: int, seed: int) -> set[str]:
    distinct = list(dict.fromkeys(questions))
    if len(distinct) <= count:
        raise InputError(f"{flag}: {len(distinct)} distinct questions; --held-out {count} would leave none to train on")
    return set(seeds.shuffled(distinct, seed, "held out", flag)[:count])


def _question(row: Row) -> str:
    return str(row["conversations"][0]["value"]).strip()


if __name__ == "__main__":
    program.run(main)
