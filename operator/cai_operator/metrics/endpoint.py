"""The Prometheus endpoint: GET /metrics, on the operator's own event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from cai_operator.metrics.recorder import Metrics

PATH = "/metrics"
ANYWHERE = "0.0.0.0"  # noqa: S104 - Prometheus comes from another pod


async def serve(port: int, metrics: Metrics, refresh: Callable[[], Awaitable[None]]) -> web.AppRunner:
    """Open the port, and refresh the figures before each answer; call `cleanup` of what is returned to close it.

    Raises:
        OSError: the port cannot be opened.
    """
    expose = make_aiohttp_handler(metrics.registry)

    async def answer(request: web.Request) -> web.StreamResponse:
        await refresh()
        return await expose(request)

    app = web.Application()
    app.router.add_get(PATH, answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, ANYWHERE, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner
