"""What is believed of a pipeline: watches, answers to own writes and whole readings, in every order they may come."""

from __future__ import annotations

from typing import Any

import pytest

from cai_operator.manifests.kinds import DEPLOYMENT, JOB, PIPELINE, POD, ObjectKind
from cai_operator.snapshot import WATCHED, Key, Snapshot, View, kept

KEY = ("team", "tiny")


def thing(kind: ObjectKind, name: str, uid: str, version: int, made: int = 0) -> dict[str, Any]:
    metadata = {
        "name": name,
        "namespace": KEY[0],
        "uid": uid,
        "resourceVersion": str(version),
        "creationTimestamp": f"2026-01-01T00:00:{made:02}Z",
    }
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}


def job(version: int = 5, uid: str = "j1", name: str = "tiny-sft", made: int = 0) -> dict[str, Any]:
    return thing(JOB, name, uid, version, made)


def pod(version: int = 5, uid: str = "p1") -> dict[str, Any]:
    return thing(POD, f"tiny-sft-{uid}", uid, version)


def pipeline(version: int = 5, uid: str = "tiny1", made: int = 0) -> dict[str, Any]:
    return thing(PIPELINE, KEY[1], uid, version, made)


class Watched:
    """A view, and watches that tell it of events as kopf does: the index first, the handler then."""

    def __init__(self) -> None:
        self.indexes: dict[str, dict[Key, list[dict[str, Any]]]] = {kind.kind: {} for kind in WATCHED}
        self.view = View(self.indexes)

    def event(self, item: dict[str, Any], deleted: bool = False) -> None:
        found = self.indexes[item["kind"]].setdefault(KEY, [])
        found[:] = [other for other in found if other["metadata"]["uid"] != item["metadata"]["uid"]]
        if not deleted:
            found.append(item)
        metadata = item["metadata"]
        self.view.seen_event(KEY, metadata["uid"], int(metadata["resourceVersion"]), deleted)

    def correct(self, *items: dict[str, Any], before: frozenset[str] | None = None) -> None:
        children: dict[str, dict[str, Any]] = {}
        for item in items:
            if item["kind"] != PIPELINE.kind:
                children.setdefault(item["kind"], {})[item["metadata"]["name"]] = item
        own = next((item for item in items if item["kind"] == PIPELINE.kind), None)
        self.view.correct(KEY, Snapshot(own, children), self.view.uids(KEY) if before is None else before)

    def versions(self, kind: ObjectKind = JOB) -> dict[str, int]:
        found = self.view.snapshot(KEY).of(kind)
        return {name: int(item["metadata"]["resourceVersion"]) for name, item in found.items()}


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_what_watches_tell_is_believed(watched):
    watched.event(pipeline())
    watched.event(job())
    watched.event(pod())
    snapshot = watched.view.snapshot(KEY)
    assert snapshot.pipeline == pipeline()
    assert snapshot.of(JOB) == {"tiny-sft": job()}
    assert list(snapshot.every()) == [job()]
    assert snapshot.of(POD) == {"tiny-sft-p1": pod()}
    assert snapshot.of(DEPLOYMENT) == {}
    watched.event(job(6), deleted=True)
    assert watched.versions() == {}


def test_other_pipelines_children_are_not_seen(watched):
    watched.event(job())
    assert watched.view.snapshot(("team", "other")) == Snapshot()
    watched.view.note(("team", "other"), job(uid="j2"))
    assert watched.versions() == {"tiny-sft": 5}


class TestNote:
    """The answer to an own write comes before the event of it, or after."""

    def test_a_new_object_is_there_before_its_event(self, watched):
        watched.view.note(KEY, job())
        assert watched.versions() == {"tiny-sft": 5}
        watched.event(job())
        watched.event(job(6), deleted=True)
        assert watched.versions() == {}

    def test_a_change_counts_before_its_event(self, watched):
        watched.event(job(5))
        watched.view.note(KEY, job(7))
        assert watched.versions() == {"tiny-sft": 7}
        watched.event(job(6))  # of somebody else's change before ours
        assert watched.versions() == {"tiny-sft": 7}
        watched.event(job(8))
        assert watched.versions() == {"tiny-sft": 8}

    def test_an_answer_later_than_its_event_takes_nothing_back(self, watched):
        watched.event(job(9))
        watched.view.note(KEY, job(7))
        assert watched.versions() == {"tiny-sft": 9}
        watched.event(job(10), deleted=True)
        assert watched.versions() == {}

    def test_versions_are_numbers(self, watched):
        watched.event(job(9))
        watched.view.note(KEY, job(10))
        assert watched.versions() == {"tiny-sft": 10}


