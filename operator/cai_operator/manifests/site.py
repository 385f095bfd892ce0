"""What an installation decides, from the operator's settings: images and logins, user, how long finished Jobs stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MOUNT = "/artifacts"
"""Where the pipeline's volume is in every pod."""

TEXTS = "/texts"
"""Where a job finds the texts laid for it."""


@dataclass(frozen=True)
class JudgeSecret:
    """The API key of an installation's judge: a key of a Secret in every pipeline's namespace.

    Attributes:
        url: the only endpoint it is for: no pipeline's manifest can have it sent elsewhere.
    """

    name: str
    key: str
    url: str


@dataclass(frozen=True)
class Site:
    """One installation.

    Attributes:
        images: engine name -> the image of its programs, where neither stage nor spec names one.
        pull_policy: imagePullPolicy where the template does not say; None leaves it to Kubernetes.
        pull_secrets: imagePullSecrets where the template has none: names of Secrets in every pipeline's namespace.
        judge_secret: the API key of judges at its endpoint that name none.
        run_as_user: uid and gid of every pod, and fsGroup; None leaves them to the cluster's admission (OpenShift).
        job_ttl_s: seconds a finished Job stays, for its log.
    """

    images: Mapping[str, str] = field(default_factory=dict)
    pull_policy: str | None = None
    pull_secrets: tuple[str, ...] = ()
    judge_secret: JudgeSecret | None = None
    run_as_user: int | None = 10001
    job_ttl_s: int = 7 * 86400
