"""Watches that lie, an API server that goes and comes, answers that are late, old or errors: the pipeline ends."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from tests.harness.control_plane import ControlPlane
from tests.harness.fault_proxy import FaultProxy, Matcher, Request, is_work, writes_of
from tests.harness.objects import Api, again_and_again, wait_for
from tests.harness.operator_process import OperatorProcess
from tests.harness.outcomes import Run
from tests.harness.pipelines import JOBS, pocket, short
from tests.harness.player import Player, runs_of

from cai_operator.manifests.kinds import DEPLOYMENT, JOB, PIPELINE, POD, ObjectKind

MakeOperator = Callable[..., OperatorProcess]
ONCE_EACH = {"models": 1, "datasets": 1, "slData": 1, "slData/server": 1, "sft": 1}


def is_watch(request: Request) -> bool:
    return request.verb == "watch"


def anything(_: Request) -> bool:
    return True


@pytest.mark.parametrize("kind", [JOB, POD, DEPLOYMENT, PIPELINE], ids=lambda kind: kind.kind)
def test_events_that_never_come(
    api: Api, player: Player, proxy: FaultProxy, make_operator: MakeOperator, kind: ObjectKind
) -> None:
    """Not one event about a kind is delivered, while its watch looks sound: the resync must find what happened."""
    proxy.swallow_events(lambda what, found: found["kind"] == kind.kind and what != "BOOKMARK")
    operator = make_operator(proxy.url, CAI_RESYNC_SECONDS="1")
    operator.start()
    wait_for(lambda: [str(request) for request in proxy.requests if is_watch(request)], "the operator to watch")
    api.create(PIPELINE, short())
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == ONCE_EACH
    wait_for(lambda: not api.list(DEPLOYMENT), "the server to be given up")


def test_a_deletion_that_is_never_told(
    api: Api, player: Player, proxy: FaultProxy, make_operator: MakeOperator
) -> None:
    """The operator believes in a server that is long gone; the resync finds out, and makes it again."""
    player.script("slData", Run())
    proxy.swallow_events(lambda what, _: what == "DELETED")
    make_operator(proxy.url, CAI_RESYNC_SECONDS="1").start()
    api.create(PIPELINE, short())
    player.wait_for_running("slData")
    [server] = api.list(DEPLOYMENT)
    api.delete(DEPLOYMENT, server["metadata"]["name"])
    wait_for(
        lambda: [found["metadata"]["uid"] for found in api.list(DEPLOYMENT)],
        "the server to be made again",
        lambda uids: len(uids) == 1 and uids != [server["metadata"]["uid"]],
    )
    player.end("slData")
    api.wait_for_phase("short", "Succeeded")


def test_watches_that_break_all_the_time(
    api: Api, player: Player, proxy: FaultProxy, own_operator: OperatorProcess
) -> None:
    own_operator.start()
    with again_and_again(proxy.cut_watches):
        api.create(PIPELINE, short())
        api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == ONCE_EACH


def test_a_watch_whose_version_is_gone(
    api: Api, player: Player, proxy: FaultProxy, own_operator: OperatorProcess
) -> None:
    """What an API server says when it no longer knows the version a watch is to go on from."""
    gone = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}
    proxy.answer(200, is_watch, times=30, text=json.dumps({"type": "ERROR", "object": gone}) + "\n")
    own_operator.start()
    api.create(PIPELINE, short())
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == ONCE_EACH


def test_a_watch_that_ends_for_good(api: Api, player: Player, proxy: FaultProxy, own_operator: OperatorProcess) -> None:
    """An answer nobody foresaw: rather than be blind the process ends, and its container is started again."""
    player.script("slData", Run())
    own_operator.start()
    api.create(PIPELINE, short())
    player.wait_for_running("slData")
    proxy.answer(404, lambda request: is_watch(request) and request.resource == "jobs", times=1, reason="NotFound")
    proxy.cut_watches()
    wait_for(lambda: not own_operator.is_running, "the operator to end itself")
    own_operator.start()
    player.end("slData")
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == ONCE_EACH


@pytest.mark.parametrize("graceful", [True, False], ids=["stopped", "killed"])
def test_the_api_server_goes_and_comes(
    api: Api,
    player: Player,
    proxy: FaultProxy,
    own_operator: OperatorProcess,
    control_plane_with_jobs: ControlPlane,
    graceful: bool,
) -> None:
    player.script("slData", Run())
    own_operator.start()
    api.create(PIPELINE, short())
    player.wait_for_running("slData")
    control_plane_with_jobs.restart_apiserver(graceful)
    player.end("slData")
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == ONCE_EACH
    assert own_operator.is_running


@pytest.mark.parametrize(
    ("matches", "troubles"),
    [
        # one after the other: the operator waits longer after each
        (is_work, {409: 2, 500: 2}),
        (is_work, {429: 2, 503: 2}),
        (writes_of("caipipelines/status"), {504: 2, 409: 2}),
        (writes_of("events"), {503: 10, 404: 3}),
        (anything, {503: 40}),
        (anything, {401: 10, 429: 30}),
    ],
    ids=["writes", "writes-too-many", "status", "events", "all", "all-refused"],
)
def test_an_api_server_in_trouble(
    api: Api,
    player: Player,
    proxy: FaultProxy,
    own_operator: OperatorProcess,
    matches: Matcher,
    troubles: dict[int, int],
) -> None:
    for status, times in troubles.items():
        proxy.answer(status, matches, times=times, reason="InternalError", message="try again later")
    own_operator.start()
    api.create(PIPELINE, short())
    api.wait_for_phase("short", "Succeeded")
    assert {request.status for request in proxy.requests} >= set(troubles)
    assert runs_of(player.started) == ONCE_EACH
    assert own_operator.starts == 1
    assert own_operator.is_running


def test_writes_whose_answers_are_lost(
    api: Api, player: Player, proxy: FaultProxy, own_operator: OperatorProcess
) -> None:
    proxy.lose_answers(is_work, times=4)
    own_operator.start()
    api.create(PIPELINE, short())
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == ONCE_EACH


def test_slow_writes(api: Api, player: Player, proxy: FaultProxy, own_operator: OperatorProcess) -> None:
    """While one is under way everything else goes on, and nothing is done twice."""
    proxy.delay(0.5, is_work)
    own_operator.start()
    api.create(PIPELINE, short())
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == ONCE_EACH


@pytest.mark.parametrize("watches", ["watches-tell", "watches-are-silent"])
def test_old_lists_after_a_restart(
    api: Api, player: Player, proxy: FaultProxy, make_operator: MakeOperator, watches: str
) -> None:
    """A replica of the API server that lags behind answers with the past; what succeeded since must not run again."""
    player.script("slData", Run())
    player.script("rlData", Run())
    operator = make_operator(proxy.url, CAI_RESYNC_SECONDS="1")
    operator.start()
    api.create(PIPELINE, pocket())
    player.wait_for_running("slData")
    operator.kill()
    operator.start()  # lists the state of now
    lists_before = wait_for(lambda: _lists_of_start(proxy), "the lists of a start", lambda lists: len(lists) >= 8)
    player.end("slData")
    player.wait_for_running("rlData")
    operator.kill()
    proxy.forget()
    proxy.serve_stale(lists_before)
    if watches == "watches-are-silent":
        proxy.swallow_events(lambda _what, _found: True)
    operator.start()
    player.end("rlData")
    api.wait_for_phase("pocket", "Succeeded")
    jobs_started = {node: count for node, count in runs_of(player.started).items() if not node.endswith("/server")}
    assert jobs_started == dict.fromkeys(JOBS, 1)
    wait_for(
        lambda: [found["metadata"]["name"] for found in api.list(DEPLOYMENT)],
        "only the kept server to stand",
        lambda names: names == ["pocket-serve"],
    )


def test_a_restart_writes_nothing_that_is_there(
    api: Api, player: Player, proxy: FaultProxy, make_operator: MakeOperator
) -> None:
    operator = make_operator(proxy.url, CAI_RESYNC_SECONDS="1")
    operator.start()
    api.create(PIPELINE, pocket())
    api.wait_for_phase("pocket", "Succeeded")
    wait_for(lambda: len(api.list(DEPLOYMENT)) == 1, "the last servers to be given up")
    operator.kill()
    proxy.forget()
    operator.start()
    # each resync reads the pipeline itself
    wait_for(lambda: len([r for r in proxy.requests if (r.verb, r.resource) == ("get", "caipipelines")]) >= 3, "looks")
    assert [str(request) for request in proxy.requests if request.write] == []


def _lists_of_start(proxy: FaultProxy) -> dict[str, bytes]:
    return {key: body for key, body in proxy.recorded_lists().items() if "pipeline=" not in key.replace("%3D", "=")}