class TestCorrect:
    """A reading of the API server itself mends what watches lost."""

    def test_what_it_no_longer_has_is_passed_over(self, watched):
        watched.event(pipeline())
        watched.event(job())
        watched.event(job(uid="j2", name="tiny-ppo"))
        watched.correct(pipeline(), job(uid="j2", name="tiny-ppo"))
        assert watched.versions() == {"tiny-ppo": 5}
        watched.event(job(6))  # a late event of before does not bring it back
        assert watched.versions() == {"tiny-ppo": 5}

    def test_what_no_watch_told_of_is_there_until_one_does(self, watched):
        watched.correct(pipeline(), job(5))
        assert watched.versions() == {"tiny-sft": 5}
        watched.event(job(6))
        assert watched.versions() == {"tiny-sft": 6}
        watched.event(job(7), deleted=True)
        assert watched.versions() == {}

    def test_what_it_has_newer_counts(self, watched):
        watched.event(job(5))
        watched.correct(pipeline(), job(8))
        assert watched.versions() == {"tiny-sft": 8}

    def test_what_a_watch_has_newer_counts(self, watched):
        watched.event(job(9))
        watched.correct(pipeline(), job(8))
        assert watched.versions() == {"tiny-sft": 9}

    def test_a_new_reading_replaces_the_last(self, watched):
        watched.correct(pipeline(), job())
        watched.correct(pipeline())
        assert watched.versions() == {}
        watched.event(job())
        watched.correct(pipeline())
        watched.correct(pipeline(), job())
        assert watched.versions() == {"tiny-sft": 5}

    def test_what_came_while_it_was_read_is_not_taken_for_gone(self, watched):
        before = watched.view.uids(KEY)
        watched.event(pod())  # made after the pods were listed, told before the last answer was there
        watched.correct(pipeline(), job(), before=before)
        assert watched.versions(POD) == {"tiny-sft-p1": 5}

    def test_what_went_while_it_was_read_does_not_come_back(self, watched):
        watched.event(job())
        before = watched.view.uids(KEY)
        watched.event(job(6), deleted=True)
        watched.correct(pipeline(), job(), before=before)
        assert watched.versions() == {}

    def test_a_pipeline_that_is_gone_is_passed_over(self, watched):
        watched.event(pipeline())
        watched.correct()
        assert watched.view.snapshot(KEY).pipeline is None


class TestSameName:
    """Several objects of one name: the last one made is meant."""

    def test_a_new_pipeline_counts_though_the_old_ones_end_was_missed(self, watched):
        watched.event(pipeline(9, "tiny1", made=1))
        watched.event(pipeline(8, "tiny2", made=2))
        assert watched.view.snapshot(KEY).pipeline["metadata"]["uid"] == "tiny2"

    def test_made_within_a_second_the_higher_version_tells(self, watched):
        watched.event(pipeline(10, "tiny2", made=1))
        watched.event(pipeline(9, "tiny1", made=1))
        assert watched.view.snapshot(KEY).pipeline["metadata"]["uid"] == "tiny2"

    def test_a_new_job_counts_while_the_old_ones_end_is_on_its_way(self, watched):
        watched.event(job(5, "j1", made=1))
        watched.view.note(KEY, job(9, "j2", made=4))
        assert watched.versions() == {"tiny-sft": 9}
        watched.event(job(8, "j1", made=1), deleted=True)
        assert watched.versions() == {"tiny-sft": 9}


def test_a_forgotten_pipeline_leaves_nothing_behind(watched):
    watched.view.note(KEY, job())
    watched.correct(pipeline(), job())
    watched.view.forget(KEY)
    assert watched.view.snapshot(KEY) == Snapshot()
    assert watched.view._better == {}
    assert watched.view._gone == {}


def test_what_nobody_looks_at_is_not_kept():
    container = {
        "name": "program",
        "image": "jobs:1",
        "resources": {"limits": {"memory": "2Gi"}},
        "command": ["python"],
    }
    pod_spec = {"restartPolicy": "Never", "containers": [container], "volumes": [{"name": "artifacts"}]}
    found = kept({**pod(), "spec": pod_spec, "status": {"phase": "Running"}})
    assert found["metadata"] == pod()["metadata"]
    assert found["status"] == {"phase": "Running"}
    wanted = {"name": "program", "image": "jobs:1", "resources": {"limits": {"memory": "2Gi"}}}
    assert found["spec"] == {"restartPolicy": "Never", "containers": [wanted]}
    found = kept({**job(), "spec": {"parallelism": 2, "suspend": True, "template": {"spec": pod_spec}}})
    assert found["spec"] == {"parallelism": 2, "suspend": True}
    deployment = {**thing(DEPLOYMENT, "tiny-serve", "d1", 5), "spec": {"template": {"spec": pod_spec}}}
    assert kept(deployment) == deployment, "it is compared with what is wanted"


def test_some_kinds_alone(watched: Watched) -> None:
    watched.event(pipeline())
    watched.event(job())
    watched.event(pod())
    watched.view.note(KEY, job(version=7, uid="j2", name="tiny-ppo"))  # its first event is on its way
    watched.view.note(KEY, pod(version=7, uid="p2"))
    found = watched.view.snapshot(KEY, (PIPELINE, POD))
    assert found.pipeline == pipeline()
    assert set(found.of(POD)) == {"tiny-sft-p1", "tiny-sft-p2"}
    assert found.of(JOB) == {}
