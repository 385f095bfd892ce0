"""The critic as an ASGI application speaking the Open Inference Protocol v2 (`inference_protocol`).

Models: `critic_infer`, `critic_train`, `critic_save` with the tensors of docs/contracts.md. Every call runs on one
worker thread, in the order of arrival. Our extensions, all optional, are parameters:

- every answer, and the metadata of each model, carries `step`, `saved_steps`, `vocab_size`, `vocab_digest`;
- `critic_train` takes `step`, the step the call leads to: done again it is not repeated, out of order it is refused
  (409);
- `critic_save` takes `expected_step`, refused (409) if the critic stands elsewhere, and `load_step`, which instead of
  saving
  goes back to a saved step (0: the untrained critic) and removes the checkpoints after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cai_jobs.contract.program import InputError
from cai_jobs.ppo import inference_protocol as protocol
from cai_jobs.ppo.critic_model import Critic, StoppedError, WrongStepError

_TOKENS = {"name": "tokens", "datatype": "INT64", "shape": [-1, -1]}
_PLACES = {"datatype": "FP32", "shape": [-1, -1]}
MODELS: dict[str, dict[str, Any]] = {
    "critic_infer": {
        "inputs": [_TOKENS, {"name": "sequence_lengths", "datatype": "INT64", "shape": [-1, 1]}],
        "outputs": [{"name": "values", **_PLACES}, {"name": "rewards", "datatype": "FP32", "shape": [-1, 1]}],
    },
    "critic_train": {
        "inputs": [_TOKENS, *({"name": name, **_PLACES} for name in ("returns", "prev_values", "mask"))],
        "outputs": [{"name": "loss_mean", "datatype": "FP32", "shape": [1, 1]}],
    },
    "critic_save": {
        "inputs": [{"name": "step", "datatype": "INT64", "shape": [1, 1]}],
        "outputs": [{"name": "status", "datatype": "INT64", "shape": [1, 1]}],
    },
}


class CriticService:
    """The application's state: a critic being loaded or there, and the one thread that works for it."""

    def __init__(self, load: Callable[[], Critic]) -> None:
        """Start loading at once; `loading` is done when the critic can serve, or holds why it cannot."""
        self.worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="critic")
        self.loading: Future[Critic] = self.worker.submit(load)

    @property
    def critic(self) -> Critic | None:
        """The critic, or None while it is loading or if that failed."""
        if not self.loading.done() or self.loading.exception() is not None:
            return None
        return self.loading.result()

    def stop(self) -> None:
        """Give up what is running and wait for the worker to end."""
        if self.critic is not None:
            self.critic.stop.set()
        self.worker.shutdown(wait=True, cancel_futures=True)


