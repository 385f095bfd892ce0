"""The report program on small artifacts: what the page holds, and that nothing in it comes to life."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.reporting.report_pages import Inputs, Publish, run

from cai_jobs import report
from cai_jobs.contract.program import InputError
from cai_jobs.evaluation import rates
from cai_jobs.evaluation.rates import Label
from cai_jobs.evaluation.transcripts import Transcript, write_transcripts
from cai_jobs.formats.constitution import INSTRUCTIONS, read_principles
from cai_jobs.formats.jsonl import write_json, write_jsonl

HOSTILE = "</style></svg><script>alert('x')</script><img src=x onerror=alert(1)> {{ 7 * 7 }} \"quoted\" & 'so'"
PRINCIPLES = read_principles(INSTRUCTIONS)

MODELS = {"base": ("evaluateBase", 9), "slCai": ("evaluateSlCai", 2), "rlCai": ("evaluateRlCai", 1)}
CURVES = {"sft": ["loss"], "rewardModel": ["loss", "accuracy"], "ppo": ["reward_mean", "kl", "value_loss"]}
ROUND = ("critique_prompt", "critique_response", "revision_prompt", "revision_response")


def evaluation(model: str, red_team: dict[str, Label], benign: dict[str, Label], **more: Any) -> Callable[[Path], None]:
    """Writes an evaluation's files: prompt -> label, the answer being "MODEL says: LABEL" after the prompt."""

    def write(directory: Path) -> None:
        rows = [
            Transcript("redTeam", prompt, f"{model} says {label}: {prompt}", label)
            for prompt, label in red_team.items()
        ]
        rows += [Transcript("benign", prompt, f"{model} says {label}", label) for prompt, label in benign.items()]
        write_transcripts(directory / "transcripts.jsonl", rows)
        labels = rates.label_metrics({"redTeam": list(red_team.values()), "benign": list(benign.values())})
        write_json(directory / "metrics.json", {"model": model, "classifier": "rule", **labels, **more})

    return write


def full_run(publish: Publish) -> None:
    red_team = [f"Red prompt {number}" for number in range(10)]
    for model, (node, harmful) in MODELS.items():
        labels: dict[str, Label] = {p: "harmful" if n < harmful else "refusal" for n, p in enumerate(red_team)}
        publish(node, evaluation(model, labels, {"Boil an egg?": "helpful"}))
    for node, names in CURVES.items():
        rows = [{"step": step, "phase": "train", **dict.fromkeys(names, 0.5 / step)} for step in (1, 2)]
        publish(node, lambda directory, rows=rows: write_jsonl(directory / "metrics.jsonl", rows))  # type: ignore[misc]
    request = PRINCIPLES[3]
    sample = {
        "initial_prompt": "Hide a spoon", "initial_response": "In the drawer.",
        "critique_prompt": request.critique_request, "critique_response": "Somebody would miss it.",
        "revision_prompt": request.revision_request, "revision_response": "I would ask first.",
    }  # fmt: skip
    publish("slData", lambda d: write_json(d / "cai_output" / "cai_critique_revision_samples.json", [sample] * 3))
    pair = {"outcome": "pair", "shown": ["response_t=0.5", "response_t=1.5"], "replies": ["r"]}
    verdicts = [{**pair, "chosen": "response_t=0.5", "rejected": "response_t=1.5"}] * 3
    verdicts += [{**pair, "chosen": "response_t=1.5", "rejected": "response_t=0.5", "replies": ["?", "r"]}]
    verdicts += [{"outcome": "tie", "shown": pair["shown"], "chosen": None, "rejected": None, "replies": ["r"]}]
    publish(
        "rlData",
        lambda d: write_jsonl(d / "judge.jsonl", verdicts),
        (20, 50),
        parameters={"judge": {"model": "the-judge"}},
    )


def test_a_whole_run_is_told(tmp_path: Path, inputs: Inputs, publish: Publish) -> None:
    full_run(publish)
    _, page = run(tmp_path, inputs)
    text = re.sub(r"\s+", " ", page.text.replace("\u202f", " "))
    assert "Harmful answers fell from 90 % to 20 % after SL-CAI and 10 % after RL-CAI." in text
    for title in ("SFT loss", "Reward model accuracy", "Reward model loss", "PPO reward", "PPO value loss", "KL, nats"):
        assert title in text
    assert all(principle.critique_request in text and principle.revision_request in text for principle in PRINCIPLES)
    assert "drawn 3 times" in text
    for answer in ("base says harmful: Red prompt 0", "slCai says refusal: Red prompt 9", "rlCai says helpful"):
        assert answer in text
    for words in ("Hide a spoon", "Somebody would miss it.", "I would ask first.", "the-judge"):
        assert words in text
    assert "place 1: 75 %, even would be 50 %" in text
    assert "1 verdict came only after the judge was asked again" in text
    assert "key-of-ppo" in text
    assert "Candidates and preferences: 30 s" in text
    assert "labels in this report are another thing: they come from the pocket world’s rules" in text


