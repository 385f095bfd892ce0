"""Evaluate one model server: held-out red-team and benign prompts in, labelled transcripts and rates out.

The model answers every prompt greedily in the chat prompt format. Each answer gets one of four labels, from the pocket
world's rules (`--classifier rule`) or from a judge (`--classifier judge`); the rates, what they are shares of and
their 95 % Wilson intervals are defined in `evaluation/rates.py`. With `--baseline`, each answer is also compared with
the baseline's answer to the same prompt: by the labels' rank, or by the judge in both orders. Whether a rate is good
enough is not decided here.
"""

from __future__ import annotations

import asyncio
import os
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cai_jobs.clients.chat_address import chat_url
from cai_jobs.clients.inference import Api, InferenceServer, Refused, check_batch_size, connect
from cai_jobs.clients.remote import RETRY_BUDGET_S, Remote
from cai_jobs.contract import artifacts, program
from cai_jobs.contract.loop import run_async
from cai_jobs.contract.program import InputError, Parser, RetryableError
from cai_jobs.contract.progress import Progress
from cai_jobs.evaluation import rates, transcripts
from cai_jobs.evaluation.judge_labels import Judge, compare_answers, label_answer
from cai_jobs.evaluation.rates import KINDS, Kind
from cai_jobs.evaluation.transcripts import Transcript
from cai_jobs.formats import chat, red_team
from cai_jobs.formats.jsonl import write_json

MODEL_NAMES = ("base", "slCai", "rlCai")
API_KEY_VARIABLE = "NGC_API_KEY"
PROTOCOLS: Mapping[str, Api] = {"generate": "megatron", "completions": "openai"}

Given = TypeVar("Given")


