"""The actor's side of the critic server: calls that outlive a restart of the server, and notice it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from cai_jobs.contract.program import InputError, RetryableError
from cai_jobs.ppo import inference_protocol as protocol

RETRY_PAUSE_S = 0.25
RETRY_PAUSE_MAX_S = 5.0


class CriticMovedError(Exception):
    """The critic stands at another step than the actor takes for granted: it was restarted."""


@dataclass(frozen=True)
class CriticClient:
    """A critic server, asked by `url` ("http://host:port").

    Attributes:
        patience_s: how long it may be unreachable or not ready before a call gives up.
        call_timeout_s: how long one call may take.
    """

    url: str
    patience_s: float
    call_timeout_s: float

    def metadata(self) -> dict[str, Any]:
        """{"step", "saved_steps", "vocab_size", "vocab_digest"}, waiting for the server to be ready.

        Raises:
            RetryableError: it does not become ready in time.
        """
        answer = self._send("GET", "/v2/models/critic_save")
        parameters = answer.json().get("parameters")
        if not isinstance(parameters, dict) or "step" not in parameters:
            raise InputError(
                f"{self.url} is no critic server of cai_jobs.serve_critic: its metadata has no parameter `step`"
            )
        return parameters

    def infer(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], step: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Values float32 [B, L - 1] and rewards float32 [B] of `tokens` int64 [B, L], of which `lengths` [B] count.

        Raises:
            CriticMovedError: the critic does not stand at `step`.
            RetryableError: it is unreachable, or its call failed.
        """
        answer = self._call("critic_infer", {"tokens": tokens, "sequence_lengths": lengths[:, None]}, {})
        if answer.parameters.get("step") != step:
            raise CriticMovedError(
                f"the critic at {self.url} stands at step {answer.parameters.get('step')}, not at {step}"
            )
        return answer.tensors["values"], answer.tensors["rewards"].reshape(-1)

    def train(
        self,
        tokens: NDArray[np.int64],
        returns: NDArray[np.float32],
        old_values: NDArray[np.float32],
        mask: NDArray[np.bool_],
        step: int,
    ) -> float:
        """Train the critic from step - 1 to `step` (arrays as in `Critic.train`) and return its mean loss; raises as
        `infer`.
        """
        tensors: protocol.Tensors = {
            "tokens": tokens,
            "returns": returns,
            "prev_values": old_values,
            "mask": mask.astype(np.float32),
        }
        answer = self._call("critic_train", tensors, {"step": step})
        return float(answer.tensors["loss_mean"].reshape(-1)[0])

    def save(self, step: int) -> None:
        """Have the critic saved at `step`, where it must stand; raises as `infer`."""
        self._call("critic_save", {"step": np.array([[step]], np.int64)}, {"expected_step": step})

    def load(self, step: int) -> None:
        """Have the critic go back to its checkpoint of `step` (0: untrained); raises as `infer`."""
        self._call("critic_save", {"step": np.array([[step]], np.int64)}, {"load_step": step})

    def _call(self, model: str, tensors: protocol.Tensors, parameters: dict[str, Any]) -> protocol.Message:
        body, headers = protocol.encode_request(tensors, parameters)
        answer = self._send("POST", f"/v2/models/{model}/infer", body, headers)
        return protocol.decode_answer(answer.content, answer.headers.get(protocol.LENGTH_HEADER))

    def _send(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> httpx.Response:
        timeout = httpx.Timeout(self.call_timeout_s, connect=5.0)
        deadline, pause, trouble = time.monotonic() + self.patience_s, RETRY_PAUSE_S, ""
        while True:
            try:
                # trust_env: the critic is a neighbour, never behind the proxy meant for the outside
                with httpx.Client(timeout=timeout, trust_env=False) as client:
                    answer = client.request(method, self.url + path, content=body, headers=headers)
                if answer.status_code != 503:
                    return self._checked(answer, path)
                trouble = "it is not ready"
            except httpx.ReadTimeout as problem:
                raise RetryableError(
                    f"the critic server at {self.url} did not answer {path} within {self.call_timeout_s:g} s; "
                    "raise --critic-call-timeout if it is merely slow"
                ) from problem
            except httpx.TransportError as problem:
                trouble = str(problem) or type(problem).__name__
            if time.monotonic() + pause > deadline:
                raise RetryableError(
                    f"the critic server at {self.url} could not be reached for {self.patience_s:g} s ({trouble}); "
                    "see that serve_critic runs there and that --critic-host and --critic-port name it"
                )
            time.sleep(pause)
            pause = min(RETRY_PAUSE_MAX_S, pause * 1.5)

    def _checked(self, answer: httpx.Response, path: str) -> httpx.Response:
        if answer.status_code == 200:
            return answer
        try:
            sentence = str(answer.json()["error"])
        except (ValueError, KeyError, TypeError):
            sentence = answer.text[:200]
        if answer.status_code == 409:
            raise CriticMovedError(sentence)
        if answer.status_code in (400, 404):
            raise InputError(f"the critic server at {self.url} refused {path}: {sentence}")
        raise RetryableError(f"the critic server at {self.url} failed at {path}: {sentence}")
