"""The only Kubernetes I/O of the operator apart from kopf's watches: read, apply, delete, status, events, log tails.

REST as in the Kubernetes API reference ("Kubernetes API Concepts": server-side apply, preconditions, status
subresource). Credentials come from kopf's login, so both use the same kubeconfig or service account.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import kopf
import yaml

from cai_operator.manifests.kinds import CHILD_KINDS, EVENT, PIPELINE, POD, ObjectKind, kind_of

FIELD_MANAGER = "cai-operator"
TIMEOUT_S = 30.0
LOG_TIMEOUT_S = 5.0  # a node that does not answer must not keep its pipeline from everything else
LOGIN_MAX_AGE_S = 600.0  # bound service account tokens are replaced on disk well before they end
LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 32768
LIST_LIMIT = 500

OnAnswer = Callable[[str, str, int | None, float], None]
"""Told of every request: its method, its path, the answer's status (None: there was none), and the seconds it took."""

log = logging.getLogger("cai_operator.cluster")


class Refused(Exception):
    """The API server said no to what was asked: invalid, forbidden, over quota. `message` is its own sentence."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message


class Conflict(Exception):
    """What was asked rests on an outdated view of the object."""


class Unavailable(Exception):
    """The API server cannot be reached, or not now; the same may be asked again later."""


class LoginFailed(Exception):
    """There are no credentials to work with; the message says where they were looked for."""


class Cluster:
    """One API server, as one user.

    Every method raises `Unavailable` where the server is away, overloaded or broken, and `Refused` where it says no.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | None = None,
        base_url: str | None = None,
        on_answer: OnAnswer = lambda *_: None,
    ) -> None:
        """With a transport and base URL given, no login is made: for clients that bring their own."""
        self._on_answer = on_answer
        self._fixed = httpx.AsyncClient(transport=transport, base_url=base_url) if transport and base_url else None
        self._client: httpx.AsyncClient | None = self._fixed
        self._login_time = time.monotonic()
        self._retiring: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Close all connections."""
        for retiring in self._retiring:
            retiring.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def get(self, kind: ObjectKind, namespace: str, name: str) -> dict[str, Any] | None:
        """One object as the API server has it now, None where there is none."""
        response = await self._ask("GET", kind.path(namespace, name), missing_is_fine=True)
        return None if response is None else slim(response.json())

    async def serves(self, kind: ObjectKind) -> bool:
        """Whether the API server knows this kind (of a group of its own) at all."""
        response = await self._ask("GET", f"/apis/{kind.api_version}", missing_is_fine=True)
        return response is not None and any(one["name"] == kind.plural for one in response.json()["resources"])

    async def list_all(
        self, kind: ObjectKind, namespace: str, labels: str = "", fields: str = ""
    ) -> list[dict[str, Any]]:
        """All objects of a kind in a namespace that match the selectors."""
        found: list[dict[str, Any]] = []
        parameters = {"limit": str(LIST_LIMIT), "labelSelector": labels, "fieldSelector": fields}
        while True:
            asked = {name: value for name, value in parameters.items() if value}
            response = await self._ask("GET", kind.path(namespace), params=asked)
            assert response is not None
            document = response.json()
            for item in document["items"]:
                found.append(slim({"apiVersion": kind.api_version, "kind": kind.kind, **item}))
            parameters["continue"] = document["metadata"].get("continue", "")
            if not parameters["continue"]:
                return found

    async def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Make the object be as the manifest says, what others set apart (server-side apply, conflicts won by us)."""
        metadata = manifest["metadata"]
        path = kind_of(manifest).path(metadata["namespace"], metadata["name"])
        response = await self._ask(
            "PATCH",
            path,
            params={"fieldManager": FIELD_MANAGER, "force": "true"},
            content=json.dumps(manifest),
            headers={"Content-Type": "application/apply-patch+yaml"},
        )
        assert response is not None
        return slim(response.json())

    async def delete(self, found: Mapping[str, Any]) -> bool:
        """Delete exactly this object (by uid), its own children first; False where it was gone or another already."""
        metadata = found["metadata"]
        kind = next(kind for kind in CHILD_KINDS if kind.kind == found["kind"])
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": metadata["uid"]},
        }
        path = kind.path(metadata["namespace"], metadata["name"])
        try:
            return await self._ask("DELETE", path, json=options, missing_is_fine=True) is not None
        except Conflict:
            return False

    async def write_status(self, pipeline: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the status of a pipeline by one write.

        Args:
            pipeline: the object as last read; the write only holds if it has not changed since.
            status: the whole new status; None for a field that is to go.

        Raises:
            Conflict: somebody changed the pipeline meanwhile, or it is gone.
        """
        metadata = pipeline["metadata"]
        body = {"metadata": {"resourceVersion": metadata["resourceVersion"], "uid": metadata["uid"]}, "status": status}
        response = await self._ask(
            "PATCH",
            PIPELINE.path(metadata["namespace"], metadata["name"]) + "/status",
            params={"fieldManager": FIELD_MANAGER},
            content=json.dumps(body),
            headers={"Content-Type": "application/merge-patch+json"},
            missing_is_fine=True,
        )
        if response is None:
            raise Conflict(f"{metadata['namespace']}/{metadata['name']} is gone")
        return slim(response.json())

    async def post_event(self, event: Mapping[str, Any]) -> None:
        """Record an event; one of that name being there already is fine."""
        try:
            await self._ask("POST", EVENT.path(event["metadata"]["namespace"]), json=dict(event))
        except Conflict:
            return

    async def warnings(self, namespace: str, kind: str, name: str) -> list[dict[str, Any]]:
        """Warning events about one object, the newest last."""
        fields = f"involvedObject.kind={kind},involvedObject.name={name},type=Warning"
        events = await self.list_all(EVENT, namespace, fields=fields)
        return sorted(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))

    async def log_tail(self, namespace: str, pod: str, container: str) -> str:
        """The last lines a container wrote; empty where there are none to be had (yet)."""
        parameters = {"container": container, "tailLines": str(LOG_TAIL_LINES), "limitBytes": str(LOG_TAIL_BYTES)}
        try:
            response = await self._ask(
                "GET",
                POD.path(namespace, pod) + "/log",
                params=parameters,
                missing_is_fine=True,
                timeout_s=LOG_TIMEOUT_S,
            )
        except (Refused, Unavailable) as problem:  # a container that is only just starting, a node out of reach
            log.debug("no log of %s/%s: %s", namespace, pod, problem)
            return ""
        return "" if response is None else response.text

    async def send(self, method: str, path: str, document: Mapping[str, Any]) -> None:
        """Any other write of one object."""
        await self._ask(method, path, json=dict(document))

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        missing_is_fine: bool = False,
        timeout_s: float = TIMEOUT_S,
        **request: Any,
    ) -> httpx.Response | None:
        for attempt in (1, 2):
            try:
                client = self._logged_in(anew=attempt == 2)
                response = await self._request(client, method, path, timeout=timeout_s, **request)
            except LoginFailed as problem:  # a file that is just being replaced
                raise Unavailable(str(problem)) from problem
            except (httpx.HTTPError, ssl.SSLError, OSError) as problem:
                raise Unavailable(f"the API server cannot be reached: {problem or type(problem).__name__}") from problem
            if response.status_code != 401:
                break
        if response.status_code == 404 and missing_is_fine:
            return None
        _raise_for(response)
        return response

    async def _request(self, client: httpx.AsyncClient, method: str, path: str, **request: Any) -> httpx.Response:
        begin, code = time.monotonic(), None
        try:
            response = await client.request(method, path, **request)
            code = response.status_code
            return response
        finally:
            self._on_answer(method, path, code, time.monotonic() - begin)

    def _logged_in(self, anew: bool) -> httpx.AsyncClient:
        is_old = time.monotonic() - self._login_time > LOGIN_MAX_AGE_S
        if self._fixed is None and (self._client is None or anew or is_old):
            old, self._client = self._client, _client_of(login())
            if old is not None:
                retiring = asyncio.create_task(_close_later(old))
                self._retiring.add(retiring)
                retiring.add_done_callback(self._retiring.discard)
            self._login_time = time.monotonic()
        assert self._client is not None
        return self._client


def login() -> kopf.ConnectionInfo:
    """The credentials kopf finds: of the kubeconfig KUBECONFIG names, else of the pod's service account.

    Raises:
        LoginFailed: there are none.
    """
    settings = kopf.OperatorSettings()
    try:
        found = kopf.login_with_kubeconfig(settings=settings) or kopf.login_with_service_account(settings=settings)
    except KeyError as problem:
        raise LoginFailed(f"the kubeconfig refers to {problem}, which is not in it") from problem
    except (OSError, kopf.LoginError, ValueError, AttributeError, TypeError, yaml.YAMLError) as problem:
        raise LoginFailed(f"the kubeconfig cannot be used: {problem}") from problem
    if found is None:
        raise LoginFailed("there are no credentials: set KUBECONFIG, or run in a pod with a service account token")
    if not found.server:
        raise LoginFailed("the kubeconfig cannot be used: its cluster has no server")
    return found


def slim(found: dict[str, Any]) -> dict[str, Any]:
    """The object without the book-keeping of field managers, which is half of its size."""
    metadata = {key: value for key, value in found.get("metadata", {}).items() if key != "managedFields"}
    return {**found, "metadata": metadata}


def newest(objects: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of several readings of one name the last: by creation, then by resourceVersion, which is a growing number."""
    if len(objects) == 1:
        return objects[0]
    return max(objects, key=lambda found: (found["metadata"].get("creationTimestamp", ""), version(found)))


def version(found: Mapping[str, Any]) -> int:
    """The resourceVersion as a number, 0 where it is none."""
    text = str(found["metadata"].get("resourceVersion", ""))
    return int(text) if text.isdigit() else 0


def _client_of(info: kopf.ConnectionInfo) -> httpx.AsyncClient:
    try:
        certificates = info.as_ssl_context()
    except (OSError, ValueError) as problem:
        raise LoginFailed(f"the certificates of the kubeconfig cannot be used: {problem}") from problem
    return httpx.AsyncClient(
        base_url=info.server,
        verify=certificates,
        headers=info.as_http_headers(),
        trust_env=False,
        limits=httpx.Limits(max_connections=32, max_keepalive_connections=16),
    )


async def _close_later(client: httpx.AsyncClient) -> None:
    try:
        await asyncio.sleep(TIMEOUT_S)  # its requests in flight are done by then
    finally:
        await client.aclose()


def _raise_for(response: httpx.Response) -> None:
    if response.is_success:
        return
    try:
        document = response.json()
        reason, message = str(document.get("reason", "")), str(document.get("message", ""))
    except ValueError:
        reason, message = "", response.text[:300]
    if response.status_code == 409:
        raise Conflict(message)
    if response.status_code in (401, 408, 429) or response.status_code >= 500:
        raise Unavailable(f"the API server answered {response.status_code} {reason}: {message}")
    raise Refused(response.status_code, reason, message)