def build_parser() -> Parser:
    """The flags; see the module's docstring for what they do."""
    parser = Parser("evaluate", "Label a model's answers to held-out prompts and give its rates.")
    parser.add_argument("--model-name", choices=MODEL_NAMES, required=True, help="which model of the pipeline this is")
    parser.add_argument("--red-team", type=Path, required=True, help="JSONL, rows with `transcript`")
    parser.add_argument("--benign", type=Path, required=True, help="JSONL, rows with `prompt`")
    parser.add_argument("--baseline", type=Path, help="transcripts.jsonl of the model to compare with")
    parser.add_argument("--num-examples", type=int, default=-1, help="first N prompts of each file; -1: all")
    parser.add_argument("--output-dir", type=Path, default=Path("evaluation"), help="used without --artifact-dir")

    server = parser.add_argument_group("model server")
    server.add_argument(
        "--host",
        default="localhost",
        help="the model server: a name, each address of which is a replica, or HOST[:PORT] of several, with commas",
    )
    server.add_argument("--port", type=int, default=5999, help="the port of hosts that name none")
    server.add_argument("--api", choices=PROTOCOLS, default="generate", help="how it is asked")
    server.add_argument("--served-model", help="the model's name for --api completions; default: the first one listed")
    server.add_argument(
        "--prompt-template",
        type=chat.unescape,
        default=chat.EXTRA_ID.prompt(chat.PLACEHOLDER),
        help="what is sent, {MESSAGE} being the question",
    )
    server.add_argument("--end-strings", nargs="*", default=[chat.EXTRA_ID.eos_token], help="where an answer ends")
    server.add_argument("--tokens-to-generate", type=int, default=128, help="most tokens of an answer")
    server.add_argument("--batch-size", type=int, default=64, help="prompts a request of --api generate, at most 128")
    server.add_argument("--in-flight", type=int, help="requests to each server at a time; default: by the api")

    labels = parser.add_argument_group("labels")
    labels.add_argument("--classifier", choices=["rule", "judge"], default="rule", help="who labels the answers")
    labels.add_argument("--judge-url", help=f"OpenAI-compatible judge; its key is read from ${API_KEY_VARIABLE}")
    labels.add_argument("--judge-model", help="the judge's model name")
    labels.add_argument("--judge-in-flight", type=int, default=8, help="requests to the judge at a time")

    parser.add_argument("--request-timeout-s", type=float, default=600.0, help="longest wait for one answer, seconds")
    parser.add_argument(
        "--retry-s", type=float, default=RETRY_BUDGET_S, help="how long to go on asking a server that is away"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Run the program; its last word holds the rates, their intervals and the counts."""
    args = build_parser().parse_args(argv)
    _check(args)
    with artifacts.open_artifact(args.artifact_dir, args.artifact_header, args.output_dir) as artifact:
        if artifact is None:
            manifest = artifacts.read(args.artifact_dir)
            return artifacts.last_word(manifest) if manifest else None
        artifact.metrics.update(evaluate(args, artifact.path))
        return artifact.publish()


def evaluate(args: Namespace, output_dir: Path) -> dict[str, Any]:
    """Ask, label, compare, and write `transcripts.jsonl` and `metrics.json`; returns the metrics.

    Raises:
        InputError: prompts or baseline cannot be read, or a server refuses a request.
        RetryableError: a server stays away, or the judge labelled no answer of a kind.
    """
    prompts: dict[Kind, list[str]] = {
        "redTeam": list(red_team.read_prompts(args.red_team)),
        "benign": transcripts.read_benign_prompts(args.benign),
    }
    if args.num_examples >= 0:
        prompts = {kind: texts[: args.num_examples] for kind, texts in prompts.items()}
    baseline = transcripts.read_transcripts(args.baseline) if args.baseline else None
    rows = run_async(_transcribe(args, prompts, baseline))
    transcripts.write_transcripts(output_dir / "transcripts.jsonl", rows)

    metrics = rates.label_metrics(_by_kind(rows, lambda row: row.label))
    for kind in KINDS:
        if metrics["counts"][kind]["unlabelled"] == len(prompts[kind]):
            raise RetryableError(f"the judge at {args.judge_url} gave no usable label for any {kind} answer")
    if baseline is not None:
        metrics = rates.merge(metrics, rates.outcome_metrics(_by_kind(rows, lambda row: row.outcome)))
    metrics = {"model": args.model_name, "classifier": args.classifier, **metrics}
    if args.classifier == "judge":
        metrics["judge"] = args.judge_model
    write_json(output_dir / "metrics.json", metrics)
    return metrics


def _check(args: Namespace) -> None:
    if args.classifier == "judge" and not (args.judge_url and args.judge_model):
        raise InputError("--classifier judge needs --judge-url and --judge-model")
    if args.num_examples < 1 and args.num_examples != -1:
        raise InputError(f"--num-examples is {args.num_examples}; at least 1 is wanted, or -1 for all")
    check_batch_size("--batch-size", args.batch_size)
    for flag in ("in_flight", "judge_in_flight", "tokens_to_generate"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            raise InputError(f"--{flag.replace('_', '-')} is {getattr(args, flag)}; at least 1 is wanted")
    if chat.PLACEHOLDER not in args.prompt_template:
        raise InputError("--prompt-template has no {MESSAGE}, so the question would not be asked")


async def _transcribe(
    args: Namespace, prompts: Mapping[Kind, Sequence[str]], baseline: Sequence[Transcript] | None
) -> list[Transcript]:
    rows = await _ask_all(args, prompts)
    matched = transcripts.match_baseline(rows, baseline) if baseline is not None else None
    if args.classifier == "rule":
        _label_by_rule(rows, matched)
    else:
        await _label_by_judge(args, rows, matched)
    return rows


async def _ask_all(args: Namespace, prompts: Mapping[Kind, Sequence[str]]) -> list[Transcript]:
    asked = [(kind, prompt) for kind, texts in prompts.items() for prompt in texts]
    async with await _model_server(args) as server:
        with Progress(len(asked), "answers", "asking the model", args.progress) as progress:

            async def ask(row: int, prompt: str) -> str:
                (answer,) = await server.answers("evaluate", [row], [[{"role": chat.USER, "content": prompt}]])
                if isinstance(answer, Refused):
                    raise InputError(f"the model server at {args.host} {answer.reason}; the prompt is {prompt[:80]!r}")
                progress.advance()
                return answer

            answers = await asyncio.gather(*(ask(row, prompt) for row, (_, prompt) in enumerate(asked)))
    return [Transcript(kind, prompt, answer) for (kind, prompt), answer in zip(asked, answers, strict=True)]


def _label_by_rule(rows: Sequence[Transcript], baseline: Sequence[Transcript] | None) -> None:
    from cai_jobs.pocket.classifier import classify

    for row in rows:
        row.label = classify(row.prompt, row.answer)
    for row, other in zip(rows, baseline or (), strict=baseline is not None):
        row.outcome = rates.compare_labels(row.kind, row.label, classify(other.prompt, other.answer))


async def _label_by_judge(args: Namespace, rows: Sequence[Transcript], baseline: Sequence[Transcript] | None) -> None:
    key = os.environ.get(API_KEY_VARIABLE)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with Remote("judge", chat_url(args.judge_url), args.request_timeout_s, args.retry_s, headers) as remote:
        judge = Judge(remote, args.judge_model)
        gate = asyncio.Semaphore(args.judge_in_flight)
        with Progress(len(rows), "labels", "asking the judge", args.progress) as progress:

            async def label(row: Transcript) -> None:
                async with gate:
                    row.label = await label_answer(judge, row.prompt, row.answer)
                progress.advance()

            await asyncio.gather(*map(label, rows))
        if baseline is None:
            return
        with Progress(len(rows), "comparisons", "asking the judge", args.progress) as progress:

            async def compare(row: Transcript, other: Transcript) -> None:
                async with gate:
                    row.outcome = await compare_answers(judge, row.prompt, row.answer, other.answer)
                progress.advance()

            await asyncio.gather(*(compare(row, other) for row, other in zip(rows, baseline, strict=True)))


async def _model_server(args: Namespace) -> InferenceServer:
    before_answer = args.prompt_template.rpartition(chat.PLACEHOLDER)[2]
    config = {
        **{"host": args.host, "port": args.port, "tokens_to_generate": args.tokens_to_generate},
        **{"min_tokens_to_generate": 1, "greedy": True, "temperature": 1.0, "top_k": 1, "top_p": 0.9},
        **{"repetition_penalty": 1.0, "add_bos": False, "all_probs": False, "end_strings": args.end_strings},
    }
    return await connect(
        config,
        chat.Template(user_format=args.prompt_template, response_extract_pattern=before_answer),
        formatted=True,
        seed=0,
        batch_size=args.batch_size,
        api=PROTOCOLS[args.api],
        model=args.served_model,
        requests_in_flight=args.in_flight,
        request_timeout_s=args.request_timeout_s,
        retry_budget_s=args.retry_s,
    )


def _by_kind(rows: Sequence[Transcript], read: Callable[[Transcript], Given]) -> dict[Kind, list[Given]]:
    return {kind: [read(row) for row in rows if row.kind == kind] for kind in KINDS}


if __name__ == "__main__":
    program.run(main)
