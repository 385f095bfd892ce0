"""A stage on two nodes, with the real Job controller: a rank's failure is one attempt of both, and both start again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tests.harness.objects import Api, wait_for
from tests.harness.outcomes import Evicted, Fail, Run
from tests.harness.pipelines import short
from tests.harness.player import Player, runs_of

from cai_operator.manifests.kinds import JOB, PIPELINE, POD, SERVICE
from cai_operator.names import NODE_LABEL
from cai_operator.observing.endings import rank_of

pytestmark = pytest.mark.usefixtures("operator", "player")

DISK = Fail(1, "the disk is full")
LOST = Fail(1, "Connection reset by peer")


def two_nodes(**settings: Any) -> dict[str, Any]:
    return short(spec={"stages": {"sft": {"nodes": 2, **settings}}})


def ranks(pods: Sequence[dict[str, Any]]) -> list[int]:
    return sorted(map(rank_of, pods))


def test_the_pods_of_all_ranks_start_again_and_that_is_one_attempt(api: Api, player: Player) -> None:
    player.script("sft", DISK, LOST, Run(), Run())
    api.create(PIPELINE, two_nodes())
    wait_for(lambda: player.running("sft"), "both pods of the second attempt", lambda pods: len(pods) == 2)
    # it was Running before, too: the pods may be ahead of what is shown
    second = lambda it: (it["state"], it["attempts"]) == ("Running", 2)  # noqa: E731
    wait_for(lambda: api.node("short", "sft"), "the second attempt to be shown", second)
    labels = {NODE_LABEL: "sft"}
    running = set(player.running("sft"))
    again = [pod for pod in api.list(POD, **labels) if pod["metadata"]["name"] in running]
    assert ranks(again) == [0, 1]
    (job,) = api.list(JOB, **labels)
    # by these names they find each other, those of the second attempt as those of the first
    assert {pod["spec"]["hostname"] for pod in again} == {f"{job['metadata']['name']}-{rank}" for rank in (0, 1)}
    service = api.get(SERVICE, again[0]["spec"]["subdomain"])
    assert service is not None
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)

    player.end("sft")
    api.wait_for_phase("short", "Succeeded")
    assert api.node("short", "sft")["attempts"] == 2
    assert runs_of(player.started)["sft"] == 4


def test_retries_count_attempts_and_not_pods(api: Api, player: Player) -> None:
    player.script("sft", DISK, LOST, LOST, DISK)
    api.create(PIPELINE, two_nodes(retries=1))
    api.wait_for_phase("short", "Failed")
    node = api.node("short", "sft")
    assert (node["attempts"], runs_of(player.started)["sft"]) == (2, 4)
    assert node["reason"] == "RetriesExhausted" or "after 2 attempts" in node["message"]


def test_wrong_input_on_one_rank_stops_all(api: Api, player: Player) -> None:
    player.script("sft", Run(), Fail(2, "train.jsonl, line 3: no field prompt; add it"))
    api.create(PIPELINE, two_nodes())
    status = api.wait_for_phase("short", "Failed")
    assert "train.jsonl, line 3: no field prompt; add it" in status["message"]
    assert runs_of(player.started)["sft"] == 2
    wait_for(
        lambda: [pod for pod in api.list(POD, **{NODE_LABEL: "sft"}) if pod["status"]["phase"] == "Running"],
        "the other rank to be stopped",
        lambda pods: not pods,
    )


def test_an_evicted_rank_costs_no_attempt_of_its_own(api: Api, player: Player) -> None:
    player.script("sft", Evicted(), LOST)
    api.create(PIPELINE, two_nodes(retries=1))
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started)["sft"] == 4
