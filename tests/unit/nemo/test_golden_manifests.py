"""What the examples of engine nemo render to is what was reviewed against the tutorial (docs/nemo.md)."""

from __future__ import annotations

import re

import pytest
import yaml
from tests.unit.nemo.conftest import settings, workloads
from tests.unit.nemo.golden_manifests import EXAMPLES, HERE, NAMES, golden

from cai_operator.validation import parse_pipeline

DOCS = HERE.parents[2] / "docs" / "nemo.md"


@pytest.mark.parametrize("name", NAMES)
def test_rendered_as_reviewed(name):
    reviewed = (HERE / "golden" / f"{name}.yaml").read_text()
    assert golden(name) == reviewed, (
        "run .venv/bin/python -m tests.unit.nemo.golden_manifests and review the difference"
    )


def test_a_server_on_several_machines_is_reached_at_its_first():
    manifests = list(yaml.safe_load_all(golden("llama-70b-multinode")))
    critic = [each for each in manifests if "ppo-critic" in each["metadata"]["name"]]
    service, peers, group = critic
    assert service["spec"]["selector"]["batch.kubernetes.io/job-completion-index"] == "0"
    assert (peers["spec"]["clusterIP"], peers["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert (group["kind"], group["spec"]["completions"], group["spec"]["completionMode"]) == ("Job", 4, "Indexed")
    pod = group["spec"]["template"]["spec"]
    assert pod["subdomain"] == peers["metadata"]["name"] != service["metadata"]["name"]
    container = pod["containers"][0]
    # other machines' pods do not listen: nothing may restart them for it
    assert "readinessProbe" in container
    assert not {"livenessProbe", "startupProbe"} & set(container)
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment["PET_MASTER_ADDR"] == f"{group['metadata']['name']}-0.{peers['metadata']['name']}"


def test_the_docs_show_what_is_rendered():
    """Every setting the table of docs/nemo.md gives as rendered is rendered for the tutorial's manifest."""
    spec = yaml.safe_load((EXAMPLES / "mistral-7b.yaml").read_text())
    rendered = {re.sub(r"\s", "", part) for each in workloads(parse_pipeline(spec)).values() for part in each.command}
    keys = {part.split("=", 1)[0] for part in rendered}
    rows = [line for line in DOCS.read_text().splitlines() if line.startswith("| `") and line.count("|") == 4]
    assert len(rows) > 60
    for row in rows:
        shown = row.split("|")[2]
        for text in re.findall(r"`([^`]+)`", shown):
            for part in text.split(" "):
                known = part in rendered or ("=…" in part and part.split("=", 1)[0] in keys) or part.endswith("…")
                assert known, f"{part} of {row}"


def test_the_docs_show_every_setting():
    spec = yaml.safe_load((EXAMPLES / "mistral-7b.yaml").read_text())
    found = workloads(parse_pipeline(spec))
    text = DOCS.read_text()
    for name in ("sft", "rewardModel", "ppo", "ppo.critic", "slData.server"):
        for setting in settings(found[name]):
            assert setting.split("=", 1)[0] in text, setting


def test_the_manifest_of_the_page_on_moving_renders():
    page = (DOCS.parent / "moving-to-nemo.md").read_text()
    [manifest] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    found = workloads(parse_pipeline(yaml.safe_load(manifest)))
    told = settings(found["rewardModel"])
    assert {"trainer.num_nodes=2", "model.global_batch_size=256", "model.optim.lr=2e-6"} <= set(told)
    assert {"++model.activations_checkpoint_num_layers=2", "trainer.rm.val_check_interval=50"} <= set(told)
    assert "--" not in found["models"].command
