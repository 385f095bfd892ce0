"""What an installation adds to a pipeline that says nothing itself: the API key of its judge."""

from __future__ import annotations

from typing import TypeVar

from cai_operator.api import CAIPipeline, Spec
from cai_operator.api_base import Judge, PanelJudge, SecretKey
from cai_operator.engines import nemo_data
from cai_operator.engines.hf_options import NGC_URL
from cai_operator.manifests.site import JudgeSecret, Site

AnyJudge = TypeVar("AnyJudge", Judge, PanelJudge)


def with_site_defaults(pipeline: CAIPipeline, site: Site) -> CAIPipeline:
    """The pipeline as this installation runs it; keys of stages are the same."""
    if site.judge_secret is None:
        return pipeline
    return pipeline.model_copy(update={"spec": _with_judge_secret(pipeline.spec, site.judge_secret)})


def _with_judge_secret(spec: Spec, secret: JudgeSecret) -> Spec:
    # engine hf judges by itself unless told otherwise
    judge = nemo_data.judge(spec) if spec.engine == "nemo" else spec.judge
    if judge is None or judge.self_ or judge.pocket is not None:
        return spec
    if judge.panel is not None:
        panel = tuple(_keyed(one, secret) for one in judge.panel)
        return spec.model_copy(update={"judge": judge.model_copy(update={"panel": panel})})
    return spec.model_copy(update={"judge": _keyed(judge, secret)})


def _keyed(judge: AnyJudge, secret: JudgeSecret) -> AnyJudge:
    """The judge with the installation's key, if it is asked where that is for and names none."""
    if judge.api_key_secret is not None or (judge.url or NGC_URL) != secret.url:
        return judge
    return judge.model_copy(update={"api_key_secret": SecretKey(name=secret.name, key=secret.key)})
