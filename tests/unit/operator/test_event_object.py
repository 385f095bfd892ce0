"""Events about pipelines: what core/v1 asks of them, and names that tell one happening from another."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cai_operator.manifests.event import event_object
from cai_operator.summary import Event

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
FAILED = Event("Warning", "Failed", "sft failed: the disk is full", "sft")


def pipeline(name: str = "tiny", version: str = "17", uid: str = "u1") -> dict[str, Any]:
    metadata = {"name": name, "namespace": "team", "uid": uid, "resourceVersion": version}
    return {"apiVersion": "cai.dev/v1alpha1", "kind": "CAIPipeline", "metadata": metadata}


def test_it_is_about_the_pipeline():
    event = event_object(pipeline(), FAILED, 0, NOW, "operator-1")
    assert event["involvedObject"] == {
        "apiVersion": "cai.dev/v1alpha1",
        "kind": "CAIPipeline",
        "name": "tiny",
        "namespace": "team",
        "uid": "u1",
        "resourceVersion": "17",
    }
    assert event["metadata"]["namespace"] == "team"
    assert (event["type"], event["reason"], event["message"]) == ("Warning", "Failed", "sft failed: the disk is full")
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2026-01-02T03:04:05Z"


def test_what_happened_once_has_one_name_and_all_else_others():
    def name(number: int = 0, **fields: str) -> str:
        return str(event_object(pipeline(**fields), FAILED, number, NOW, "operator-1")["metadata"]["name"])

    others = [name(1), name(version="18"), name(uid="u2"), name(name="tiny2")]
    assert len({name(), *others}) == 5
    assert event_object(pipeline(), FAILED, 0, NOW.replace(year=2027), "operator-2")["metadata"]["name"] == name()


def test_names_are_object_names_for_the_longest_pipeline():
    name = event_object(pipeline("p" * 63), FAILED, 0, NOW, "operator-1")["metadata"]["name"]
    assert len(name) <= 253
    assert name.startswith("p" * 63 + ".")


def test_long_texts_are_cut_to_what_the_api_server_takes_and_whole_characters():
    event = Event("Normal", "R" * 200, "é" * 1000, "sft")
    made = event_object(pipeline(), event, 0, NOW, "i" * 300)
    assert made["message"] == "é" * 512
    odd = event_object(pipeline(), Event("Normal", "Renewed", "x" + "é" * 1000, ""), 0, NOW, "me")["message"]
    assert odd == "x" + "é" * 511
    assert len(made["reason"]) == 128
    assert len(made["reportingInstance"]) == 128
