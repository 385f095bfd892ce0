"""Where the servers of a node's job are reached; the same for both engines."""

from __future__ import annotations

from typing import Any

from cai_operator import names
from cai_operator.api import Server
from cai_operator.engines.run import Run

JUDGE_PORT = 5998


def server_address(run: Run, role: str) -> tuple[str, int]:
    """Host and port at which the job of this node reaches its server of that role."""
    return run.places.address_of(run.server_name(role), _port(run, role))


def model_server_address(run: Run) -> dict[str, Any]:
    """The options by which the job of this node reaches every replica of its model's server."""
    port = server_settings(run).port
    addresses = [run.places.address_of(name, port) for name in replica_names(run)]
    host, port = addresses[0]
    if len(addresses) > 1:
        host = ",".join(f"{host}:{port}" for host, port in addresses)
    return {"host": host, "port": port}


def replica_names(run: Run) -> list[str]:
    """The names of the workloads of this node's model server: of one for all replicas, or of one for each."""
    apart = server_settings(run).replicas if run.places.replicas_apart else 1
    return [names.replica_name(run.server_name("server"), place) for place in range(apart)]


def replicas_each(run: Run) -> int:
    """How many replicas each of those workloads has."""
    return 1 if run.places.replicas_apart else server_settings(run).replicas


def server_settings(run: Run) -> Server:
    """The settings of the model server of this node's job."""
    stages = run.pipeline.spec.stages
    by_node = {"slData": stages.sl_data.server, "rlData": stages.rl_data.server}
    return by_node.get(run.node.name, stages.evaluate.server)


def _port(run: Run, role: str) -> int:
    if role == "judge":
        return JUDGE_PORT
    if role == "critic":
        return run.pipeline.spec.stages.ppo.critic.port
    return server_settings(run).port
