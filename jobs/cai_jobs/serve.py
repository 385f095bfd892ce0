"""Serve a Hugging Face causal language model over HTTP.

    python -m cai_jobs.serve --model DIR --port 5999

`PUT /generate` as NeMo's megatron_gpt_eval.py has it (cai_jobs.inference.megatron_api), OpenAI's `/v1/completions`,
`/v1/chat/completions` and `/v1/models`, `/health/live`, `/health/ready`, and counters at `/metrics`. The port is bound
first and answers at once (ready: 503) while the model is being loaded.
"""

from __future__ import annotations

import signal
import socket
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cai_jobs.contract import program
from cai_jobs.contract.program import InputError, Parser
from cai_jobs.training.startup import heavy_imports

if TYPE_CHECKING:
    from cai_jobs.inference.model import Model


def build_parser() -> Parser:
    """The program's flags."""
    parser = Parser("serve", "Serve a causal language model over HTTP.", artifact=False)
    parser.add_argument(
        "--model", type=Path, required=True, help="Hugging Face model directory (config, weights, tokenizer)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all")
    parser.add_argument("--port", type=int, default=5999, help="port to listen on")
    parser.add_argument(
        "--served-model-name", help="the model's name in OpenAI answers; the directory's name if left out"
    )
    parser.add_argument("--max-batch-size", type=int, default=128, help="prompts generated in one batch, at most")
    parser.add_argument(
        "--batch-window-ms", type=float, default=10.0, help="how long an idle server waits for more prompts"
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, ...; auto takes the first GPU if there is one"
    )
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "float64", "bfloat16", "float16"],
        default="auto",
        help="number format; auto is bfloat16 on a GPU and float32 on a CPU, there float64 for very small models",
    )
    parser.add_argument(
        "--grace-s", type=int, default=10, help="when asked to stop, wait this long for running requests"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        InputError: no model there, it cannot be loaded, or the port is taken.
    """
    arguments = build_parser().parse_args(argv)
    if arguments.max_batch_size < 1:
        raise InputError(f"--max-batch-size is {arguments.max_batch_size}; at least 1 is wanted")
    check_model_directory(arguments.model)
    with bind(arguments.host, arguments.port) as listener:
        serve(arguments, listener)


def serve(arguments: Namespace, listener: socket.socket) -> None:
    """Run the HTTP server on a listening socket until it is asked to stop, or the model cannot be loaded.

    Raises:
        InputError: the model cannot be loaded.
    """
    import uvicorn

    from cai_jobs.inference.app import build_app
    from cai_jobs.inference.engine import Engine

    def load() -> Model:
        # in the engine's thread: importing torch takes seconds, and the port shall answer meanwhile
        started = time.monotonic()
        with heavy_imports():
            from cai_jobs.inference.model import load

            model = load(arguments.model, arguments.device, arguments.dtype)
        say(f"{arguments.model} loaded on {model.device} in {time.monotonic() - started:.1f} s; ready")
        return model

    def give_up() -> None:
        server.should_exit = True

    def say(line: str) -> None:
        print(line, flush=True)

    engine = Engine(load, arguments.max_batch_size, arguments.batch_window_ms / 1000, say, give_up)
    app = build_app(engine, arguments.served_model_name or arguments.model.resolve().name)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=arguments.grace_s)
    )
    # uvicorn raises the signal again once it has ended; for a server, being asked to stop is no failure
    signal.signal(signal.SIGTERM, server.handle_exit)
    signal.signal(signal.SIGINT, server.handle_exit)
    host, port = listener.getsockname()[:2]
    say(f"listening on http://{host}:{port}, loading {arguments.model}")
    server.run(sockets=[listener])
    if engine.problem is not None:
        raise engine.problem
    say("stopped")


def check_model_directory(directory: Path) -> None:
    """Raise InputError at once, before torch is imported, where there is plainly no model."""
    if not directory.is_dir():
        raise InputError(f"--model {directory}: no such directory")
    if not (directory / "config.json").is_file():
        raise InputError(f"--model {directory}: not a Hugging Face model directory, it has no config.json")
    if not any(
        (directory / name).is_file()
        for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
    ):
        raise InputError(
            f"--model {directory}: the model has no tokenizer beside it (tokenizer.json or tokenizer.model)"
        )


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket.

    Raises:
        InputError: the port is taken, or the address is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as problem:
        raise InputError(
            f"cannot listen on {host}:{port} ({problem}); choose another --port or stop what listens there"
        ) from problem
    return listener


if __name__ == "__main__":
    program.run(main)
