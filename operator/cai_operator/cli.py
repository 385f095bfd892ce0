"""`cai`: run a pipeline on this machine; look at one, here or on a cluster; check a manifest; ask the model."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cai_jobs.contract.program import EXIT_INPUT, EXIT_RETRY, InputError, RetryableError
from cai_operator import cluster_commands, local, render
from cai_operator.engines import EngineError
from cai_operator.kubectl import NoCluster
from cai_operator.local_run import load, run
from cai_operator.plan import node_keys
from cai_operator.status_table import print_status

EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 a stage failed or a server is away, 2 wrong input, 130 interrupted."""
    arguments = build_parser().parse_args(argv)
    try:
        code = arguments.command(arguments)
        sys.stdout.flush()
    except (InputError, RetryableError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        code = EXIT_INPUT if isinstance(problem, InputError) else EXIT_RETRY
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # the reader has gone (cai status | head): nothing to say, nor to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def build_parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    parser = argparse.ArgumentParser(prog="cai", description="Constitutional AI training runs.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "run", help="run a pipeline on this machine, from where it stands", allow_abbrev=False
    )
    command.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="YAML with a CAIPipeline and its ConfigMaps"
    )
    command.add_argument("--workdir", required=True, type=Path, help="artifacts, logs and status.json are kept here")
    command.add_argument(
        "--parallel",
        type=_positive,
        metavar="N",
        help="jobs at a time, each with its servers (default: the cores; the GPUs if the pipeline asks for any)",
    )
    command.add_argument("--serve", action="store_true", help="serve the model at the end, until Ctrl-C")
    command.set_defaults(command=_run)

    command = commands.add_parser(
        "status", help="show how a pipeline stands, in a work directory or on a cluster", allow_abbrev=False
    )
    command.add_argument("pipeline", metavar="DIR|NAME", help="a work directory of cai run, or a name on the cluster")
    cluster_commands.add_target_flags(command)
    command.add_argument(
        "-o", "--output", choices=["table", "json", "yaml"], default="table", help="how (default: table)"
    )
    command.add_argument("-w", "--watch", action="store_true", help="show every change until the pipeline has ended")
    command.set_defaults(command=_status)

    cluster_commands.add_commands(commands)
    render.add_command(commands)

    command = commands.add_parser("validate", help="check a manifest without running it", allow_abbrev=False)
    command.add_argument("files", nargs="+", type=Path, metavar="FILE")
    command.set_defaults(command=_validate)

    command = commands.add_parser("report", help="print the path of the report page", allow_abbrev=False)
    command.add_argument("workdir", type=Path, metavar="DIR")
    command.set_defaults(command=_report)

    command = commands.add_parser("ask", help="ask a served model a question", allow_abbrev=False)
    command.add_argument("question")
    command.add_argument("--url", required=True, help="the server, such as http://127.0.0.1:1427")
    command.add_argument("--max-tokens", type=_positive, default=512, help="longest answer (default: 512)")
    command.set_defaults(command=_ask)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    return run(arguments.files, arguments.workdir, parallel=arguments.parallel, serve=arguments.serve)


def _validate(arguments: argparse.Namespace) -> int:
    pipeline, found = load(arguments.files)
    try:
        node_keys(pipeline.spec, found)
    except EngineError as problem:
        raise InputError(f"{', '.join(str(path) for path in arguments.files)}: {problem}") from problem
    print(f"{', '.join(str(path) for path in arguments.files)}: CAIPipeline {pipeline.name} is valid")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    if arguments.watch and arguments.output != "table":
        raise InputError(f"--watch shows a table; take -o {arguments.output} without it")
    name, target = arguments.pipeline, cluster_commands.target_of(arguments)
    if not target.is_given and ("/" in name or Path(name).is_dir()):
        return _local_status(arguments, Path(name))
    try:
        document = cluster_commands.read(name, target)
    except NoCluster as problem:
        raise problem if target.is_given else InputError(f"there is no directory {name}, and {problem}") from None
    if arguments.watch:
        return cluster_commands.follow(name, lambda: cluster_commands.view_of(cluster_commands.read(name, target)))
    if arguments.output == "table":
        cluster_commands.print_pipeline(document, target)
    else:
        _print_document(document.get("status", {}), arguments.output)
    return 0


def _local_status(arguments: argparse.Namespace, workdir: Path) -> int:
    if not local.status_path(workdir).is_file():
        is_name = "/" not in arguments.pipeline
        elsewhere = "; a pipeline of that name on a cluster is shown with -n NAMESPACE" if is_name else ""
        raise InputError(f"{local.status_path(workdir)}: no such file; cai run --workdir makes it{elsewhere}")
    if arguments.watch:
        return cluster_commands.follow(str(workdir), lambda: (local.read_status(workdir), True))
    status = local.read_status(workdir)
    if arguments.output != "table":
        _print_document(status.document(), arguments.output)
        return 0
    is_left = status.phase == "Running" and not local.is_running(workdir)
    print_status(status, ["no cai run works here now; this is what the last one left"] if is_left else [])
    return 0


def _print_document(document: Mapping[str, Any], form: str) -> None:
    if form == "json":
        print(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        print(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), end="")


def _report(arguments: argparse.Namespace) -> int:
    page = arguments.workdir / "report.html"
    if not page.is_file():
        raise InputError(
            f"{page}: no such file; it is there once the report stage is done (cai status {arguments.workdir})"
        )
    print(page.resolve())
    return 0


def _ask(arguments: argparse.Namespace) -> int:
    from cai_jobs.get_answer import get_answer

    print(get_answer(arguments.question, max_tokens=arguments.max_tokens, url=arguments.url))
    return 0


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


if __name__ == "__main__":
    main()
