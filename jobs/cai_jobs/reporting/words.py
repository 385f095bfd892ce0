"""How the report says numbers, times and what changed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

THIN_SPACE = "\u202f"

MODELS: Mapping[str, str] = {"base": "base", "slCai": "SL-CAI", "rlCai": "RL-CAI"}
NODE_TITLES: Mapping[str, str] = {
    "models": "Models",
    "datasets": "Data sets",
    "slData": "Critiques and revisions",
    "sft": "Supervised fine-tuning",
    "rlData": "Candidates and preferences",
    "rewardModel": "Reward model",
    "ppo": "PPO",
    "evaluateBase": "Evaluation of base",
    "evaluateSlCai": "Evaluation of SL-CAI",
    "evaluateRlCai": "Evaluation of RL-CAI",
}
LABEL_TITLES: Mapping[str, str] = {
    "harmful": "harmful",
    "refusal": "refusal",
    "offTopic": "off topic",
    "helpful": "helpful",
}


def percent(share: float | None) -> str:
    """A share as a percentage, with one decimal only where a whole number would hide that it is not 0 or 100."""
    if share is None:
        return "–"
    value = 100 * share
    decimals = 1 if 0 < value < 1 or 99 < value < 100 else 0
    return f"{value:.{decimals}f}{THIN_SPACE}%"


def interval(bounds: Sequence[float] | None) -> str:
    """A confidence interval of a share: "84–96 %"."""
    return f"{100 * bounds[0]:.0f}–{100 * bounds[1]:.0f}{THIN_SPACE}%" if bounds else ""


def duration(seconds: float) -> str:
    """Seconds as a person would say them: "48 s", "3 min 12 s", "5 h 02 min", "2 d 4 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{THIN_SPACE}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}{THIN_SPACE}min {rest:02d}{THIN_SPACE}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}{THIN_SPACE}h {minutes:02d}{THIN_SPACE}min"
    days, hours = divmod(hours, 24)
    return f"{days}{THIN_SPACE}d {hours}{THIN_SPACE}h"


def size(count: float) -> str:
    """Bytes with a decimal unit: "812 B", "4.2 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f}{THIN_SPACE}{unit}" if unit == "B" else f"{count:.1f}{THIN_SPACE}{unit}"
        count /= 1000
    return f"{count:.1f}{THIN_SPACE}TB"


def grouped(count: int) -> str:
    """A number with its thousands apart: "1 234 567"."""
    return f"{count:,}".replace(",", THIN_SPACE)


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 prompt", "20 prompts"."""
    return f"{grouped(count)} {noun}{'' if count == 1 else 's'}"


def when(time: datetime) -> str:
    """A moment to the minute, in its own time zone."""
    return time.strftime("%d %B %Y, %H:%M %Z").lstrip("0").strip()


def principle_title(name: str) -> str:
    """A principle's key as words: "bodily_harm" -> "Bodily harm"."""
    text = name.replace("_", " ").strip()
    return text[:1].upper() + text[1:]


def headline(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """What became of the harmful rate, in one sentence.

    Args:
        metrics: of each evaluated model ("base", "slCai", "rlCai"), in that order, as `evaluate` gives them.
    """
    rated = [(name, values) for name, values in metrics.items() if values.get("harmfulRate") is not None]
    if not rated:
        return "No model of this run has been evaluated yet."
    if len(rated) == 1:
        name, values = rated[0]
        return f"{percent(values['harmfulRate'])} of {MODELS[name]}’s answers to red-team prompts are harmful."
    (_, first), *later = rated
    change = later[-1][1]["harmfulRate"] - first["harmfulRate"]
    steps = [f"{percent(values['harmfulRate'])} after {MODELS[name]}" for name, values in later]
    verb = "fell" if change < 0 else "rose" if change > 0 else "stayed where they were"
    if change == 0:
        return f"Harmful answers {verb}: {percent(first['harmfulRate'])} before, {' and '.join(steps)}."
    return f"Harmful answers {verb} from {percent(first['harmfulRate'])} to {' and '.join(steps)}."


def caution(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """A sentence when the first and the last model's intervals of the harmful rate overlap, else nothing."""
    bounds = [
        values["intervals"]["harmfulRate"]
        for values in metrics.values()
        if "harmfulRate" in values.get("intervals", {})
    ]
    if len(bounds) < 2 or bounds[0][0] > bounds[-1][1] or bounds[-1][0] > bounds[0][1]:
        return ""
    return "The intervals of the first and the last model overlap: so few prompts cannot tell the two apart."


def flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested parameters as (dotted name, text) pairs, in order; lists of plain values stay in one line."""
    if isinstance(value, Mapping) and value:
        return [
            pair for name, inner in value.items() for pair in flatten(inner, f"{prefix}.{name}" if prefix else name)
        ]
    if isinstance(value, list) and not any(isinstance(item, Mapping | list) for item in value):
        return [(prefix, ", ".join(map(str, value)) or "–")]
    if isinstance(value, list):
        return [pair for number, inner in enumerate(value) for pair in flatten(inner, f"{prefix}[{number}]")]
    return [(prefix, "–" if value in (None, {}) else str(value))]
