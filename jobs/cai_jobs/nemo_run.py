"""Run one of NeMo-Aligner's or NeMo's programs under the program contract.

    python -m cai_jobs.nemo_run --artifact-dir DIR --artifact-header JSON --input DIR --model megatron_gpt_sft \\
        --rows sl_cai_train.jsonl --rows-per-step 128 -- python /opt/NeMo-Aligner/examples/nlp/gpt/train_gpt_sft.py ...
    python -m cai_jobs.nemo_run --serve --input DIR -- python .../megatron_gpt_eval.py server=True ...

What stands after `--` is the program's own whole command, which nothing changes. A trainer's inputs are checked
against their manifests; its log becomes progress and `metrics.jsonl`; it is done when the last step is saved and its
.nemo file is written after that, whatever the program says when it leaves: one that leaves early ends with 0. NeMo
resumes by itself from what is below --work-dir, so the same command goes on after a crash. A program that does not
leave when it is done is made to. With several nodes (`PET_NODE_RANK`) the first one judges and publishes.

With --export-from a second command, after another `--`, is a converter: when the training is done it brings the model
into Hugging Face format, published as `huggingFace/` beside it.

PPO's actor (--critic-host) and its critic (--serves) are one unit: before the actor starts both are brought to the
newest step both have saved, and the critic has all its models ready; an actor whose critic is gone or was started again
is stopped, exit code 1; when the actor is done the critic is stopped, and must be saved at the same step.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cai_jobs.contract import artifacts, program
from cai_jobs.contract.peers import RANK, await_first_node, is_first_node
from cai_jobs.contract.program import InputError, Parser
from cai_jobs.nemo import commands, critic_server, export, inputs, server, trainer
from cai_jobs.nemo.child import STOP_SIGNALS
from cai_jobs.nemo.unit import FOLDER

PROGRAM = "nemo_run"


def build_parser() -> Parser:
    """The wrapper's flags; the program's command follows them after `--`, a converter's after another."""
    parser = Parser(PROGRAM, "Run one of NVIDIA's programs under the program contract: FLAGS -- PROGRAM ARGUMENTS.")
    parser.add_argument("--input", type=Path, action="append", default=[], help="an artifact it reads; repeatable")
    parser.add_argument(
        "--check-inputs",
        choices=inputs.CHECKS,
        help="against their manifests: every byte, or sizes only; default: sizes for servers, else digests",
    )
    parser.add_argument("--grace-s", type=float, default=50.0, help="seconds between asking it to stop and killing it")
    parser.add_argument("--output-dir", type=Path, default=Path("nemo_output"), help="used without --artifact-dir")

    training = parser.add_argument_group("trainers")
    training.add_argument("--model", help="name of the .nemo file it writes, without .nemo and -vN")
    training.add_argument("--publish", default="model.nemo", help="name of that file in the artifact")
    training.add_argument(
        "--work-dir", default="nemo", help="its explicit_log_dir, relative to the unfinished artifact"
    )
    training.add_argument("--scratch", action="append", default=[], help="what else is not published; repeatable")
    training.add_argument("--rows", type=Path, help="its training file, by which steps are counted")
    training.add_argument("--lines-per-row", type=int, default=1, help="2 for comparisons")
    training.add_argument("--rows-per-step", type=int, default=1, help="global batch size, or rollouts of a PPO step")
    training.add_argument("--epochs", type=int, default=1, help="passes over the rows")
    training.add_argument("--max-steps", type=int, default=-1, help="steps at most; -1: as the rows have it")
    training.add_argument("--linger-s", type=float, default=300.0, help="seconds it may stay once it is done")
    training.add_argument("--poll-s", type=float, default=5.0, help="seconds between looks at its files")
    training.add_argument(
        "--export-from",
        type=Path,
        help="the base model as published: its config.json and tokenizer, for the converter that is the second command",
    )

    pair = parser.add_argument_group("the actor, which has a critic")
    pair.add_argument("--critic-host", help="where its critic listens, whose wrapper has --serves")
    pair.add_argument("--critic-port", type=int, default=5567, help="its port")
    pair.add_argument("--critic-nodes", type=int, default=1, help="on how many machines it runs")
    pair.add_argument("--critic-dir", default="critic", help="its explicit_log_dir, relative as --work-dir")
    pair.add_argument("--critic-ready-s", type=float, default=3600.0, help="seconds it may take to stop or to load")
    pair.add_argument("--critic-gone-s", type=float, default=180.0, help="seconds without an answer: it is gone")
    pair.add_argument("--critic-stop-s", type=float, default=120.0, help="seconds it may take to stop at the end")

    serving = parser.add_argument_group("servers")
    serving.add_argument("--serve", action="store_true", help="the program is a server: it ends when it is stopped")
    serving.add_argument(
        "--stop-signal", choices=list(STOP_SIGNALS), default="TERM", help="what it is sent; the critic ends on INT"
    )
    serving.add_argument("--serves", type=Path, help="a critic: the artifact of the actor that it serves")
    serving.add_argument(
        "--silence-s", type=float, default=180.0, help="seconds a critic stays stopped with no actor to order it"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Run the program; returns the last word.

    Raises:
        InputError: the command line, an input or a setting of the program is wrong.
        RetryableError: the program failed, or left before it was done; the same command goes on from here.
    """
    flags, found = commands.split(argv)
    args = build_parser().parse_args(flags)
    command, converter = _commands(found, args.export_from is not None)
    if os.environ.get(RANK):
        await_first_node()
    if args.serve and args.serves is not None:
        critic_server.serve_actor(args, command)
    if args.serve:
        server.serve(args, command)
    if not args.model or args.rows is None:
        raise InputError("--model and --rows are needed to tell when a trainer is done; --serve is for servers")
    if not is_first_node():
        return trainer.follow(args, command)
    scratch = [args.work_dir, *args.scratch, trainer.STATE, export.WORK]
    if args.critic_host is not None:
        scratch += [args.critic_dir, FOLDER]
    with artifacts.open_artifact(args.artifact_dir, args.artifact_header, args.output_dir, scratch) as artifact:
        if artifact is None:
            return artifacts.last_word(artifacts.read(args.artifact_dir) or {})
        artifact.metrics.update(trainer.train(args, command, artifact.path, converter))
        return artifact.publish()


def _commands(found: list[list[str]], exports: bool) -> tuple[list[str], list[str]]:
    """The program's command, and the converter's, empty where there is none."""
    if len(found) != 1 + exports:
        wanted, more = ("two are", " -- CONVERTER …") if exports else ("one is", "")
        raise InputError(
            f"{len(found)} commands after --; {wanted} wanted: python -m cai_jobs.{PROGRAM} FLAGS -- PROGRAM …{more}"
        )
    return found[0], found[1] if exports else []


if __name__ == "__main__":
    program.run(main)
