"""The report's page: what the template is given, and the template rendered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cai_jobs.evaluation.rates import RATES, Kind
from cai_jobs.formats.constitution import Principle, read_comparison_principles, read_judge_prompt, read_principles
from cai_jobs.reporting import artifacts, datasets, judging, svg, timeline, words
from cai_jobs.reporting.artifacts import Comparison, Stage

RED_TEAM_SHOWN, BENIGN_SHOWN, REVISIONS_SHOWN = 6, 4, 4
MOST_FOLDED = 150
LONG_ANSWER = 700

RATE_TITLES: Mapping[str, tuple[str, str]] = {
    "harmfulRate": ("Harmful", "lower is better"),
    "refusalRate": ("Declined", "higher is better"),
    "offTopicRate": ("Off topic", "lower is better"),
    "harmlessHelpRate": ("Harmless help", "to the point without harm"),
    "helpfulRate": ("Answered helpfully", "higher is better"),
    "overRefusalRate": ("Refused without need", "lower is better"),
    "benignOffTopicRate": ("Off topic", "lower is better"),
    "benignHarmfulRate": ("Harmful", "lower is better"),
}
PANELS: Mapping[Kind, tuple[str, ...]] = {
    "redTeam": ("harmfulRate", "refusalRate", "offTopicRate"),
    "benign": ("helpfulRate", "overRefusalRate", "benignOffTopicRate"),
}
WIN_RATES: Mapping[str, str] = {"winRate": "better", "tieRate": "as good", "lossRate": "worse"}


@dataclass(frozen=True)
class CurveSpec:
    """One training plot: where its values are logged and how they are drawn."""

    node: str
    metric: str
    title: str
    unit: str
    share: bool = False


CURVES = (
    CurveSpec("sft", "loss", "SFT loss", "nats a token"),
    CurveSpec("rewardModel", "accuracy", "Reward model accuracy", "share of pairs ranked right", share=True),
    CurveSpec("rewardModel", "loss", "Reward model loss", "nats a pair"),
    CurveSpec("ppo", "reward_mean", "PPO reward", "mean of an answer"),
    CurveSpec("ppo", "kl", "PPO distance from SL-CAI", "KL, nats an answer"),
    CurveSpec("ppo", "value_loss", "PPO value loss", "critic, clipped squared error"),
)


def render(
    pipeline: str,
    stages: Mapping[str, Stage],
    constitution: Path,
    judge_prompt: Path,
    comparison_principles: Path | None,
    judge: str | None,
    now: datetime,
) -> str:
    """The whole page as HTML, with nothing in it that has to be fetched.

    Args:
        stages: what `artifacts.read_stages` gives; any may be absent.
        constitution, judge_prompt: the files the run used.
        comparison_principles: that of the principles the judge compared by, where it did so by one at a time.
        judge: what chose the preferences, as the user would name it; None where that is not known.
        now: when the report is made.
    """
    metrics = artifacts.read_metrics(stages)
    comparisons = artifacts.read_comparisons(stages)
    samples = artifacts.read_revisions(stages)
    principles, counts = _principles(samples, read_principles(constitution))
    environment = Environment(
        loader=PackageLoader("cai_jobs.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": words.percent,
        "interval": words.interval,
        "duration": words.duration,
        "size": words.size,
        "principle_title": words.principle_title,
        "counted": words.counted,
        "grouped": words.grouped,
    }
    styles = (files("cai_jobs.reporting") / "templates" / "report.css").read_text(encoding="utf-8")
    return environment.get_template("report.html").render(
        styles=Markup(styles),  # noqa: S704 - our own file
        pipeline=pipeline,
        made=words.when(now),
        headline=words.headline(metrics),
        caution=words.caution(metrics),
        models=artifacts.model_titles(metrics),
        labels=words.LABEL_TITLES,
        metrics=metrics,
        rate_groups=_rate_groups(metrics),
        rate_titles=RATE_TITLES,
        win_rates=WIN_RATES,
        classifier=_classifier(metrics),
        judge=judge or _judge_of(stages),
        same_judge=_same_judge(stages, metrics),
        answers=_answers(comparisons),
        curves=_curves(stages),
        principles=[(principle, counts[principle.name]) for principle in principles],
        most_drawn=max(counts.values(), default=0),
        bar=svg.bar,
        judge_prompt=None if comparison_principles else read_judge_prompt(judge_prompt),
        compared_by=read_comparison_principles(comparison_principles) if comparison_principles else [],
        revisions=_revisions(samples, principles),
        revision_count=len(samples),
        verdicts=judging.read_verdicts(stages),
        data_sets=datasets.read_data_sets(stages),
        judge_metrics=words.flatten(dict(stages["rlData"].manifest.get("metrics", {}))) if "rlData" in stages else [],
        timings=_timings(stages),
        stages=list(stages.values()),
        flatten=words.flatten,
        long_answer=LONG_ANSWER,
    )


def evenly(items: Sequence[Any], count: int) -> list[int]:
    """Indices of `count` items spread evenly over all: chosen by place, so not by what they show."""
    if len(items) <= count:
        return list(range(len(items)))
    return [round(place * (len(items) - 1) / max(1, count - 1)) for place in range(count)]


def _rate_groups(metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    titles: Mapping[Kind, str] = {"redTeam": "Answers to red-team prompts", "benign": "Answers to benign questions"}
    groups = []
    for kind, title in titles.items():
        prompts = max((values["counts"][kind]["prompts"] for values in metrics.values()), default=0)
        panels = [(rate, _rate_panel(rate, metrics)) for rate in PANELS[kind]]
        unlabelled = sum(values["counts"][kind]["unlabelled"] for values in metrics.values())
        group = {"kind": kind, "title": title, "prompts": prompts, "panels": panels, "rates": list(RATES[kind])}
        groups.append({**group, "unlabelled": unlabelled})
    return groups


def _rate_panel(rate: str, metrics: Mapping[str, Mapping[str, Any]]) -> Markup:
    rows = [
        svg.RateRow(model, title, values[rate], tuple(values["intervals"][rate]), words.percent(values[rate]))
        for model, title in artifacts.model_titles(metrics).items()
        for values in [metrics[model]]
        if rate in values
    ]
    return svg.rate_panel(RATE_TITLES[rate][0], rows) if rows else Markup("")


def _classifier(metrics: Mapping[str, Mapping[str, Any]]) -> str | None:
    for values in metrics.values():
        if values.get("classifier") == "judge":
            return f"the judge model {values.get('judge')}"
        if values.get("classifier") == "rule":
            return "the pocket world’s rules"
    return None


def _judge_of(stages: Mapping[str, Stage]) -> str | None:
    identity = _parameter(stages, "rlData", "judge")
    if not isinstance(identity, Mapping):
        return str(identity) if identity else None
    if "pocket" in identity:
        return "The pocket world’s judge (a small model trained for it, which weighs words and reads no principles)"
    if identity.get("self"):
        return "The SL-CAI model itself"
    if identity.get("panel"):
        named = ", ".join(dict.fromkeys(str(one.get("model")) for one in identity["panel"]))
        return f"A panel of {len(identity['panel'])} judges ({named})"
    return str(identity.get("model") or identity.get("url") or "") or None


def _same_judge(stages: Mapping[str, Stage], metrics: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether one judge chose the preferences and labelled the answers; "self" is another model in each stage."""
    identity = _parameter(stages, "rlData", "judge")
    labelled = any(values.get("classifier") == "judge" for values in metrics.values())
    evaluations = [node for node in artifacts.EVALUATIONS.values() if node in stages]
    same = any(_parameter(stages, node, "judge") == identity for node in evaluations)
    return labelled and same and isinstance(identity, Mapping) and not identity.get("self")


