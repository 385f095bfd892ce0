"""Artifacts stand whole or not at all."""

import json
from pathlib import Path

import pytest

from cai_jobs.contract import artifacts
from cai_jobs.contract.program import InputError, RetryableError

HEADER = json.dumps({"stage": "sft", "key": "k1", "parameters": {"lr": 1}, "inputs": {"slData": "k0"}})


def make(directory: Path, header: str = HEADER) -> dict:
    with artifacts.open_artifact(directory, header, directory, scratch=["journal.jsonl", "checkpoints"]) as artifact:
        assert artifact is not None
        (artifact.path / "model").mkdir()
        (artifact.path / "model" / "weights").write_text("w")
        (artifact.path / "journal.jsonl").write_text("{}\n")
        (artifact.path / "checkpoints").mkdir()
        (artifact.path / "checkpoints" / "big").write_text("x")
        artifact.metrics["loss"] = 0.5
        return artifact.publish()


def test_published_with_manifest_and_without_scratch(tmp_path: Path) -> None:
    target = tmp_path / "p" / "sft" / "k1"
    word = make(target)
    assert sorted(p.name for p in target.rglob("*")) == ["manifest.json", "model", "weights"]
    manifest = artifacts.verify(target)
    assert manifest["inputs"] == {"slData": "k0"}
    assert [entry["path"] for entry in manifest["files"]] == ["model/weights"]
    assert word == artifacts.last_word(manifest)
    assert word["artifact"]["key"] == "k1"
    assert word["metrics"] == {"loss": 0.5}
    assert not target.with_name("k1.partial").exists()


def test_a_whole_artifact_is_not_made_again(tmp_path: Path) -> None:
    make(tmp_path / "k1")
    with artifacts.open_artifact(tmp_path / "k1", HEADER, tmp_path) as artifact:
        assert artifact is None


def test_an_interrupted_writer_leaves_nothing_published_and_is_resumed(tmp_path: Path) -> None:
    with artifacts.open_artifact(tmp_path / "k1", HEADER, tmp_path) as artifact:
        assert artifact is not None
        (artifact.path / "journal.jsonl").write_text("row\n")
    assert artifacts.read(tmp_path / "k1") is None
    with artifacts.open_artifact(tmp_path / "k1", HEADER, tmp_path) as artifact:
        assert artifact is not None
        assert (artifact.path / "journal.jsonl").read_text() == "row\n"


def test_another_key_in_the_same_place_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "k1")
    other = artifacts.open_artifact(tmp_path / "k1", HEADER.replace("k1", "k2"), tmp_path)
    with pytest.raises(InputError, match="holds an artifact of key k1"), other:
        pass


@pytest.mark.parametrize(
    ("header", "why"), [(None, "not JSON"), ("[]", "lacks"), ('{"stage": "x"}', "lacks inputs, key, parameters")]
)
def test_a_wrong_header_is_refused(tmp_path: Path, header: str | None, why: str) -> None:
    with pytest.raises(InputError, match=why), artifacts.open_artifact(tmp_path / "k1", header, tmp_path):
        pass


def test_verify_names_the_damaged_file(tmp_path: Path) -> None:
    make(tmp_path / "k1")
    (tmp_path / "k1" / "model" / "weights").write_text("v")
    with pytest.raises(InputError, match="weights is not what"):
        artifacts.verify(tmp_path / "k1")
    (tmp_path / "k1" / "model" / "weights").unlink()
    with pytest.raises(InputError, match="weights is missing"):
        artifacts.verify(tmp_path / "k1")
    with pytest.raises(InputError, match="is no artifact"):
        artifacts.verify(tmp_path / "nothing")


def test_two_writers_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "LOCK_WAIT_S", 0.0)
    with (
        artifacts.open_artifact(tmp_path / "k1", HEADER, tmp_path),
        pytest.raises(RetryableError, match="another process"),
        artifacts.open_artifact(tmp_path / "k1", HEADER, tmp_path),
    ):
        pass


def test_without_artifact_flags_outputs_go_to_a_plain_directory(tmp_path: Path) -> None:
    with artifacts.open_artifact(None, None, tmp_path / "out") as artifact:
        assert artifact is not None
        (artifact.path / "x").write_text("x")
        artifact.metrics["rows"] = 1
        assert artifact.publish() == {"metrics": {"rows": 1}}
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["x"]


def test_a_program_killed_while_it_digests_keeps_what_it_goes_on_from(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(artifacts, "_describe", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "k1")
    assert (tmp_path / "k1.partial" / "checkpoints" / "big").read_text() == "x"
    assert (tmp_path / "k1.partial" / "journal.jsonl").exists()


def test_a_program_killed_between_manifest_and_rename_is_done(tmp_path, monkeypatch):
    """Its scratch may be half removed: nothing can go on from that, and nothing need."""
    with monkeypatch.context() as patched:
        patched.setattr(artifacts.shutil, "rmtree", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "k1")
    with artifacts.open_artifact(tmp_path / "k1", HEADER, tmp_path, scratch=["checkpoints"]) as artifact:
        assert artifact is None
    assert sorted(p.name for p in (tmp_path / "k1").rglob("*")) == ["manifest.json", "model", "weights"]
    artifacts.verify(tmp_path / "k1")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
