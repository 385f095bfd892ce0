"""Turn Anthropic's HH dialogues into prompts and comparisons in the chat format.

    python -m cai_jobs.process_anthropic_hh_using_chat_prompt --output-dir out \\
        --dataset-dir-name helpful-base helpful-online --output-file-name-prefix anthropic_helpful_only

The data set is `<dir>/{train,test}.jsonl.gz` with rows {"chosen": dialogue, "rejected": dialogue}, from the hub or a
local copy. Flags and outputs are those of the program of the same name in NeMo-Aligner's examples.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cai_jobs.contract import artifacts, program
from cai_jobs.contract.program import InputError, Parser
from cai_jobs.fetching import hh
from cai_jobs.fetching.sources import Source
from cai_jobs.formats.chat import EXTRA_ID, Template
from cai_jobs.formats.comparisons import pairs_of_dialogues, write_split
from cai_jobs.generation import options

REPOSITORY = "Anthropic/hh-rlhf"
SPLITS = ("train", "test")


def build_parser() -> Parser:
    parser = Parser("process_anthropic_hh_using_chat_prompt", "HH dialogues to prompts and comparisons in chat format.")
    add = options.add
    add(parser, "--output-dir", type=Path, required=True, help="where the outputs go")
    add(parser, "--dataset-dir-name", nargs="*", default=[], help="folders of the data set; none takes all it has")
    add(
        parser,
        "--output-file-name-prefix",
        help="what the outputs' names begin with; anthropic_hh if no folder is named",
    )
    add(parser, "--dataset-path", type=Path, help="a local copy of the data set, instead of the hub's")
    add(parser, "--dataset-revision", help="the hub repository's revision")
    options.add_template(parser, EXTRA_ID)
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    args = build_parser().parse_args(argv)
    folders = list(args.dataset_dir_name)
    if len(set(folders)) != len(folders):
        raise InputError(f"--dataset-dir-name {' '.join(folders)}: a folder is named twice")
    prefix = args.output_file_name_prefix or (None if folders else "anthropic_hh")
    template = Template.from_config(options.template_config(args))
    with artifacts.open_artifact(args.artifact_dir, args.artifact_header, Path()) as artifact:
        if artifact is None:
            return artifacts.last_word(artifacts.read(args.artifact_dir) or {})
        with tempfile.TemporaryDirectory() as scratch:
            root = args.dataset_path
            if root is None:
                source = Source("huggingFace", REPOSITORY, args.dataset_revision, tuple(folders))
                root = hh.download(source, Path(scratch))
            for split in SPLITS:
                rows = hh.rows(root, folders, split)
                artifact.metrics[split] = process(rows, template, artifact.path / args.output_dir, prefix, split)
        return artifact.publish()


def process(
    rows: Iterator[tuple[str, dict[str, Any]]], template: Template, directory: Path, prefix: str | None, split: str
) -> dict[str, int]:
    """Write one split's prompts and comparisons files; how many pairs, and how many rows were left out.

    Raises:
        InputError: a row is none of the data set's, or no row gives a pair.
    """
    pairs, left_out = pairs_of_dialogues(rows, template)
    if not pairs:
        raise InputError(f"{split}: none of {left_out} rows is a pair of dialogues that share their prompt")
    write_split(pairs, directory, prefix, split)
    return {"pairs": len(pairs), "leftOut": left_out}


if __name__ == "__main__":
    program.run(main)
