"""Running the critic's application on a bound socket until a signal comes."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from types import FrameType

import uvicorn

from cai_jobs.ppo import checkpoints
from cai_jobs.ppo.critic_model import Critic, CriticSettings
from cai_jobs.ppo.critic_server import CriticService, build_app
from cai_jobs.ppo.device import pick_device
from cai_jobs.training.startup import heavy_imports

DRAIN_S = 5


def serve(options: argparse.Namespace, listener: socket.socket) -> None:
    """Load the critic and answer on `listener` until SIGTERM or SIGINT.

    Args:
        options: the parsed flags of `serve_critic`.

    Raises:
        InputError: the reward model or a checkpoint cannot be loaded.
    """
    fields = {name: getattr(options, name) for name in CriticSettings.__dataclass_fields__}
    settings = CriticSettings(**fields)

    def load() -> Critic:
        with heavy_imports():
            critic = Critic(options.reward_model, settings, pick_device(options.device, options.dtype))
        newest = max(checkpoints.saved_steps(settings.checkpoint_dir), default=0)
        critic.restore(newest if options.step is None else options.step)
        return critic

    service = CriticService(load)
    config = uvicorn.Config(
        build_app(service), log_level="warning", access_log=False, timeout_graceful_shutdown=DRAIN_S, lifespan="off"
    )
    server = _Server(config, service)
    address = "http://{}:{}".format(*listener.getsockname()[:2])

    def loaded(done: Future[Critic]) -> None:
        if done.cancelled() or done.exception() is not None:
            server.should_exit = True
        else:
            print(json.dumps({"ready": {"url": address, "step": done.result().step}}), flush=True)

    service.loading.add_done_callback(loaded)
    server.run(sockets=[listener])
    service.stop()
    if not service.loading.cancelled():
        service.loading.result()


class _Server(uvicorn.Server):
    """uvicorn, but a signal ends it with exit code 0 (uvicorn raises the signal again after its shutdown) and at
    once.
    """

    def __init__(self, config: uvicorn.Config, service: CriticService) -> None:
        super().__init__(config)
        self._service = service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        def stop(_signum: int, _frame: FrameType | None) -> None:
            self.should_exit = True
            if self._service.critic is not None:
                self._service.critic.stop.set()

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
