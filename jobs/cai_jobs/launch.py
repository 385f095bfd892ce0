"""Start a program in several processes, on one node or several, and end as it ends.

    python -m cai_jobs.launch --nodes 2 --processes 8 -m cai_jobs.sft ...

torchrun's own agent does the work; run by itself it ends with 1 whatever happened. Here the program contract holds:
2 if a process ended with it (the input is wrong, trying again cannot help), 143 after SIGTERM, else 1. With several
nodes the environment says which this is and where rank 0 is, as torchrun has it: PET_NODE_RANK, PET_MASTER_ADDR,
PET_MASTER_PORT. The processes' last words are their own; the first of each node writes the termination message.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cai_jobs.contract.peers import await_first_node
from cai_jobs.contract.program import EXIT_INPUT, EXIT_RETRY, InputError, RetryableError
from cai_jobs.training.startup import heavy_imports
from cai_jobs.training.stores import allow_torch_without_libuv


def build_parser() -> argparse.ArgumentParser:
    """The launcher's flags; everything behind the program's name is the program's."""
    parser = argparse.ArgumentParser(
        prog="python -m cai_jobs.launch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=1, help="nodes that train together (default: 1)")
    parser.add_argument("--processes", type=int, default=1, help="processes on each node (default: 1)")
    parser.add_argument("-m", action="store_true", required=True, help="as python's: what follows is a module")
    parser.add_argument("program", metavar="MODULE", help="the program, such as cai_jobs.sft")
    parser.add_argument("flags", nargs=argparse.REMAINDER, metavar="...", help="its flags")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; the exit code."""
    args = build_parser().parse_args(argv)
    if args.nodes > 1:
        await_first_node()
    with heavy_imports():
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

        allow_torch_without_libuv()
    where = ["--standalone"] if args.nodes == 1 else [f"--nnodes={args.nodes}"]
    try:
        _torchrun([*where, f"--nproc-per-node={args.processes}", "-m", args.program, *args.flags])
    except ChildFailedError as problem:
        codes = {failure.exitcode for failure in problem.failures.values()}
        return EXIT_INPUT if EXIT_INPUT in codes else EXIT_RETRY
    except SignalException as problem:
        return 128 + int(problem.sigval)
    return 0


def _torchrun(argv: list[str]) -> None:
    from torch.distributed import run

    run.run(run.parse_args(argv))  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    try:
        code = main()
    except (InputError, RetryableError) as failed:
        print(f"error: {failed}", file=sys.stderr)
        code = EXIT_INPUT if isinstance(failed, InputError) else EXIT_RETRY
    sys.exit(code)
