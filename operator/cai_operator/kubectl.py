"""What the `cai` command asks of a cluster, through kubectl: that knows the user's contexts and every kind of login."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from cai_jobs.contract.program import InputError, RetryableError
from cai_operator.api import GROUP, PLURAL

RESOURCE = f"{PLURAL}.{GROUP}"
TIMEOUT_S = 20
MOST_LISTED = 12

INSTALL_KUBECTL = "kubectl is not installed, or not on PATH; a cluster is read through it"
INSTALL_OPERATOR = "install the operator and its resource: kubectl apply -f crds/ -f operator/install/"
NO_CLUSTER = "kubectl has no cluster to talk to: set KUBECONFIG, or give --kubeconfig and --context"
LOG_IN = "kubectl would ask for a login; log in first, such as with: kubectl get ns"


class NoCluster(InputError):
    """There is no kubectl, or it is set up for no cluster."""


@dataclass(frozen=True)
class Target:
    """Which cluster and namespace; None leaves each to kubectl's own configuration."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None

    @property
    def is_given(self) -> bool:
        """Whether any of it was said."""
        return any(self.flags())

    def flags(self) -> list[str]:
        """The flags that say the same to kubectl, and to `cai`."""
        given = {"--namespace": self.namespace, "--context": self.context, "--kubeconfig": self.kubeconfig}
        return [f"{flag}={value}" for flag, value in given.items() if value is not None]


def get_pipeline(name: str, target: Target) -> dict[str, Any]:
    """The CAIPipeline of that name, as the API server has it.

    Raises:
        InputError: there is none, or it may not be read; the sentence says which there are.
        RetryableError: the cluster cannot be reached.
    """
    try:
        document: dict[str, Any] = json.loads(_kubectl(["get", RESOURCE, name, "-o=json"], target))
    except _NotFound:
        raise InputError(_no_such(name, target)) from None
    return document


def annotate(name: str, key: str, value: str, target: Target) -> None:
    """Set an annotation of a pipeline. Raises as `get_pipeline` does."""
    _change(["annotate", RESOURCE, name, f"{key}={value}", "--overwrite"], name, target)


def patch_spec(name: str, fields: Mapping[str, Any], target: Target) -> None:
    """Change fields of a pipeline's spec. Raises as `get_pipeline` does."""
    patch = json.dumps({"spec": dict(fields)})
    _change(["patch", RESOURCE, name, "--type=merge", f"--patch={patch}"], name, target)


class _NotFound(Exception):
    """There is no such object."""


def _change(words: list[str], name: str, target: Target) -> None:
    try:
        _kubectl(words, target)
    except _NotFound:
        raise InputError(_no_such(name, target)) from None


def _kubectl(words: list[str], target: Target) -> str:
    command = ["kubectl", *words, *target.flags(), f"--request-timeout={TIMEOUT_S}s"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError:
        raise NoCluster(INSTALL_KUBECTL) from None
    if done.returncode == 0:
        return done.stdout
    raise problem_of(done.stderr or done.stdout)


def problem_of(said: str) -> Exception:
    sentence = _last_sentence(said)
    if "(NotFound)" in sentence and RESOURCE in sentence:
        return _NotFound()
    if "doesn't have a resource type" in sentence or "could not find the requested resource" in sentence:
        return InputError(f"this cluster does not know CAIPipelines; {INSTALL_OPERATOR}")
    if "localhost:8080" in sentence:
        return NoCluster(NO_CLUSTER)
    if re.search(r"Unable to connect|connection to the server|ServiceUnavailable|Timeout|timed out|deadline", sentence):
        return RetryableError(f"the cluster cannot be reached: {sentence}")
    if sentence in ("EOF", "unexpected EOF") or "standard input" in sentence or "Username" in said:
        return InputError(LOG_IN)
    return InputError(f"kubectl: {sentence or 'failed without a word'}")


def _last_sentence(said: str) -> str:
    """What kubectl says in the end, without its log lines and warnings."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    own = [line for line in lines if not re.match(r"[EWIF]\d{4} |Warning: ", line)]
    sentence = (own or lines or [""])[-1]
    return re.sub(r"^(error: |Error from server |Error )", "", sentence).strip()


def _no_such(name: str, target: Target) -> str:
    """Why that name is not found, and what is there: in the namespace, and elsewhere as far as one may look."""
    namespace = target.namespace or _own_namespace(target)
    there = _names(target, everywhere=False)
    sentence = f"there is no CAIPipeline {name} in namespace {namespace}"
    if near := get_close_matches(name, [known for _, known in there], 1):
        return f"{sentence}; did you mean {near[0]}?"
    elsewhere = [space for space, known in _names(target, everywhere=True) if known == name]
    if elsewhere:
        return f"{sentence}; there is one in {' and '.join(elsewhere[:MOST_LISTED])}: give it with -n"
    if there:
        listed = ", ".join(known for _, known in there[:MOST_LISTED]) + (", …" if len(there) > MOST_LISTED else "")
        return f"{sentence}; there are: {listed}"
    return f"{sentence}, nor any other; see kubectl get {PLURAL} --all-namespaces"


def _names(target: Target, *, everywhere: bool) -> list[tuple[str, str]]:
    """(namespace, name) of the pipelines there are; none where they may not be listed."""
    columns = "-o=custom-columns=NAMESPACE:.metadata.namespace,NAME:.metadata.name"
    scope = Target(None, target.context, target.kubeconfig) if everywhere else target
    words = ["get", RESOURCE, "--no-headers", columns, *(["--all-namespaces"] if everywhere else [])]
    try:
        rows = [line.split() for line in _kubectl(words, scope).splitlines()]
    except (InputError, RetryableError, _NotFound):
        return []
    return [(row[0], row[1]) for row in rows if len(row) == 2]


def _own_namespace(target: Target) -> str:
    try:
        return _kubectl(["config", "view", "--minify", "-o=jsonpath={..namespace}"], target).strip() or "default"
    except (InputError, RetryableError, _NotFound):
        return "default"
