"""Every child of a pipeline, in the order to apply them, and where its programs find things on a cluster."""

from __future__ import annotations

import posixpath
from typing import Any

from cai_operator.api import CAIPipeline
from cai_operator.manifests.job import job, peers_service
from cai_operator.manifests.network_policy import internal_policy, kept_server_policy
from cai_operator.manifests.server import server, server_group, server_service
from cai_operator.manifests.site import MOUNT, TEXTS, Site
from cai_operator.manifests.texts_config_map import texts_config_maps
from cai_operator.manifests.volume_claim import volume_claim
from cai_operator.places import Places
from cai_operator.workloads import Kind, Workload


def places_of(pipeline: CAIPipeline) -> Places:
    """How the cluster lays things out: the volume at one path in every pod, servers by their Services' names."""
    return Places(
        artifacts=MOUNT,
        texts_of=lambda _workload: TEXTS,
        address_of=lambda server_name, port: (f"{server_name}.{pipeline.metadata.namespace}.svc", port),
        path_of=_below_mount,
    )


def shared_children(pipeline: CAIPipeline, site: Site) -> tuple[dict[str, Any], ...]:  # noqa: ARG001 - as its neighbour
    """What all workloads of a pipeline need: the volume's claim, unless the spec names one, and the NetworkPolicies."""
    claims = () if pipeline.spec.storage.claim_name is not None else (volume_claim(pipeline),)
    return (*claims, internal_policy(pipeline), kept_server_policy(pipeline))


def workload_children(pipeline: CAIPipeline, workload: Workload, site: Site) -> tuple[dict[str, Any], ...]:
    """The objects of one workload, what it refers to first, its Job or Deployment last."""
    if workload.kind == Kind.SERVER and workload.nodes > 1:
        services = (server_service(pipeline, workload), peers_service(pipeline, workload))
        return (*services, server_group(pipeline, workload, site))
    if workload.kind == Kind.SERVER:
        return (server_service(pipeline, workload), server(pipeline, workload, site))
    peers = (peers_service(pipeline, workload),) if workload.nodes > 1 else ()
    return (*texts_config_maps(pipeline, workload), *peers, job(pipeline, workload, site))


def _below_mount(path: str) -> str:
    """A path of the manifest, on the pipeline's volume: "a/b", "/a/b" and MOUNT + "/a/b" are one. None leads out."""
    absolute = "/" + posixpath.normpath(f"/{path}").lstrip("/")
    if path.startswith("/") and f"{absolute}/".startswith(f"{MOUNT}/"):
        return absolute
    return f"{MOUNT}{absolute}".rstrip("/")
