"""The files of a finished run of the reinforcement stage's generator, written row by row from its journal.

cai_candidate_dataset.json      [{"prompt", "response_t=<temperature>": answer, ...}, ...], a row each
cai_preference_dataset.json     [{"prompt", "chosen", "rejected", "raw"}, ...], a pair each
judge.jsonl                     {"row", "prompt", ...}: every decision with every reply, for audit
{prefix}_{split}_{kind}_with_chat_prompt.jsonl     for each split: prompts for PPO, comparisons for the reward model
{prefix}_{split}_comparisons_soft_labels.jsonl     where judges gave probabilities: {"row", "principle",
                                                   "probability"} a pair, in the order of the comparisons
blend_{name}_with_{...}.jsonl   prompts and comparisons blended with other sets
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai_jobs.contract.program import InputError
from cai_jobs.formats.chat import USER, Template
from cai_jobs.formats.comparisons import KINDS, Pair, file_name, make_pair
from cai_jobs.formats.jsonl import line_of, write_json_array, written_aside
from cai_jobs.formats.spool import Spool
from cai_jobs.generation import preferences
from cai_jobs.generation.judging.figures import Figures
from cai_jobs.generation.rl import Rows, preference

CANDIDATES, PREFERENCES, AUDIT = "cai_candidate_dataset.json", "cai_preference_dataset.json", "judge.jsonl"
PROBLEMS_SHOWN = 3

Blend = tuple[str, Mapping[str, Mapping[str, list[Path]]]]
"""A name, and split -> kind -> files."""
Labelled = list[Any]
"""[row, preference sample], as the spool gives a pair back."""


@dataclass(frozen=True)
class Plan:
    """What to make of the pairs.

    Attributes:
        directory: where the files go.
        prefix: what the names of prompts and comparisons begin with.
        template: lays prompts and answers out.
        shares: split -> share of the prompts.
        shuffle: whether the seed draws which prompt goes to which split.
        blend: other sets to blend with, or None.
        count: the number of tokens of a text; None keeps texts of any length.
        limit: most tokens of a comparison, twice those of a prompt.
    """

    directory: Path
    prefix: str | None
    template: Template
    shares: Mapping[str, float]
    shuffle: bool
    seed: int
    blend: Blend | None = None
    count: Callable[[str], int] | None = None
    limit: int = 0


def write_outputs(rows: Rows, plan: Plan) -> dict[str, Any]:
    """Write everything and tell the figures: the judge's, and for each split pairs, removedLong and the blends' sizes.

    Raises:
        InputError: there is no pair, or there are fewer prompts than splits.
    """
    write_json_array(plan.directory / CANDIDATES, map(rows.sample, range(len(rows))))
    pairs: Spool[Labelled] = Spool()
    figures: dict[str, Any] = _write_audit(rows, plan.directory / AUDIT, pairs)
    write_json_array(plan.directory / PREFERENCES, (sample for _, sample in pairs))
    if not pairs:
        raise InputError(
            f"no preference pair came of {len(rows)} prompts; {_problems(rows)}. {plan.directory / AUDIT} has every "
            "reply"
        )
    prompts = (sample["prompt"] for _, sample in pairs)
    for split, places in preferences.split_by_prompt(prompts, plan.shares, plan.seed, plan.shuffle).items():
        kept = array("q", (place for place in places if _fits(plan, pairs[place][1])))
        paths = _write_split(plan, split, (pairs[place] for place in kept))
        figures[split] = {"pairs": len(kept), "removedLong": len(places) - len(kept)}
        if plan.blend is not None:
            figures[split] |= _write_blends(plan, plan.blend, split, paths)
    return figures


def blend_file(blend: str, own: str) -> str:
    """The name of a file of ours blended with other sets."""
    return f"blend_{blend}_with_{own}"


def _write_audit(rows: Rows, path: Path, pairs: Spool[Labelled]) -> dict[str, Any]:
    """Write every decision, put the pairs into the spool, and tell the judge's figures."""
    figures = Figures()
    with written_aside(path) as audit:
        for row in range(len(rows)):
            sample = rows.sample(row)
            for decision in rows.decisions(row):
                audit.write(line_of({"row": row, "prompt": sample["prompt"], **decision.as_json()}))
                figures.add(decision)
                found = preference(sample, decision)
                if found is not None:
                    pairs.append([row, found])
    return figures.values()


def _problems(rows: Rows) -> str:
    found: set[str] = set()
    for row in range(len(rows)):
        found.update(decision.problem for decision in rows.decisions(row) if decision.problem)
    return "; ".join(sorted(found)[:PROBLEMS_SHOWN]) or "all were ties"


def _pair(template: Template, sample: Mapping[str, Any]) -> Pair:
    dialogue = [{"role": USER, "content": sample["prompt"]}]
    return make_pair(template, dialogue, sample["chosen"], sample["rejected"])


def _fits(plan: Plan, sample: Mapping[str, Any]) -> bool:
    return plan.count is None or preferences.pair_fits(_pair(plan.template, sample), plan.limit, plan.count)


def _write_split(plan: Plan, split: str, pairs: Iterable[Labelled]) -> dict[str, Path]:
    """Write a split's files in one pass; kind -> path. Several comparisons of a row make one prompt."""
    paths = {kind: plan.directory / file_name(plan.prefix, split, kind) for kind in KINDS}
    labels = plan.directory / "_".join(filter(None, (plan.prefix, split, "comparisons_soft_labels.jsonl")))
    labelled, previous = False, None
    with ExitStack() as stack:
        prompts, comparisons, soft = (
            stack.enter_context(written_aside(path)) for path in (paths["prompts"], paths["comparisons"], labels)
        )
        for row, sample in pairs:
            texts, raw = _pair(plan.template, sample), sample["raw"]
            if row != previous:
                prompts.write(line_of({"text": texts.prompt}))
            comparisons.write(line_of({"text": texts.chosen}) + line_of({"text": texts.rejected}))
            probability = raw.get("probability")
            soft.write(line_of({"row": row, "principle": raw.get("principle"), "probability": probability}))
            labelled, previous = labelled or probability is not None, row
    if not labelled:
        labels.unlink()
    return paths


def _write_blends(plan: Plan, blend: Blend, split: str, own: Mapping[str, Path]) -> dict[str, int]:
    name, files = blend
    figures = {}
    for kind, write in zip(KINDS, (preferences.blend_prompts, preferences.blend_comparisons), strict=True):
        output = plan.directory / blend_file(name, own[kind].name)
        sources = [*files[split][kind], *([own[kind]] if own[kind].stat().st_size else [])]
        figures[f"blended{kind.capitalize()}"] = write(sources, output, plan.seed, _within(plan, kind))
    return figures


def _within(plan: Plan, kind: str) -> Callable[[str], bool]:
    """Whether a text of a kind is short enough for the trainer: a prompt has half the room."""
    count = plan.count
    if count is None:
        return lambda _: True
    most = plan.limit // 2 if kind == "prompts" else plan.limit
    return lambda text: count(text) <= most
