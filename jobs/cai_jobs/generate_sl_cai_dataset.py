"""Generate the supervised stage's data: red-team prompts answered, criticised, revised and blended with helpful rows.

    python -m cai_jobs.generate_sl_cai_dataset --red-teaming-prompts-dataset-path red_team.jsonl \\
        --helpfulness-dataset-path helpfulness.jsonl --output-filepath sl_cai_train.jsonl --port 5999 ...

Flags and outputs are those of the program of the same name in NeMo-Aligner's examples, with these differences: the
last partial batch is kept; the length filter's result is what the output file holds; blending and both constitution
files are optional; rows may be kept apart for validation; a killed run goes on where it was; rows that cannot be done
are listed in rejected.jsonl; a dataset card stands beside the output.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cai_jobs.clients.inference import InferenceServer, check_batch_size, check_options, connect
from cai_jobs.contract import artifacts, program
from cai_jobs.contract.loop import run_async
from cai_jobs.contract.program import InputError, Parser
from cai_jobs.formats import constitution
from cai_jobs.formats.chat import Template
from cai_jobs.formats.constitution import Principle
from cai_jobs.formats.jsonl import write_jsonl
from cai_jobs.generation import blend, card, duplicates, options, principles, sl, sl_outputs
from cai_jobs.generation.blend import blend_cai_sft_dataset
from cai_jobs.generation.card import Card, Source
from cai_jobs.generation.journal import Journal
from cai_jobs.generation.lengths import token_counter
from cai_jobs.generation.rejected import RejectedRows
from cai_jobs.generation.sl_inputs import Helpful, Inputs
from cai_jobs.generation.sl_outputs import Blending

__all__ = ["blend_cai_sft_dataset", "generate_cai_batch_sample", "generate_cai_dataset", "main"]

DEFAULT_SEED = 1234
TITLE = "Critiques and revisions for supervised fine-tuning"
SUMMARY = (
    "A model answered red-team prompts and, by the principles of a constitution, {how} its answers (Constitutional AI, "
    "Bai et al. 2022, section 3.1). Each row has a prompt and the last revision, in the form NeMo's chat fine-tuning "
    "takes; helpfulness rows, where there are any, are mixed in as they were."
)


def generate_cai_dataset(
    red_teaming_dataset_path: str,
    few_shot_samples_filepath: str,
    critique_revision_instructions_filepath: str,
    num_examples: int,
    batch_size: int,
    save_to_file_interval: int,
    save_file_path: str,
    inference_config: dict[str, Any],
    prompt_template_config: dict[str, Any],
    apply_chat_template: bool,
    *,
    seed: int = DEFAULT_SEED,
) -> list[dict[str, Any]]:
    """Generate critique and revision samples and write them as SFT rows, the raw ones below `cai_output/` beside them.

    Args:
        red_teaming_dataset_path: transcripts, JSONL or a JSON array.
        few_shot_samples_filepath: few-shot dialogues put before every prompt.
        critique_revision_instructions_filepath: the principles.
        num_examples: how many prompts from the file's beginning; -1 for all.
        batch_size: prompts a request, at most 128.
        save_to_file_interval: taken for the reference's sake; every answer is kept at once.
        save_file_path: where to, JSONL; must not exist. Its journal stands beside it while the work lasts.
        inference_config: the inference flags by name, with `host` and `port`.
        prompt_template_config: the template flags by name.
        apply_chat_template: whether the template lays dialogues out; else the server's tokenizer does.

    Returns:
        The SFT rows written.

    Raises:
        InputError: an input or setting is wrong, or the server refuses every row.
        RetryableError: the server cannot be reached; the same call goes on from here.
    """
    check_batch_size("batch_size", batch_size)
    if save_to_file_interval < 1:
        raise InputError(f"save_to_file_interval {save_to_file_interval}: at least 1 is wanted")
    output = Path(save_file_path)
    journal = journal_path(output)
    options.refuse_existing(journal, output)
    inputs = Inputs.read(
        Path(red_teaming_dataset_path),
        Path(few_shot_samples_filepath),
        Path(critique_revision_instructions_filepath),
        num_examples=num_examples,
    )
    rejected = RejectedRows(len(inputs.chosen), 1.0)
    server = connect(
        inference_config,
        Template.from_config(prompt_template_config),
        formatted=apply_chat_template,
        seed=seed,
        batch_size=batch_size,
    )
    with ExitStack() as stack:
        stack.callback(lambda: rejected.write(output.with_name(sl_outputs.REJECTED)))
        rows, _ = run_async(_generate(inputs, server, stack, journal, seed, rejected))
        found, _ = sl_outputs.write_samples(rows, inputs.chosen, rejected, output.parent / sl_outputs.RAW_DIR)
    write_jsonl(output, found)
    journal.unlink()
    return list(found)


def generate_cai_batch_sample(
    prompt_list: list[str],
    few_shot_dataset_path: str,
    critique_list: str | list[str],
    revision_list: str | list[str],
    inference_config: dict[str, Any],
    prompt_template_config: dict[str, Any],
    apply_chat_template: bool,
    *,
    seed: int = DEFAULT_SEED,
) -> list[dict[str, Any]]:
    """Answer, criticise and revise one batch of at most 128 prompts.

    Args:
        critique_list, revision_list: a request a prompt, or one for all.

    Returns:
        {"initial_prompt", "initial_response", "critique_prompt", "critique_response", "revision_prompt",
        "revision_response"} a prompt, in order.

    Raises:
        InputError: an input is wrong, or the server refuses a prompt.
        RetryableError: the server cannot be reached.
    """
    check_batch_size("prompt_list", len(prompt_list))
    critiques, revisions = (
        [given] * len(prompt_list) if isinstance(given, str) else given for given in (critique_list, revision_list)
    )
    if not len(critiques) == len(revisions) == len(prompt_list):
        raise InputError(
            f"{len(prompt_list)} prompts, {len(critiques)} critique and {len(revisions)} revision requests"
        )
    few_shots = constitution.read_few_shots(Path(few_shot_dataset_path))

    async def generate() -> list[dict[str, Any]]:
        server = await connect(
            inference_config,
            Template.from_config(prompt_template_config),
            formatted=apply_chat_template,
            seed=seed,
            batch_size=len(prompt_list),
        )
        async with server:
            with Journal(None, {}) as journal:
                rows = sl.Rows(
                    prompt_list,
                    few_shots,
                    lambda row: [Principle("", critiques[row], revisions[row])],
                    1,
                    True,
                    journal,
                )
                await sl.generate(rows, range(len(prompt_list)), server)
                return [rows.sample(row) for row in range(len(prompt_list))]

    return run_async(generate())


def build_parser() -> Parser:
    parser = Parser("generate_sl_cai_dataset", "Generate critique and revision data for supervised fine-tuning.")
    add = options.add
    add(parser, "--red-teaming-prompts-dataset-path", type=Path, required=True, help="transcripts, JSONL or JSON array")
    add(parser, "--few-shot-prompts-dataset-path", type=Path, default=constitution.FEW_SHOTS, help="few-shot dialogues")
    add(
        parser,
        "--critique-revision-instructions-path",
        type=Path,
        default=constitution.INSTRUCTIONS,
        help="the principles' critique and revision requests",
    )
    add(parser, "--helpfulness-dataset-path", type=Path, help="SFT rows to blend with; without it nothing is blended")
    add(parser, "--batch_size", type=int, default=32, help="prompts a request, at most 128")
    add(parser, "--num-examples", type=int, default=-1, help="prompts used, from the file's beginning; -1 for all")
    add(
        parser,
        "--output-filepath",
        type=Path,
        default=Path("cai_revisions_aligner_chat_template.jsonl"),
        help="SFT rows",
    )
    add(parser, "--seed", type=int, default=DEFAULT_SEED, help="fixes principles, sampling and order, row by row")
    add(
        parser,
        "--save-to-file-interval",
        type=int,
        default=1,
        help="taken for the reference's sake; every answer is kept at once",
    )
    add(parser, "--max-seq-length", type=int, help="leave out rows of more tokens than this")
    add(parser, "--tokenizer-model", help="by which tokens are counted: a .model file, or a model's directory")
    add(parser, "--tokenizer-library", help="sentencepiece or huggingface; default: by the model's name")
    add(parser, "--revisions", type=int, default=1, help="rounds of critique and revision, each by another principle")
    add(
        parser,
        "--critique",
        type=options.truth,
        default=True,
        help="criticise an answer before it is revised; False: ask for the revision at once",
    )
    add(
        parser,
        principles.FLAG,
        help='how often principles are drawn: a JSON file or text {"name": weight, ...}; not named: 1, never: 0',
    )
    add(
        parser,
        "--remove-duplicates",
        choices=duplicates.WAYS,
        default="none",
        help="prompts and helpfulness rows left out: exact: the same text but for white space; near: nearly its words",
    )
    add(parser, "--blend-ratio", type=float, help="helpfulness rows a row of ours, drawn by the seed; default: all")
    add(parser, "--validation-split", type=float, default=0.0, help="share of the prompts kept apart for validation")
    add(parser, "--validation-output-filepath", type=Path, help="where the validation rows go")
    add(
        parser,
        "--license",
        action="append",
        default=[],
        metavar="NAME=TEXT",
        help="licence of a source, redTeam or helpfulness, for the dataset card; default: as its own card has it",
    )
    options.add_inference(
        parser, options.inference_defaults(top_k=1, top_p=0.9, repetition_penalty=1.2, greedy=True, end_strings=None)
    )
    options.add_template(parser, Template(response_extract_pattern="[/INST]"))
    add(
        parser,
        "--apply_chat_template",
        type=options.truth,
        default=False,
        help="lay dialogues out with the template here; else the server's tokenizer does",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    args = build_parser().parse_args(argv)
    _check(args)
    scratch = [str(journal_path(args.output_filepath))]
    with artifacts.open_artifact(args.artifact_dir, args.artifact_header, Path(), scratch=scratch) as artifact:
        if artifact is None:
            return artifacts.last_word(artifacts.read(args.artifact_dir) or {})
        artifact.metrics.update(_run(args, artifact.path))
        return artifact.publish()


def journal_path(output: Path) -> Path:
    """Where the journal of an output stands."""
    return output.with_name(output.name + ".journal.jsonl")


def _check(args: argparse.Namespace) -> None:
    """What can be told before any work is done."""
    check_batch_size("--batch_size", args.batch_size)
    check_options(
        {name: value for name, value in options.inference_config(args).items() if name not in ("host", "port")}
    )
    if args.num_examples == 0 or args.num_examples < -1:
        raise InputError(f"--num-examples {args.num_examples}: -1 (all) or at least 1 is wanted")
    for name in ("revisions", "save_to_file_interval", "requests_in_flight", "max_seq_length"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: at least 1 is wanted")
    if not 0 <= args.validation_split < 1:
        raise InputError(f"--validation-split {args.validation_split}: a share from 0 to below 1 is wanted")
    if not 0 <= args.max_rejected <= 1:
        raise InputError(f"--max-rejected {args.max_rejected}: a share from 0 to 1 is wanted")
    if (args.validation_split > 0) != (args.validation_output_filepath is not None):
        raise InputError("--validation-split and --validation-output-filepath belong together: give both or neither")


def _run(args: argparse.Namespace, root: Path) -> dict[str, Any]:
    output = root / args.output_filepath
    journal = journal_path(output)
    validation = None if args.validation_output_filepath is None else root / args.validation_output_filepath
    if args.artifact_dir is None:
        options.refuse_existing(journal, *(path for path in (output, validation) if path is not None))
    given = {"redTeam": args.red_teaming_prompts_dataset_path, "helpfulness": args.helpfulness_dataset_path}
    paths = {name: path for name, path in given.items() if path is not None}
    licences = card.licences(args.license, paths)
    inputs = Inputs.read(
        args.red_teaming_prompts_dataset_path,
        args.few_shot_prompts_dataset_path,
        args.critique_revision_instructions_path,
        num_examples=args.num_examples,
        remove_duplicates=args.remove_duplicates,
        revisions=args.revisions,
        critique=args.critique,
        weights=args.principle_weights,
    )
    limit = args.max_seq_length
    count = len if limit is None else token_counter(args.tokenizer_model, args.tokenizer_library)
    helpful = Helpful.read(args.helpfulness_dataset_path, args.remove_duplicates, limit, count)
    helpful.check_ratio(args.blend_ratio, len(inputs.chosen))
    rejected = RejectedRows(len(inputs.chosen), args.max_rejected)
    server = connect(
        options.inference_config(args),
        Template.from_config(options.template_config(args)),
        formatted=args.apply_chat_template,
        seed=args.seed,
        batch_size=args.batch_size,
        api=args.server_api,
        per_row_seeds=options.per_row_seeds(args),
        requests_in_flight=args.requests_in_flight,
        request_timeout_s=args.request_timeout,
        retry_budget_s=args.retry_budget,
    )
    with ExitStack() as stack:
        stack.callback(lambda: rejected.write(output.with_name(sl_outputs.REJECTED)))
        rows, work = run_async(_generate(inputs, server, stack, journal, args.seed, rejected, args.progress))
        cai_rows, figures = sl_outputs.write_samples(rows, inputs.chosen, rejected, output.parent / sl_outputs.RAW_DIR)
    how = Blending(
        helpful.rows, args.blend_ratio, limit, count, args.validation_split, args.remove_duplicates, args.seed
    )
    figures |= sl_outputs.write_sets(cai_rows, how, output, validation)
    figures["removedLong"] += helpful.long
    figures["removedDuplicates"] = inputs.asked - len(inputs.chosen) + helpful.duplicates
    summary = {**figures, "seed": args.seed}
    blend.write_summary(blend.summary_path(output), list(paths.values()), args.output_filepath, summary)
    lengths = {"redTeam": len(inputs.prompts), "helpfulness": helpful.found}
    sources = [Source(name, path, lengths[name], licences[name]) for name, path in paths.items()]
    own_directory = args.artifact_dir is not None
    card.write(card.card_path(output, own_directory), _card(args, inputs, sources, figures))
    if not own_directory:
        journal.unlink()
    return figures | work


async def _generate(
    inputs: Inputs,
    server: Awaitable[InferenceServer],
    stack: ExitStack,
    path: Path,
    seed: int,
    rejected: RejectedRows,
    progress: str = "none",
) -> tuple[sl.Rows, dict[str, float]]:
    """Have all rows finished in a journal the stack holds open; the rows and what the server did for them."""
    async with await server as connected:
        parameters = inputs.parameters(connected.group) | connected.parameters()
        rows = inputs.rows(seed, stack.enter_context(Journal(path, parameters, progress=progress)))
        await sl.generate(rows, inputs.chosen, connected, rejected=rejected, progress=progress)
        done = connected.statistics()
        return rows, {name: done[name] for name in ("requests", "retries")}


def _card(args: argparse.Namespace, inputs: Inputs, sources: Sequence[Source], figures: dict[str, Any]) -> Card:
    files = {"train": args.output_filepath, "validation": args.validation_output_filepath}
    own = ("seed", "revisions", "critique", "remove_duplicates", "blend_ratio", "max_seq_length")
    sampling = {name: value for name, value in options.inference_config(args).items() if name not in ("host", "port")}
    weights = zip(inputs.principles, inputs.weights, strict=True)
    settings = {
        **{name: getattr(args, name) for name in own},
        "principle_weights": {principle.name: weight for principle, weight in weights if weight != 1} or None,
        **sampling,
    }
    return Card(
        TITLE,
        SUMMARY.format(how="criticised and revised" if args.critique else "revised"),
        {"default": {split: path.name for split, path in files.items() if path is not None}},
        sources,
        sl_outputs.card_counts(figures),
        {
            "critique and revision requests": args.critique_revision_instructions_path,
            "few-shot dialogues": args.few_shot_prompts_dataset_path,
        },
        {name: value for name, value in settings.items() if value is not None},
    )


if __name__ == "__main__":
    program.run(main)
