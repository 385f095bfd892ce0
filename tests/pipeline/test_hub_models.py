"""The whole loop on models in hub format, data files as their publishers lay them out and a judge of the user's."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from cai_jobs.contract import artifacts

pytestmark = pytest.mark.slow

THINGS = ("tea", "bread", "a plant", "the weather", "a bridge", "the museum", "a cake", "an umbrella")
ANSWERS = {"tokens_to_generate": 12}
TRAINING = {
    "max-steps": 2, "global-batch-size": 4, "micro-batch-size": 4, "max-seq-length": 384, "val-check-interval": 2,
    "limit-val-batches": 2,
}  # fmt: skip
MANIFEST: dict[str, Any] = yaml.safe_load("""
apiVersion: cai.dev/v1alpha1
kind: CAIPipeline
metadata: {name: hub}
spec:
  engine: hf
  models: {base: {path: model}}
  datasets:
    redTeam: {path: hh/red-team-attempts}
    helpfulness: {path: sft.jsonl}
    preference: {path: hh}
  constitution: {path: texts}
  stages:
    datasets: {heldOut: 2}
    slData: {numExamples: 4, batchSize: 4, maxSeqLength: 384}
    sft: {}
    rlData: {numExamples: 5, temperatures: [0.5, 1.5], maxSeqLength: 384}
    rewardModel: {}
    ppo:
      overrides: {max-steps: 1, num-rollout-samples: 4, rollout-micro-batch-size: 4, global-batch-size: 4,
                  micro-batch-size: 4, max-length: 160, max-new-tokens: 8, validation-samples: 2}
      critic: {overrides: {global-batch-size: 4, micro-batch-size: 4}}
    evaluate: {overrides: {tokens-to-generate: 8}}
""")


@pytest.fixture
def judge_url() -> Iterator[str]:
    """A judge behind the OpenAI chat API: the first candidate shown is better, long answers are refusals."""

    class Judge(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = body["messages"][-1]["content"]
            verdict = {"chosen": 1, "rejected": 2}
            if question.endswith("Label:"):
                verdict = {"label": "harmful" if len(question) % 2 else "refusal"}
            elif question.endswith("Better:"):
                verdict = {"better": "first"}
            reply = json.dumps({"choices": [{"message": {"role": "assistant", "content": json.dumps(verdict)}}]})
            self.send_response(200 if body["model"] == "stand-in" else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply.encode())

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Judge) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/chat/completions"
        server.shutdown()


def write_inputs(directory: Path, model: Path) -> None:
    """Lay out model, data sets and constitution beside the manifest; the data in Anthropic's and NeMo's forms."""
    (directory / "model").symlink_to(model)
    for folder in ("red-team-attempts", "helpful-base"):
        (directory / "hh" / folder).mkdir(parents=True)
    attempts = [
        {
            "min_harmlessness_score_transcript": 0.5,
            "num_params": "52B",
            "model_type": "plain lm",
            "rating": 2.0,
            "transcript": f"\n\nHuman: How do I hide {thing}?\n\nAssistant: Why?\n\nHuman: So.\n\nAssistant: No.",
            "tags": None,
        }
        for thing in THINGS
    ]
    with gzip.open(directory / "hh" / "red-team-attempts" / "red_team_attempts.jsonl.gz", "wt") as file:
        json.dump(attempts, file)
    for split, count in (("train", 6), ("test", 2)):
        with gzip.open(directory / "hh" / "helpful-base" / f"{split}.jsonl.gz", "wt") as file:
            for thing in THINGS[:count]:
                start = f"\n\nHuman: Tell me of {thing}.\n\nAssistant: Gladly.\n\nHuman: In {split}?\n\nAssistant:"
                file.write(json.dumps({"chosen": f"{start} It is good.", "rejected": f"{start} Hm."}) + "\n")
    with (directory / "sft.jsonl").open("w") as file:
        for thing in THINGS:
            turns = [("User", f"What is {thing}?"), ("Assistant", "A good thing.")]
            conversation = [{"from": role, "value": text, "label": None} for role, text in turns]
            file.write(json.dumps({"system": "", "mask": "User", "conversations": conversation}) + "\n")
    (directory / "texts").mkdir()
    principle = {"prompt": ["\n\nCritiqueRequest: Kind?\n\nCritique:"], "edit_request": "\n\nRevisionRequest: Kinder."}
    samples = [[{"role": "User", "content": "Where is tea?"}, {"role": "Assistant", "content": "There."}]]
    texts = {
        "critique_revision_instructions.json": json.dumps({"kind": principle}),
        "few_shot_samples.json": json.dumps({"samples": samples}),
        "judge_system_prompt.txt": "Prefer the kinder answer.",
    }
    for name, text in texts.items():
        (directory / "texts" / name).write_text(text)


@pytest.mark.parametrize("style", ["llama", "mistral", "qwen2"])
def test_every_program_takes_a_model_of_this_style(
    style: str, make_pipeline: Callable[..., Any], tiny_model_dir: Callable[[str], Path], judge_url: str
) -> None:
    pipeline = make_pipeline(MANIFEST)
    pipeline.manifest["spec"]["judge"] = {"url": judge_url, "model": "stand-in"}
    is_evaluated = style == "llama"  # the servers of an evaluation are those that have answered before it
    pipeline.stages["evaluate"]["enabled"] = is_evaluated
    has_template = style == "mistral"  # the others' dialogues are laid out by the generator
    pipeline.stages["slData"]["overrides"] = {**ANSWERS, "apply_chat_template": not has_template}
    pipeline.stages["rlData"]["overrides"] = ANSWERS
    for stage in ("sft", "rewardModel"):
        pipeline.stages[stage]["overrides"] = TRAINING
    write_inputs(pipeline.directory, tiny_model_dir(style))

    code, output = pipeline.run("--parallel", "2")
    assert code == 0, output
    assert pipeline.processes() == {}
    nodes = pipeline.nodes()
    assert nodes["slData"]["metrics"]["caiRows"] == 4
    assert nodes["rlData"]["metrics"]["pairs"] > 0
    if is_evaluated:
        metrics = nodes["evaluate"]["metrics"]
        assert set(metrics) >= {"base", "slCai", "rlCai"}
        assert metrics["rlCai"]["counts"]["redTeam"]["unlabelled"] == 0
    for stage in ("sft", "rewardModel", "ppo"):
        artifacts.verify(pipeline.artifact(stage))
        config = json.loads((pipeline.artifact(stage) / "model" / "config.json").read_text())
        assert config["model_type"] == style
