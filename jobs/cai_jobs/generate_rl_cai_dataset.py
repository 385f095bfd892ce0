"""Generate the reinforcement stage's data: candidates at several temperatures, judged, split and blended.

    NGC_API_KEY=... python -m cai_jobs.generate_rl_cai_dataset --red-teaming-file-path red_team.jsonl \\
        --batch-size 128 --output-dir rl --output-filename-prefix cai_rlaif --port 5999 ...

Flags and outputs are those of the program of the same name in NeMo-Aligner's examples, with these differences: the
last partial batch is kept; the judge's key comes from the environment variable NGC_API_KEY; the judge's prompt file and
blending are optional; a row without a verdict is counted, listed in judge.jsonl and left out, never decided by chance;
a row that cannot be done is listed in rejected.jsonl; rows with the same prompt stay in one split; a killed run goes on
where it was. Several judges may vote, and a judge may go by one principle at a time, as in the paper, which gives soft
labels beside the pairs. `--temperature` is accepted but, as there, `--temperatures` has the say.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from cai_jobs.clients.inference import InferenceServer, check_batch_size, check_options, check_temperature, connect
from cai_jobs.contract import artifacts, program, seeds
from cai_jobs.contract.loop import run_async
from cai_jobs.contract.program import InputError, Parser
from cai_jobs.formats.chat import EXTRA_ID, Template
from cai_jobs.formats.red_team import read_prompts
from cai_jobs.formats.spool import Spool
from cai_jobs.generation import card, options, rl, rl_card, rl_options, rl_outputs
from cai_jobs.generation.journal import Journal
from cai_jobs.generation.judging.judge import EndpointSettings, Judge, JudgeSettings, make_judge
from cai_jobs.generation.lengths import token_counter
from cai_jobs.generation.rejected import RejectedRows
from cai_jobs.generation.rl_outputs import Plan

__all__ = ["generate_ai_preference", "generate_cai_rlaif_candidate_dataset", "main"]

DEFAULT_SEED = 1234
DEFAULT_TEMPERATURES = (0.01, 0.51, 1.01, 1.51)
JOURNAL, REJECTED = "journal.jsonl", "rejected.jsonl"


def generate_cai_rlaif_candidate_dataset(
    batch_size: int,
    temperatures: list[float] | float,
    red_teaming_dataset_path: str,
    inference_config: dict[str, Any],
    prompt_template_config: dict[str, Any],
    *,
    seed: int = DEFAULT_SEED,
    num_examples: int = -1,
) -> list[dict[str, str]]:
    """Candidate answers to every red-team prompt of a file, one a temperature.

    Args:
        batch_size: prompts a request, at most 128.
        temperatures: one or several, each above 0 and at most 100.
        inference_config: the inference flags by name, with `host` and `port`; its temperature is not used.
        prompt_template_config: the template flags by name.

    Returns:
        {"prompt", "response_t=<temperature>": answer, ...} a prompt, in the file's order; an answer the server refused
        is not there.

    Raises:
        InputError: an input or setting is wrong, or the server refuses every prompt of a batch.
        RetryableError: the server cannot be reached.
    """
    wanted = list(temperatures) if isinstance(temperatures, list | tuple) else [temperatures]
    check_batch_size("batch_size", batch_size)
    _check_temperatures(wanted)
    prompts = _first(read_prompts(Path(red_teaming_dataset_path)), num_examples)

    async def generate() -> list[dict[str, str]]:
        template = Template.from_config(prompt_template_config)
        server = await connect(inference_config, template, formatted=True, seed=seed, batch_size=batch_size)
        async with server:
            with Journal(None, {}) as journal:
                rows = rl.Rows(prompts, wanted, journal)
                await rl.generate(rows, server, None, window=server.capacity)
                return [rows.sample(row) for row in range(len(rows))]

    return run_async(generate())


def generate_ai_preference(
    sample: dict[str, Any],
    ngc_api_key: str,
    system_prompt: str,
    seed: int,
    ngc_url: str,
    ngc_model: str,
    *,
    row: int = 0,
) -> dict[str, Any] | None:
    """Have a judge choose between the candidates of one prompt.

    Args:
        sample: {"prompt", "response...": answer, ...}.
        system_prompt: the judge's instructions with the whole constitution.
        row: with the seed fixes the order in which the candidates are shown.

    Returns:
        {"prompt", "chosen", "rejected", "raw": {"chosen_response_key", "rejected_response_key", "explanation",
        "all_responses"}}; None where there is no prompt, there are fewer than two different candidates, the judge named
        the same one twice, or it gave no usable verdict when asked twice.

    Raises:
        InputError: the judge refuses key, model or address.
        RetryableError: the judge cannot be reached.
    """
    if not sample.get("prompt"):
        return None
    endpoint = EndpointSettings(ngc_url, ngc_model, key=ngc_api_key)
    settings = JudgeSettings(seed=seed, endpoints=(endpoint,), system_prompt=system_prompt)
    candidates = {key: text for key, text in sample.items() if key.startswith("response")}

    async def decide() -> dict[str, Any] | None:
        async with await make_judge(settings) as judge:
            (decision,) = await judge.decide(row, sample["prompt"], candidates)
            return rl.preference(sample, decision)

    return run_async(decide())


def build_parser() -> Parser:
    parser = Parser("generate_rl_cai_dataset", "Generate AI preference data for the reward model and PPO.")
    add = options.add
    add(parser, "--batch-size", type=int, default=128, help="prompts a request, at most 128")
    add(parser, "--seed", type=int, default=DEFAULT_SEED, help="fixes sampling, candidate order and splits, row by row")
    add(parser, "--output-dir", type=Path, default=Path(), help="where the outputs go")
    add(
        parser, "--output-filename-prefix", default="cai_rlaif", help="what names of prompts and comparisons begin with"
    )
    add(parser, "--splits", default="{'train': 0.8, 'test': 0.2}", help="names and shares, summing to 1")
    add(parser, "--shuffle", type=options.truth, default=True, help="draw which prompts go to which split")
    add(parser, "--red-teaming-file-path", type=Path, required=True, help="transcripts, JSONL or JSON array")
    add(
        parser,
        "--blend-with",
        help="{'name': NAME, SPLIT: {'prompts': [FILE, ...], 'comparisons': [FILE, ...]}, ...} with every split",
    )
    add(parser, "--num-examples", type=int, default=-1, help="prompts used, from the file's beginning; -1 for all")
    add(parser, "--temperatures", type=float, nargs="+", default=list(DEFAULT_TEMPERATURES), help="a candidate each")
    add(parser, "--max-seq-length", type=int, help="leave out comparisons of more tokens, prompts of more than half")
    add(parser, "--tokenizer-model", help="by which tokens are counted: a .model file, or a model's directory")
    add(parser, "--tokenizer-library", help="sentencepiece or huggingface; default: by the model's name")
    add(
        parser,
        "--license",
        action="append",
        default=[],
        metavar="NAME=TEXT",
        help="licence of a source, redTeam or the blend's name, for the dataset card; default: as its own card has it",
    )
    rl_options.add_judge(parser)
    options.add_inference(
        parser,
        options.inference_defaults(
            top_k=50, top_p=0.95, repetition_penalty=1.0, greedy=False, end_strings=[EXTRA_ID.eos_token]
        ),
    )
    options.add_template(parser, EXTRA_ID)
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    args = build_parser().parse_args(argv)
    _check(args)
    scratch = [str(args.output_dir / JOURNAL)]
    with artifacts.open_artifact(args.artifact_dir, args.artifact_header, Path(), scratch) as artifact:
        if artifact is None:
            return artifacts.last_word(artifacts.read(args.artifact_dir) or {})
        artifact.metrics.update(_run(args, artifact.path / args.output_dir))
        return artifact.publish()


def _check(args: argparse.Namespace) -> None:
    """What can be told before any work is done."""
    check_batch_size("--batch-size", args.batch_size)
    check_options(
        {name: value for name, value in options.inference_config(args).items() if name not in ("host", "port")}
    )
    _check_temperatures(args.temperatures)
    if args.num_examples == 0 or args.num_examples < -1:
        raise InputError(f"--num-examples {args.num_examples}: -1 (all) or at least 1 is wanted")
    if not 0 <= args.max_rejected <= 1:
        raise InputError(f"--max-rejected {args.max_rejected}: a share from 0 to 1 is wanted")
    for name in ("requests_in_flight", "max_seq_length"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: at least 1 is wanted")


def _check_temperatures(temperatures: Sequence[float]) -> None:
    for temperature in temperatures:
        check_temperature("--temperatures", temperature)
    if len(set(temperatures)) != len(temperatures) or not temperatures:
        raise InputError(f"--temperatures {temperatures}: they must differ")


def _run(args: argparse.Namespace, directory: Path) -> dict[str, Any]:
    shares = options.splits("--splits", args.splits)
    template = Template.from_config(options.template_config(args))
    plan = Plan(
        directory=directory,
        prefix=args.output_filename_prefix,
        template=template,
        shares=shares,
        shuffle=args.shuffle,
        seed=args.seed,
        blend=None if args.blend_with is None else options.blend_files("--blend-with", args.blend_with, shares),
        count=token_counter(args.tokenizer_model, args.tokenizer_library) if args.max_seq_length else None,
        limit=args.max_seq_length or 0,
    )
    journal = directory / JOURNAL
    if args.artifact_dir is None:
        options.refuse_existing(journal, directory / rl_outputs.CANDIDATES, directory / rl_outputs.PREFERENCES)
    prompts = read_prompts(args.red_teaming_file_path)
    sources = rl_card.sources(args.red_teaming_file_path, len(prompts), plan.blend, args.license)
    judging = rl_options.judge_settings(args)
    figures, work = run_async(_generate(args, prompts, plan, judging, journal))
    own_directory = args.artifact_dir is not None
    path = card.card_path(directory / (plan.prefix or "preferences"), own_directory)
    told = rl_options.constitution_path(args)
    rl_card.write(path, plan, figures, sources, told, _settings(args, judging), judging)
    if not own_directory:
        journal.unlink()
    return figures | work


async def _generate(
    args: argparse.Namespace, all_prompts: Sequence[str], plan: Plan, judging: JudgeSettings, path: Path
) -> tuple[dict[str, Any], dict[str, float]]:
    """Fill the journal and write the outputs from it; the data's figures, and what the servers did for them."""
    prompts = _first(all_prompts, args.num_examples)
    rejected = RejectedRows(len(prompts), args.max_rejected)
    server = await connect(
        options.inference_config(args),
        plan.template,
        formatted=True,
        seed=args.seed,
        batch_size=args.batch_size,
        api=args.server_api,
        per_row_seeds=options.per_row_seeds(args),
        requests_in_flight=args.requests_in_flight,
        request_timeout_s=args.request_timeout,
        retry_budget_s=args.retry_budget,
    )
    async with server, await make_judge(judging, server.replicas) as judge:
        parameters = _parameters(args, seeds.digest_all(all_prompts), server, judge)
        with Journal(path, parameters, progress=args.progress) as journal:
            rows = rl.Rows(prompts, args.temperatures, journal)
            # as many rows as fill the server, and those that wait for the judge meanwhile
            window = server.capacity + 2 * judging.concurrency
            try:
                await rl.generate(rows, server, judge, window=window, rejected=rejected, progress=args.progress)
            finally:
                rejected.write(plan.directory / REJECTED)
            of_server, of_judge = server.statistics(), judge.statistics()
            figures = {"prompts": len(rows), "rejected": len(rejected), **rl_outputs.write_outputs(rows, plan)}
    work = {"requests": of_server["requests"], "judgeCalls": of_judge["calls"]}
    return figures, work | {"retries": of_server["retries"] + of_judge["retries"]}


