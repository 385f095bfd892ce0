"""The critic server of PPO: rewards from the frozen reward model, values from a critic trained from it.

    python -m cai_jobs.serve_critic --reward-model DIR --port 5567 --checkpoint-dir DIR

Protocol: `ppo/critic_server.py`. It never ends by itself: SIGTERM or SIGINT stops it, exit code 0. Restarted, it
stands at its newest checkpoint.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cai_jobs.contract import program
from cai_jobs.training.startup import heavy_imports


def build_parser() -> program.Parser:
    """The flags; defaults are the tutorial's where it names one."""
    parser = program.Parser(
        "serve_critic", "Serve the reward model and train the critic for ppo_actor.", artifact=False
    )
    add = parser.add_argument
    add("--reward-model", type=Path, required=True, help="sequence-classification directory that reward_model wrote")
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=5567, help="port to listen on; 0 takes a free one and prints it")
    add("--checkpoint-dir", type=Path, required=True, help="where critic_save writes and where a restart looks")
    add(
        "--step",
        type=int,
        help="start from this checkpoint (0: untrained), not from the newest; newer ones are removed",
    )
    add("--keep-checkpoints", type=int, default=2, help="how many checkpoints stay (the actor and the critic need 2)")
    add("--learning-rate", type=float, default=3e-7, help="peak learning rate")
    add("--min-learning-rate", type=float, default=9e-8, help="learning rate after --decay-steps")
    add("--lr-schedule", choices=["cosine", "linear", "constant"], default="cosine", help="shape of the way down")
    add("--warmup-steps", type=int, default=10, help="optimiser updates of linear warm-up")
    add("--decay-steps", type=int, default=0, help="optimiser updates until --min-learning-rate; 0 keeps the peak")
    add("--weight-decay", type=float, default=0.0, help="AdamW's weight decay")
    add("--clip-gradient", type=float, default=1.0, help="largest norm of the gradient; 0 does not clip")
    add(
        "--value-clip",
        type=float,
        default=0.2,
        help="how far a value may move from the old one before the loss ignores it",
    )
    add("--epochs", type=int, default=1, help="passes over a step's rollouts")
    add("--global-batch-size", type=int, default=64, help="rollouts of one optimiser update")
    add("--micro-batch-size", type=int, default=1, help="rollouts of one training forward pass")
    add("--inference-micro-batch-size", type=int, default=4, help="rollouts of one inference forward pass")
    add("--seed", type=int, default=1234, help="seed of the order of rollouts")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="precision of forward passes")
    return parser


def main(argv: Sequence[str] | None = None) -> Mapping[str, Any] | None:
    """Serve until told to stop.

    Raises:
        InputError: no such model, a checkpoint of another model, a setting below its least value.
        RetryableError: the port is taken.
    """
    options = build_parser().parse_args(argv)
    for name in ("keep_checkpoints", "epochs", "global_batch_size", "micro_batch_size", "inference_micro_batch_size"):
        if getattr(options, name) < 1:
            raise program.InputError(f"--{name.replace('_', '-')} is {getattr(options, name)}, at least 1 is wanted")
    if not (options.reward_model / "config.json").is_file():
        raise program.InputError(
            f"--reward-model {options.reward_model}: there is no config.json; give the directory that "
            f"reward_model wrote"
        )
    # before the imports and the weights: a taken port must be heard of in a second
    listener = _listen(options.host, options.port)

    with heavy_imports():
        from cai_jobs.ppo.critic_serving import serve

    serve(options, listener)
    return {"metrics": {}}


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as problem:
        listener.close()
        raise program.RetryableError(
            f"cannot listen on {host}:{port} ({problem.strerror}); choose another --port or stop what listens there"
        ) from problem
    return listener


if __name__ == "__main__":
    program.run(main)
