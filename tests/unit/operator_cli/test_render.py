"""`cai render` shows what the operator would apply: in order, complete, and as kubectl takes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cai_operator.cli import main
from cai_operator.manifests.site import MOUNT, TEXTS
from cai_operator.stages import NODES

EXAMPLES = Path(__file__).parents[3] / "examples"
PIPELINE = """\
apiVersion: cai.dev/v1alpha1
kind: CAIPipeline
metadata: {name: tiny, namespace: team}
spec:
  engine: hf
  models: {base: {pocket: {}}}
"""
CONFIG_MAP = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: rules}
data:
  judge_system_prompt.txt: |
    First.

    Second: {a: b}
"""


def render(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        main(["render", *map(str, argv)])
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


@pytest.fixture
def file(tmp_path):
    def write(text, name="pipeline.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_everything_in_the_order_of_the_graph(file, capsys):
    code, out, _ = render(capsys, file(PIPELINE))
    assert code == 0
    manifests = list(yaml.safe_load_all(out))
    nodes = [manifest["metadata"]["labels"].get("cai.dev/node") for manifest in manifests]
    assert list(dict.fromkeys(nodes)) == [None, *(node.name for node in NODES)]
    assert {manifest["metadata"]["namespace"] for manifest in manifests} == {"team"}
    kinds = {manifest["kind"] for manifest in manifests}
    assert kinds == {"PersistentVolumeClaim", "NetworkPolicy", "ConfigMap", "Service", "Deployment", "Job"}
    assert not any("ownerReferences" in manifest["metadata"] for manifest in manifests)
    assert "# ppo\n" in out
    ppo = [manifest["kind"] for manifest, node in zip(manifests, nodes, strict=True) if node == "ppo"]
    assert ppo == ["Service", "Deployment", "Job"]


def test_twice_is_the_same(file, capsys):
    path = file(PIPELINE)
    assert render(capsys, path) == render(capsys, path)


def test_programs_find_what_the_manifests_lay_out(file, capsys):
    _, out, _ = render(capsys, file(PIPELINE))
    manifests = {(m["kind"], m["metadata"]["name"]): m for m in yaml.safe_load_all(out)}
    texts = {}
    for (kind, name), manifest in manifests.items():
        if kind == "ConfigMap":
            texts[name] = set(manifest["data"])
    for (kind, name), manifest in manifests.items():
        if kind != "Job":
            continue
        for flag in manifest["spec"]["template"]["spec"]["containers"][0]["command"]:
            if flag.startswith(f"{TEXTS}/"):
                assert flag.removeprefix(f"{TEXTS}/") in texts[name]
            host = flag.removesuffix(".team.svc")
            assert host == flag or ("Service", host) in manifests
            assert not flag.startswith("/") or flag.startswith((TEXTS, MOUNT))


@pytest.mark.parametrize("name", ["pocket", "one-gpu", "mistral-7b"])
def test_examples(name, capsys):
    code, out, err = render(capsys, EXAMPLES / f"{name}.yaml")
    assert (code, err) == (0, "")
    assert len(list(yaml.safe_load_all(out))) > 20


def test_flags_that_look_like_numbers_stay_text(file, capsys):
    _, out, _ = render(capsys, EXAMPLES / "pocket.yaml")
    # Python's reader takes 5e-05 for text, kubectl's for a number, which no command may hold
    assert "'5e-05'" in out
    assert "- 5e-05" not in out


def test_config_maps_are_read_from_further_files_and_shown_as_blocks(file, capsys):
    pipeline = file(PIPELINE + "  constitution: {configMap: {name: rules}}\n")
    code, _, err = render(capsys, pipeline)
    assert code == 2
    assert "ConfigMap rules, the constitution, does not exist; give the file with that ConfigMap, too" in err
    code, out, _ = render(capsys, pipeline, file(CONFIG_MAP, "rules.yaml"))
    assert code == 0
    assert "  judge_system_prompt.txt: |\n    First.\n\n    Second: {a: b}\n" in out


def test_a_constitution_on_the_volume_is_not_looked_for_here(file, capsys):
    code, out, _ = render(capsys, file(PIPELINE + "  constitution: {path: principles}\n"))
    assert code == 0
    assert f"{MOUNT}/principles/judge_system_prompt.txt" in out


def test_the_image_by_flag_by_environment_or_by_the_pipeline(file, capsys, monkeypatch):
    path = file(PIPELINE)
    monkeypatch.setenv("CAI_IMAGE_HF", "registry.example/jobs:3")
    assert "image: registry.example/jobs:3\n" in render(capsys, path)[1]
    assert "registry.example" not in render(capsys, path, "--image", "mine:1")[1]
    own = file(PIPELINE + "  image: own:2\n", "own.yaml")
    images = {line.strip() for line in render(capsys, own, "--image", "mine:1")[1].splitlines() if "image: " in line}
    assert images == {"image: own:2"}


def test_what_cannot_be_rendered_is_said(file, capsys):
    path = file(PIPELINE.replace("engine: hf", "engine: nemo"))
    code, _, err = render(capsys, path)
    assert code == 2
    assert f"{path}:" in err
    assert "spec.models.base.pocket" in err
    code, _, err = render(capsys, file(PIPELINE.replace("pocket: {}", "pocket: {}, path: x")))
    assert code == 2
    assert "spec.models.base" in err