def _parameters(args: argparse.Namespace, prompts: str, server: InferenceServer, judge: Judge) -> dict[str, Any]:
    """What the journal's values depend on."""
    return {
        "seed": args.seed,
        "red-team prompts": prompts,
        **judge.parameters(),
        "temperatures": args.temperatures,
        **{name: value for name, value in server.parameters().items() if name != "temperature"},
        # a server with one seed a request gives a row what its whole group makes of it
        **({"num-examples": args.num_examples} if server.group > 1 else {}),
    }


def _settings(args: argparse.Namespace, judging: JudgeSettings) -> dict[str, Any]:
    """What the data depend on beside the inputs, for the card."""
    sampling = {name: value for name, value in options.inference_config(args).items() if name not in ("host", "port")}
    shared = {"seed": args.seed, "temperatures": args.temperatures, "splits": args.splits, "judge mode": judging.mode}
    if judging.mode == "principle":
        pairs = judging.comparisons_per_prompt
        shared |= {
            "chain of thought": judging.chain_of_thought,
            "comparisons a prompt": "all" if pairs is None else pairs,
        }
    found = shared | sampling | {"temperature": None, "max_seq_length": args.max_seq_length}
    return {name: value for name, value in found.items() if value is not None}


def _first(prompts: Sequence[str], count: int) -> Sequence[str]:
    return prompts if count < 0 else Spool(islice(prompts, count))


if __name__ == "__main__":
    program.run(main)