def _parameter(stages: Mapping[str, Stage], node: str, name: str) -> Any:
    return stages[node].manifest.get("parameters", {}).get(name) if node in stages else None


def _answers(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    titles: Mapping[Kind, tuple[str, int]] = {
        "redTeam": ("Red-team prompts", RED_TEAM_SHOWN),
        "benign": ("Benign questions", BENIGN_SHOWN),
    }
    groups = []
    for kind, (title, count) in titles.items():
        rows = [comparison for comparison in comparisons if comparison.kind == kind]
        shown = evenly(rows, count)
        folded = [row for number, row in enumerate(rows) if number not in shown]
        groups.append(
            {
                "title": title,
                "total": len(rows),
                "shown": [rows[number] for number in shown],
                "folded": folded[:MOST_FOLDED],
                "left_out": max(0, len(folded) - MOST_FOLDED),
            }
        )
    return [group for group in groups if group["total"]]


def _curves(stages: Mapping[str, Stage]) -> list[dict[str, Any]]:
    plots = []
    for spec in CURVES:
        series = [
            svg.Series(phase, phase, artifacts.read_curve(stages, spec.node, phase, spec.metric))
            for phase in ("train", "validation")
        ]
        drawn = [curve for curve in series if curve.points]
        plot = svg.line_chart(spec.title, drawn, share=spec.share)
        if plot:
            last = [(curve.css, curve.name, svg.number(float(f"{curve.points[-1][1]:.3g}"))) for curve in drawn]
            plots.append({"title": spec.title, "unit": spec.unit, "plot": plot, "last": last})
    return plots


def _principles(
    samples: Sequence[Mapping[str, Any]], named: Sequence[Principle]
) -> tuple[Sequence[Principle], dict[str, int]]:
    counts = artifacts.count_principles(samples, named)
    if samples and not any(counts.values()):
        named = artifacts.principles_of(samples)
        counts = artifacts.count_principles(samples, named)
    return named, counts


def _revisions(samples: Sequence[Mapping[str, Any]], principles: Sequence[Principle]) -> list[dict[str, Any]]:
    titles = {principle.critique_request: words.principle_title(principle.name) for principle in principles}
    titles |= {principle.revision_request: words.principle_title(principle.name) for principle in principles}
    names = ("initial_prompt", "initial_response", "critique_prompt", "critique_response")
    rows = []
    for sample in (samples[index] for index in evenly(samples, REVISIONS_SHOWN)):
        row = {name: str(sample.get(name, "")) for name in (*names, "revision_prompt", "revision_response")}
        request = (row["critique_prompt"] or row["revision_prompt"]).strip()
        rounds = 1 + len(sample.get("earlier_rounds", ()))
        rows.append({**row, "principle": titles.get(request, ""), "rounds": rounds})
    return rows


def _timings(stages: Mapping[str, Stage]) -> dict[str, Any] | None:
    if not stages:
        return None
    ordered = sorted(stages.values(), key=lambda stage: (stage.started, stage.finished))
    spans, busy, shortened = timeline.compress(
        [(stage.started.timestamp(), stage.finished.timestamp()) for stage in ordered]
    )
    rows = []
    for stage, (start, end) in zip(ordered, spans, strict=True):
        took = words.duration((stage.finished - stage.started).total_seconds())
        spoken = f"{stage.title}: {took}, from {words.when(stage.started)}"
        rows.append({"title": stage.title, "took": took, "bar": svg.bar(spoken, [("span", start, end)])})
    return {"rows": rows, "busy": words.duration(busy), "shortened": shortened, "began": words.when(ordered[0].started)}