def build_app(service: CriticService) -> Starlette:
    """The application; it answers at once, `ready` with 503 until the critic is loaded."""

    async def live(_request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(_request: Request) -> Response:
        is_ready = service.critic is not None
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    async def server_metadata(_request: Request) -> Response:
        return JSONResponse({"name": "cai-critic", "version": "1", "extensions": ["binary_tensor_data"]})

    async def model_ready(request: Request) -> Response:
        if request.path_params["model"] not in MODELS:
            return _unknown_model(request)
        is_ready = service.critic is not None
        return JSONResponse({"name": request.path_params["model"], "ready": is_ready}, 200 if is_ready else 503)

    async def model_metadata(request: Request) -> Response:
        name = request.path_params["model"]
        if name not in MODELS:
            return _unknown_model(request)
        critic = service.critic
        if critic is None:
            return _error("the critic is still loading", 503)
        status = await asyncio.wrap_future(service.worker.submit(critic.status))
        return JSONResponse(
            {"name": name, "versions": ["1"], "platform": "pytorch", **MODELS[name], "parameters": status}
        )

    async def infer(request: Request) -> Response:
        name = request.path_params["model"]
        if name not in MODELS:
            return _unknown_model(request)
        critic = service.critic
        if critic is None:
            return _error("the critic is still loading", 503)
        body = await request.body()
        length = request.headers.get(protocol.LENGTH_HEADER)
        try:
            answer = await asyncio.wrap_future(service.worker.submit(_call, critic, name, body, length))
        except (protocol.ProtocolError, InputError) as problem:
            return _error(str(problem), 400)
        except WrongStepError as problem:
            return _error(str(problem), 409)
        except (StoppedError, asyncio.CancelledError):
            return _error("the critic is stopping", 503)
        except Exception as problem:  # the caller must hear it, whatever it was, and the server live on
            return _error(f"{name} failed: {type(problem).__name__}: {problem}", 500)
        return Response(answer[0], headers=answer[1])

    model = "/v2/models/{model}"
    routes = [Route("/v2/health/live", live), Route("/v2/health/ready", ready), Route("/v2", server_metadata)]
    for prefix in (model, model + "/versions/{version}"):
        routes += [
            Route(prefix, model_metadata),
            Route(prefix + "/ready", model_ready),
            Route(prefix + "/infer", infer, methods=["POST"]),
        ]
    return Starlette(routes=routes)


def _call(critic: Critic, name: str, body: bytes, header_length: str | None) -> tuple[bytes, dict[str, str]]:
    """One inference request on the worker thread: decode, do, encode."""
    request = protocol.decode_request(body, header_length)
    outputs = {"critic_infer": _infer, "critic_train": _train, "critic_save": _save}[name](critic, request)
    return protocol.encode_answer(name, outputs, critic.status(), request)


def _infer(critic: Critic, request: protocol.Message) -> protocol.Tensors:
    tokens = _tensor(request, "tokens", 2).astype(np.int64)
    lengths = _tensor(request, "sequence_lengths").reshape(-1).astype(np.int64)
    _check_tokens(critic, tokens)
    if len(lengths) != len(tokens) or (len(lengths) and not 1 <= lengths.min() <= lengths.max() <= tokens.shape[1]):
        raise protocol.ProtocolError(f"sequence_lengths must be {len(tokens)} numbers between 1 and {tokens.shape[1]}")
    values, rewards = critic.infer(tokens, lengths)
    return {"values": values, "rewards": rewards}


def _train(critic: Critic, request: protocol.Message) -> protocol.Tensors:
    tokens = _tensor(request, "tokens", 2).astype(np.int64)
    _check_tokens(critic, tokens)
    places = (tokens.shape[0], tokens.shape[1] - 1)
    returns, before, mask = (_tensor(request, name, 2) for name in ("returns", "prev_values", "mask"))
    for name, array in (("returns", returns), ("prev_values", before), ("mask", mask)):
        if array.shape != places:
            raise protocol.ProtocolError(
                f"{name} has shape {list(array.shape)}, {list(places)} is wanted: one less than tokens"
            )
    loss = critic.train(
        tokens, returns.astype(np.float32), before.astype(np.float32), mask.astype(bool), _integer(request, "step")
    )
    return {"loss_mean": np.array([[loss]], np.float32)}


def _save(critic: Critic, request: protocol.Message) -> protocol.Tensors:
    load_step = _integer(request, "load_step")
    if load_step is not None:
        critic.restore(load_step)
    else:
        step = _tensor(request, "step")
        if step.size != 1:
            raise protocol.ProtocolError("step must be one number")
        critic.save(int(step.reshape(-1)[0]), _integer(request, "expected_step"))
    return {"status": np.zeros((1, 1), np.int64)}


def _tensor(request: protocol.Message, name: str, dimensions: int | None = None) -> NDArray[Any]:
    if name not in request.tensors:
        raise protocol.ProtocolError(f"input {name} is missing; there are {', '.join(request.tensors) or 'none'}")
    array = request.tensors[name]
    if dimensions is not None and array.ndim != dimensions:
        raise protocol.ProtocolError(f"{name} has shape {list(array.shape)}, {dimensions} dimensions are wanted")
    return array


def _check_tokens(critic: Critic, tokens: NDArray[np.int64]) -> None:
    size = int(critic.reward.config.vocab_size)
    if tokens.size == 0 or tokens.shape[1] < 2:
        raise protocol.ProtocolError(
            f"tokens has shape {list(tokens.shape)}, at least one text of two tokens is wanted"
        )
    if tokens.min() < 0 or tokens.max() >= size:
        raise protocol.ProtocolError(
            f"tokens go from {tokens.min()} to {tokens.max()}, the model knows 0 to {size - 1}"
        )


def _integer(request: protocol.Message, name: str) -> int | None:
    value = request.parameters.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise protocol.ProtocolError(f"parameter {name} is {value!r}, a number from 0 is wanted")
    return value


def _unknown_model(request: Request) -> Response:
    return _error(f"no model {request.path_params['model']!r}; there are {', '.join(MODELS)}", 404)


def _error(sentence: str, status: int) -> Response:
    return JSONResponse({"error": sentence}, status)
