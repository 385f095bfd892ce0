from __future__ import annotations

import pytest

from cai_jobs.contract.program import InputError
from cai_operator.manifest_files import read_manifests

PIPELINE = "apiVersion: cai.dev/v1alpha1\nkind: CAIPipeline\nmetadata: {name: mine}\nspec: {}\n"
CONFIG_MAP = "kind: ConfigMap\nmetadata: {name: principles}\ndata:\n  judge_system_prompt.txt: |\n    Be fair.\n"


def write(tmp_path, *texts):
    paths = []
    for number, text in enumerate(texts):
        paths.append(tmp_path / f"{number}.yaml")
        paths[-1].write_text(text)
    return paths


def test_a_pipeline_and_config_maps_are_gathered_from_documents_and_files(tmp_path):
    second = CONFIG_MAP.replace("principles", "more")
    found = read_manifests(write(tmp_path, f"---\n{CONFIG_MAP}---\n{PIPELINE}---\n", second + "---\nkind: Secret\n"))
    assert found.pipeline["metadata"] == {"name": "mine"}
    assert found.where == f"{tmp_path / '0.yaml'}:8"
    assert found.config_maps == {
        "principles": {"judge_system_prompt.txt": "Be fair.\n"},
        "more": {"judge_system_prompt.txt": "Be fair.\n"},
    }


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("kind: CAIPipeline\nspec: [1, 2\nmetadata: {}\n", 3, "not YAML"),
        ("kind: CAIPipeline\nspec:\n\tengine: hf\n", 3, "not YAML"),
        ("kind: CAIPipeline\nspec:\n  seed: 1\n  seed: 2\n", 4, "the key seed is given twice"),
        ("- 1\n- 2\n", 1, "a mapping with apiVersion"),
        ("\n\nspec: {}\n", 3, "no kind is given"),
        ("kind: ConfigMap\nmetadata: {name: a}\ndata: {k: 3}\n", 1, "data.k of ConfigMap a is to be text"),
        ("kind: ConfigMap\ndata: {}\n", 1, "metadata.name of the ConfigMap is missing"),
        (CONFIG_MAP + "---\n" + CONFIG_MAP, 7, "there is a ConfigMap principles already"),
        ("kind: !!python/object:os.system {}\n", 1, "not YAML"),
    ],
)
def test_a_mistake_is_told_with_file_and_line(tmp_path, text, line, sentence):
    (path,) = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_manifests([path])
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert sentence in str(caught.value)


def test_there_is_exactly_one_pipeline(tmp_path):
    with pytest.raises(InputError, match="no document of kind CAIPipeline"):
        read_manifests(write(tmp_path, CONFIG_MAP))
    with pytest.raises(InputError, match=r"0.yaml:1 and .*1.yaml:1: 2 CAIPipelines; give one"):
        read_manifests(write(tmp_path, PIPELINE, PIPELINE))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: no such file"):
        read_manifests([tmp_path / "none.yaml"])
    with pytest.raises(InputError, match="is a directory"):
        read_manifests([tmp_path])
    (tmp_path / "latin.yaml").write_bytes(b"kind: \xe9t\xe9\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_manifests([tmp_path / "latin.yaml"])
