"""The API key of an installation's judge: for judges at its endpoint that name none, and for nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from cai_operator.engines.hf_options import NGC_URL
from cai_operator.manifests.site import JudgeSecret, Site
from cai_operator.plan import node_keys
from cai_operator.site_defaults import with_site_defaults
from cai_operator.validation import parse_pipeline

URL = "https://judge.example/v1/chat/completions"
SECRET = ("judge", "api-key")
OWN = {"name": "own", "key": "k"}


def spec_of(judge: dict[str, Any] | None, engine: str = "hf", url: str = URL) -> Any:
    source: dict[str, Any] = (
        {"pocket": {}} if engine == "hf" else {"huggingFace": {"repo": "mistralai/Mistral-7B-v0.1"}}
    )
    spec = {"engine": engine, "models": {"base": source}, **({} if judge is None else {"judge": judge})}
    document = {"apiVersion": "cai.dev/v1alpha1", "kind": "CAIPipeline", "metadata": {"name": "p"}, "spec": spec}
    return with_site_defaults(parse_pipeline(document), Site(judge_secret=JudgeSecret(*SECRET, url))).spec


def key_of(judge: Any) -> tuple[str, str] | None:
    return None if judge.api_key_secret is None else (judge.api_key_secret.name, judge.api_key_secret.key)


def test_a_judge_at_the_endpoint_gets_it() -> None:
    assert key_of(spec_of({"url": URL, "model": "m"}).judge) == SECRET


@pytest.mark.parametrize(
    ("judge", "key"),
    [
        ({"url": URL, "model": "m", "apiKeySecret": OWN}, ("own", "k")),
        ({"url": URL + "/", "model": "m"}, None),
        ({"url": "http://judge.example/v1/chat/completions", "model": "m"}, None),
        ({"model": "m"}, None),
        ({"self": True}, None),
        ({"pocket": {}}, None),
    ],
)
def test_no_other_does(judge: dict[str, Any], key: tuple[str, str] | None) -> None:
    assert key_of(spec_of(judge).judge) == key


def test_of_a_panel_those_that_are_asked_there() -> None:
    panel = [{"url": URL, "model": "a"}, {"url": "https://other.example/", "model": "a"}]
    panel.append({"url": URL, "model": "b", "apiKeySecret": OWN})  # type: ignore[dict-item]
    assert [key_of(one) for one in spec_of({"panel": panel}).judge.panel] == [SECRET, None, ("own", "k")]


def test_a_pipeline_without_a_judge_needs_none_with_engine_hf() -> None:
    assert spec_of(None).judge is None


def test_the_default_judge_of_engine_nemo_is_nvidias() -> None:
    assert key_of(spec_of(None, "nemo", url=NGC_URL).judge) == SECRET
    assert key_of(spec_of({"model": "m"}, url=NGC_URL).judge) == SECRET


def test_no_stage_gets_another_key_by_it() -> None:
    for judge in (None, {"url": NGC_URL, "model": "m"}):
        # without a Secret engine nemo refuses NVIDIA's endpoint: one of its own to compare with
        own = {**(judge or {}), "apiKeySecret": OWN}
        assert node_keys(spec_of(judge, "nemo", url=NGC_URL), {}) == node_keys(spec_of(own, "nemo"), {})
    given = {"url": URL, "model": "m"}
    assert node_keys(spec_of(given), {}) == node_keys(spec_of(given, url="https://other.example/"), {})


def test_without_one_nothing_changes() -> None:
    document = {"apiVersion": "cai.dev/v1alpha1", "kind": "CAIPipeline", "metadata": {"name": "p"}}
    pipeline = parse_pipeline({**document, "spec": {"engine": "hf", "models": {"base": {"pocket": {}}}}})
    assert with_site_defaults(pipeline, Site()) is pipeline
