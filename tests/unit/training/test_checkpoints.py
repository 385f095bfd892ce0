"""Only sealed checkpoints count, and the newest of them is always there."""

from __future__ import annotations

from pathlib import Path

from cai_jobs.training import checkpoints


def checkpoint(directory: Path, step: int, sealed: bool = True) -> Path:
    path = directory / f"checkpoint-{step}"
    (path / "inner").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights" * step)
    (path / "inner" / "state.json").write_text("{}")
    if sealed:
        checkpoints.seal(path)
    return path


def test_the_newest_is_the_one_of_the_highest_step(tmp_path: Path) -> None:
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 10)
    (tmp_path / "checkpoint-old").mkdir()
    assert checkpoints.newest(tmp_path) == newest
    assert checkpoints.step_of(newest) == 10


def test_there_is_none_where_there_is_no_directory(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path / "missing") is None
    checkpoints.prune(tmp_path / "missing")


def test_torn_checkpoints_are_passed_over(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path, 5)
    checkpoint(tmp_path, 6, sealed=False)
    (checkpoint(tmp_path, 7) / "model.safetensors").write_bytes(b"short")
    (checkpoint(tmp_path, 8) / "inner" / "state.json").unlink()
    (checkpoint(tmp_path, 9) / checkpoints.SEAL).write_text('{"fil')
    assert checkpoints.newest(tmp_path) == whole


def test_pruning_leaves_the_newest_whole_one(tmp_path: Path) -> None:
    checkpoint(tmp_path, 5)
    whole = checkpoint(tmp_path, 6)
    checkpoint(tmp_path, 7, sealed=False)
    checkpoints.prune(tmp_path)
    assert list(tmp_path.iterdir()) == [whole]
    assert checkpoints.is_whole(whole)


def test_pruning_removes_everything_where_nothing_is_whole(tmp_path: Path) -> None:
    checkpoint(tmp_path, 7, sealed=False)
    checkpoints.prune(tmp_path)
    assert list(tmp_path.iterdir()) == []
