"""The operator's settings: environment variables to one frozen object, read once at start-up."""

from __future__ import annotations

import math
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cai_jobs.contract.program import InputError
from cai_operator.api_base import CONFIG_KEY_PATTERN, OBJECT_NAME_PATTERN, URL_PATTERN
from cai_operator.engines.hf_options import NGC_URL
from cai_operator.manifests.site import JudgeSecret, Site

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
PULL_POLICIES = ("Always", "IfNotPresent", "Never")
SERVICE_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT|PORT)(_|$)")
"""What Kubernetes sets in every container for a Service in its namespace, one named cai-something included."""
DEFAULT_IMAGE = "cai-jobs:dev"
DEFAULT_NEMO_IMAGE = "cai-nemo:dev"
MOST_WHOLE = 2**31 - 1
"""What Kubernetes takes for a uid and for a Job's time to live."""


@dataclass(frozen=True)
class Settings:
    """How one operator process works.

    Attributes:
        namespaces: namespaces whose pipelines it serves; empty: all.
        site: what it decides about pods.
        resync_s: how often every pipeline is compared with what the API server itself says, watches apart.
        progress_s: least seconds between two looks at a running program's log, and two status writes for progress only.
        workers: pipelines worked on at a time.
        log_format: text or json.
        log_level: debug, info, warning or error.
        liveness_port: port of the health endpoint /healthz; 0: none.
        metrics_port: port of the Prometheus endpoint /metrics; 0: none.
        lease_namespace, lease_name: the Lease that lets one of several operators work.
        identity: who holds the Lease.
    """

    namespaces: tuple[str, ...] = ()
    site: Site = field(default_factory=Site)
    resync_s: float = 300.0
    progress_s: float = 10.0
    workers: int = 8
    log_format: Literal["text", "json"] = "text"
    log_level: str = "info"
    liveness_port: int = 8080
    metrics_port: int = 9090
    lease_namespace: str = "default"
    lease_name: str = "cai-operator"
    identity: str = "cai-operator"


