"""Objects of one namespace as plain dicts, for tests: read, written and waited for over the API server."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

from cai_operator.manifests.kinds import EVENT, PIPELINE, ObjectKind

T = TypeVar("T")
PATIENCE_S = float(os.environ.get("CAI_TEST_PATIENCE_S", "180"))
"""How long a test waits for what must come before it gives up: far longer than anything takes; it measures nothing."""
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 0.2


class Api:
    """One namespace of one API server, with the rights of `client`.

    Every method but `get` and `try_delete` raises `httpx.HTTPStatusError` where the server refuses, its answer in the
    message.
    """

    def __init__(self, client: httpx.Client, namespace: str) -> None:
        self.client, self.namespace = client, namespace

    def get(self, kind: ObjectKind, name: str) -> dict[str, Any] | None:
        """The object, or None where there is none."""
        answer = self.client.get(kind.path(self.namespace, name))
        return None if answer.status_code == 404 else _body(answer)

    def list(self, kind: ObjectKind, **labels: str) -> list[dict[str, Any]]:
        """All objects of a kind, or those with these labels (`{"cai.dev/node": "sft"}` as keyword arguments)."""
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        return list(_body(self.client.get(kind.path(self.namespace), params={"labelSelector": selector}))["items"])

    def names(self, kind: ObjectKind) -> set[str]:
        """The names of all objects of a kind that are not being deleted."""
        return {item["metadata"]["name"] for item in self.list(kind) if "deletionTimestamp" not in item["metadata"]}

    def create(self, kind: ObjectKind, manifest: dict[str, Any]) -> dict[str, Any]:
        """Create an object."""
        return _body(self.client.post(kind.path(self.namespace), json=_typed(kind, manifest)))

    def apply(self, kind: ObjectKind, manifest: dict[str, Any], manager: str = "kubectl") -> dict[str, Any]:
        """Server-side apply as another manager than the operator, taking over fields that others own."""
        return _body(
            self.client.patch(
                kind.path(self.namespace, manifest["metadata"]["name"]),
                params={"fieldManager": manager, "force": "true"},
                content=json.dumps(_typed(kind, manifest)),
                headers={"Content-Type": "application/apply-patch+yaml"},
            )
        )

    def patch(
        self, kind: ObjectKind, name: str, change: dict[str, Any], subresource: str = "", strategic: bool = False
    ) -> dict[str, Any]:
        """Merge `change` into an object, or into its subresource such as "status"."""
        path = kind.path(self.namespace, name) + (f"/{subresource}" if subresource else "")
        form = "strategic-merge-patch" if strategic else "merge-patch"
        answer = self.client.patch(
            path, content=json.dumps(change), headers={"Content-Type": f"application/{form}+json"}
        )
        return _body(answer)

    def delete(self, kind: ObjectKind, name: str, propagation: str = "Background") -> None:
        """Delete an object as kubectl does; `propagation` Foreground or Orphan for its other ways."""
        _body(self.client.request("DELETE", kind.path(self.namespace, name), json={"propagationPolicy": propagation}))

    def pipeline(self, name: str) -> dict[str, Any]:
        """The pipeline, which must exist."""
        found = self.get(PIPELINE, name)
        assert found is not None, f"there is no pipeline {name} in {self.namespace}"
        return found

    def status(self, name: str) -> dict[str, Any]:
        """The pipeline's status, empty before the operator has written one."""
        return dict(self.pipeline(name).get("status") or {})

    def node(self, pipeline: str, node: str) -> dict[str, Any]:
        """The status of one node of a pipeline's graph, empty where there is none yet."""
        for stage in self.status(pipeline).get("stages", []):
            for part in stage.get("parts") or [stage]:
                if part["name"] == node:
                    return dict(part)
        return {}

    def condition(self, pipeline: str, type_: str) -> dict[str, Any]:
        """One condition of a pipeline, empty where there is none yet."""
        found = [one for one in self.status(pipeline).get("conditions", []) if one["type"] == type_]
        return dict(found[0]) if found else {}

    def events(self, pipeline: str) -> Sequence[tuple[str, str, str]]:
        """Type, reason and message of every event about a pipeline, oldest first."""
        about = [item for item in self.list(EVENT) if item["involvedObject"].get("name") == pipeline]
        about.sort(key=lambda item: item.get("eventTime") or item.get("firstTimestamp") or "")
        return [(item["type"], item["reason"], item["message"]) for item in about]

    def wait_for_phase(self, pipeline: str, phase: str) -> dict[str, Any]:
        """Wait until the pipeline's phase is this one, and return its status."""
        return wait_for(
            lambda: self.status(pipeline),
            f"pipeline {pipeline} to be {phase}",
            lambda status: status.get("phase") == phase,
        )


def wait_for(
    look: Callable[[], T],
    what: str,
    is_there: Callable[[T], bool] = bool,
    patience_s: float = PATIENCE_S,
) -> T:
    """Look again and again until what is seen will do, and return it.

    Raises:
        AssertionError: it did not come; the message has what was seen last.
    """
    end = time.monotonic() + patience_s
    pause_s = SHORTEST_PAUSE_S
    while True:
        seen = look()
        if is_there(seen):
            return seen
        assert time.monotonic() < end, f"waited in vain for {what}; seen last: {_shown(seen)}"
        time.sleep(pause_s)
        pause_s = min(LONGEST_PAUSE_S, 1.2 * pause_s)


@contextmanager
def again_and_again(act: Callable[[], None], every_s: float = 0.3) -> Iterator[None]:
    """Do something at every interval, in a thread of its own, as long as the context lasts."""
    over = threading.Event()

    def loop() -> None:
        while not over.wait(every_s):
            act()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _typed(kind: ObjectKind, manifest: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": kind.api_version, "kind": kind.kind, **manifest}


def _body(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_error:
        message = f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}"
        raise httpx.HTTPStatusError(message, request=answer.request, response=answer)
    return dict(answer.json())


def _shown(seen: Any) -> str:
    text = json.dumps(_brief(seen), indent=1, default=str, ensure_ascii=False)
    return text if len(text) < 3000 else text[:3000] + " …"


def _brief(seen: Any) -> Any:
    """The same without what fills a screen and says little: managers of fields, empty fields, stages that are off."""
    if isinstance(seen, list):
        return [_brief(item) for item in seen if not (isinstance(item, dict) and item.get("state") == "Disabled")]
    if not isinstance(seen, dict):
        return seen
    return {
        name: _brief(part) for name, part in seen.items() if name != "managedFields" and part not in ("", [], {}, 0)
    }
