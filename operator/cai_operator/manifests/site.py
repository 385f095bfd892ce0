"""What an installation decides about pods, from the operator's settings: images, user, how long finished Jobs stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MOUNT = "/artifacts"
"""Where the pipeline's volume is in every pod."""

TEXTS = "/texts"
"""Where a job finds the texts laid for it."""


@dataclass(frozen=True)
class Site:
    """One installation.

    Attributes:
        images: engine name -> the image of its programs, where neither stage nor spec names one.
        pull_policy: imagePullPolicy where the template does not say; None leaves it to Kubernetes.
        run_as_user: uid and gid of every pod, and fsGroup; None leaves them to the cluster's admission (OpenShift).
        job_ttl_s: seconds a finished Job stays, for its log.
    """

    images: Mapping[str, str] = field(default_factory=dict)
    pull_policy: str | None = None
    run_as_user: int | None = 10001
    job_ttl_s: int = 7 * 86400