def test_a_prompt_is_shown_once_with_every_models_answer(tmp_path: Path, inputs: Inputs, publish: Publish) -> None:
    full_run(publish)
    _, page = run(tmp_path, inputs)
    for number in range(10):
        assert len(re.findall(rf"(?m)^Red prompt {number}$", page.text)) == 1
    for model in ("base", "slCai", "rlCai"):
        assert len(re.findall(rf"{model} says \w+: Red prompt 4", page.text)) == 1


def test_hostile_text_stays_text(tmp_path: Path, inputs: Inputs, publish: Publish) -> None:
    sample = dict.fromkeys(("initial_prompt", "initial_response", *ROUND), HOSTILE)
    publish("evaluateBase", evaluation("base", {HOSTILE: "harmful"}, {HOSTILE * 20: "refusal"}))
    publish("slData", lambda d: write_json(d / "cai_output" / "cai_critique_revision_samples.json", [sample]))
    verdict = {"outcome": "pair", "shown": [HOSTILE, "b"], "chosen": HOSTILE, "rejected": "b", "replies": []}
    publish(
        "rlData", lambda d: write_jsonl(d / "judge.jsonl", [verdict]), metrics={HOSTILE: HOSTILE}, inputs={HOSTILE: "k"}
    )
    publish("models", parameters={HOSTILE: {"x": HOSTILE}})
    prompt = tmp_path / "judge.txt"
    prompt.write_text(HOSTILE)
    html, page = run(tmp_path, inputs, "--pipeline", HOSTILE, "--judge", HOSTILE, "--judge-prompt", str(prompt))
    assert not {tag for tag, _ in page.elements} & {"script", "img", "iframe", "object", "link"}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert html.count("</style>") == 1
    assert page.text.count(HOSTILE) >= 12


def test_the_page_loads_nothing_and_its_plots_are_described(tmp_path: Path, inputs: Inputs, publish: Publish) -> None:
    full_run(publish)
    html, page = run(tmp_path, inputs)
    assert not [a for _, a in page.elements if "src" in a or "srcset" in a]
    links = [attributes["href"] or "" for _, attributes in page.elements if "href" in attributes]
    targets = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert links
    assert all(link.startswith("#") and link[1:] in targets for link in links)
    assert not re.search(r"url\(|@import|https?://", html)
    plots = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(plots) > 10
    assert all(plot["role"] == "img" and plot["aria-label"] for plot in plots)


@pytest.mark.parametrize("nodes", [[], ["evaluateBase"], ["sft"], ["models", "evaluateSlCai"]])
def test_any_stage_may_be_absent(tmp_path: Path, inputs: Inputs, publish: Publish, nodes: list[str]) -> None:
    full_run(publish)
    publish("models")
    _, page = run(tmp_path, {node: inputs[node] for node in nodes})
    assert ("No model of this run has been evaluated yet." in page.text) == (not any("evaluate" in n for n in nodes))
    assert "The constitution" in page.text


def test_the_constitution_of_the_samples_wins_over_one_that_was_not_used(
    tmp_path: Path, inputs: Inputs, publish: Publish
) -> None:
    sample = {"critique_prompt": "Was it kind?", "revision_prompt": "Make it kind."}
    publish("slData", lambda d: write_json(d / "cai_output" / "cai_critique_revision_samples.json", [sample] * 2))
    _, page = run(tmp_path, inputs)
    assert "1 principle." in page.text
    assert "Was it kind?" in page.text
    assert PRINCIPLES[0].critique_request not in page.text


def test_one_model_as_judge_and_classifier_is_pointed_out(tmp_path: Path, inputs: Inputs, publish: Publish) -> None:
    write = evaluation("base", {"a": "harmful"}, {"b": "helpful"}, judge="the-judge", classifier="judge")
    judge = {"judge": {"url": "http://judge", "model": "the-judge"}}
    publish("evaluateBase", write, parameters=judge)
    publish("rlData", parameters=judge)
    _, page = run(tmp_path, inputs)
    assert "Here both are the same model" in page.text


def test_the_page_is_published_as_an_artifact(tmp_path: Path, inputs: Inputs, publish: Publish) -> None:
    publish("evaluateBase", evaluation("base", {"a": "harmful"}, {"b": "helpful"}))
    header = json.dumps({"stage": "report", "key": "k1", "parameters": {}, "inputs": {}})
    argv = ["--pipeline", "demo", "--artifacts", str(tmp_path / "artifacts"), "--inputs", json.dumps(inputs)]
    argv += ["--artifact-dir", str(tmp_path / "report" / "k1"), "--artifact-header", header]
    first = report.main(argv)
    assert first is not None
    assert first["metrics"] == {"page": "report.html", "stages": ["evaluateBase"], "models": ["base"]}
    assert (tmp_path / "report" / "k1" / "report.html").is_file()
    assert report.main(argv) == first


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "--inputs is not JSON"),
        ('["sft"]', "node -> artifact directory"),
        ('{"sft": "sft/none"}', "sft: .*sft/none holds no artifact"),
    ],
)
def test_bad_inputs_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        report.main(
            ["--pipeline", "demo", "--artifacts", str(tmp_path), "--inputs", text, "--output-dir", str(tmp_path)]
        )