VARIABLES: Mapping[str, str] = {
    "CAI_NAMESPACES": "namespaces to serve, separated by commas; default: all",
    "CAI_IMAGE_HF": f"image of the hf engine's programs; default: {DEFAULT_IMAGE}",
    "CAI_IMAGE_NEMO": f"image of the nemo engine's programs; default: {DEFAULT_NEMO_IMAGE}",
    "CAI_IMAGE_PULL_POLICY": "Always, IfNotPresent or Never; default: Kubernetes' own",
    "CAI_IMAGE_PULL_SECRETS": "pull secrets of pods whose template names none, separated by commas; default: none",
    "CAI_JUDGE_SECRET": "API key, as SECRET:KEY, of judges at CAI_JUDGE_URL that name no Secret; default: none",
    "CAI_JUDGE_URL": "the one endpoint CAI_JUDGE_SECRET is for; default: NVIDIA's",
    "CAI_RUN_AS_USER": "uid of all pods; 'none' leaves it to the cluster; default: 10001",
    "CAI_JOB_TTL_SECONDS": "how long finished Jobs stay; default: 604800 (a week)",
    "CAI_RESYNC_SECONDS": "how often every pipeline is compared with the API server; default: 300",
    "CAI_PROGRESS_SECONDS": "how often progress is read and written; default: 10",
    "CAI_WORKERS": "pipelines worked on at a time; default: 8",
    "CAI_LOG_FORMAT": "text or json; default: text",
    "CAI_LOG_LEVEL": "debug, info, warning or error; default: info",
    "CAI_LIVENESS_PORT": "port of /healthz, 0 for none; default: 8080",
    "CAI_METRICS_PORT": "port of Prometheus' /metrics, 0 for none; default: 9090",
    "CAI_LEASE_NAMESPACE": "namespace of the Lease; default: the operator's own",
    "CAI_LEASE_NAME": "name of the Lease; another for an operator of other namespaces; default: cai-operator",
    "CAI_IDENTITY": "name under which the Lease is held; default: the host's",
}
"""Every variable and what it sets."""


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of an environment.

    Raises:
        InputError: a variable has a value it cannot have, or has no meaning here.
    """
    unknown = [name for name in sorted(environment) if name.startswith("CAI_") and name not in VARIABLES]
    unknown = [name for name in unknown if not name.startswith("CAI_TEST_") and not SERVICE_LINK.search(name)]
    if unknown:
        raise InputError(f"{', '.join(unknown)}: no such setting; there are {', '.join(VARIABLES)}")
    images = {
        "hf": environment.get("CAI_IMAGE_HF") or DEFAULT_IMAGE,
        "nemo": environment.get("CAI_IMAGE_NEMO") or DEFAULT_NEMO_IMAGE,
    }
    user = environment.get("CAI_RUN_AS_USER", "10001")
    site = Site(
        images=images,
        pull_policy=_one_of(environment, "CAI_IMAGE_PULL_POLICY", PULL_POLICIES, "") or None,
        pull_secrets=tuple(_names(environment, "CAI_IMAGE_PULL_SECRETS")),
        judge_secret=_judge_secret(environment),
        run_as_user=None if user == "none" else _whole(environment, "CAI_RUN_AS_USER", 10001, least=1),
        job_ttl_s=_whole(environment, "CAI_JOB_TTL_SECONDS", 7 * 86400, least=60),
    )
    return Settings(
        namespaces=tuple(_names(environment, "CAI_NAMESPACES")),
        site=site,
        resync_s=_number(environment, "CAI_RESYNC_SECONDS", 300, least=1),
        progress_s=_number(environment, "CAI_PROGRESS_SECONDS", 10, least=0.1),
        workers=_whole(environment, "CAI_WORKERS", 8, least=1),
        log_format="json" if _one_of(environment, "CAI_LOG_FORMAT", LOG_FORMATS, "text") == "json" else "text",
        log_level=_one_of(environment, "CAI_LOG_LEVEL", LOG_LEVELS, "info"),
        liveness_port=_whole(environment, "CAI_LIVENESS_PORT", 8080, least=0, most=65535),
        metrics_port=_whole(environment, "CAI_METRICS_PORT", 9090, least=0, most=65535),
        lease_namespace=environment.get("CAI_LEASE_NAMESPACE") or _own_namespace(),
        lease_name=environment.get("CAI_LEASE_NAME") or "cai-operator",
        identity=environment.get("CAI_IDENTITY") or f"{socket.gethostname()}-{os.getpid()}",
    )


def _names(environment: Mapping[str, str], name: str) -> list[str]:
    """Names of objects, separated by commas, each once."""
    found = [each.strip() for each in environment.get(name, "").split(",")]
    for each in filter(None, found):
        if not re.fullmatch(OBJECT_NAME_PATTERN, each):
            raise InputError(f"{name}: {each!r} is no name of an object")
    return [each for each in dict.fromkeys(found) if each]


def _judge_secret(environment: Mapping[str, str]) -> JudgeSecret | None:
    text, url = environment.get("CAI_JUDGE_SECRET") or "", environment.get("CAI_JUDGE_URL") or NGC_URL
    if not re.match(URL_PATTERN, url):
        raise InputError(f"CAI_JUDGE_URL: {url!r} is no http or https address")
    name, colon, key = text.partition(":")
    if not text:
        return None
    if not colon or not re.fullmatch(OBJECT_NAME_PATTERN, name) or not re.fullmatch(CONFIG_KEY_PATTERN, key):
        raise InputError(f"CAI_JUDGE_SECRET: {text!r} is not SECRET:KEY, such as ngc:api-key")
    return JudgeSecret(name, key, url)


def _one_of(environment: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str) -> str:
    value = environment.get(name) or default
    if value and value not in allowed:
        raise InputError(f"{name}: {value!r} is none of {', '.join(allowed)}")
    return value


def _number(environment: Mapping[str, str], name: str, default: float, least: float) -> float:
    text = environment.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{name}: {text!r} is no number") from None
    if not math.isfinite(value):
        raise InputError(f"{name}: {text!r} is no number to reckon with")
    if value < least:
        raise InputError(f"{name}: {text} is below {least:g}")
    return value


def _whole(environment: Mapping[str, str], name: str, default: int, least: int, most: int = MOST_WHOLE) -> int:
    text = environment.get(name) or str(default)
    try:
        value = int(text)
    except ValueError:
        raise InputError(f"{name}: {text!r} is no whole number") from None
    if not least <= value <= most:
        raise InputError(f"{name}: {text} is not between {least} and {most}")
    return value


def _own_namespace() -> str:
    try:
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"
