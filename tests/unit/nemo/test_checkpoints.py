"""What is read off NeMo's files: the step that is saved, and the newest model whatever its number."""

from __future__ import annotations

import io
import os
import tarfile

import pytest

from cai_jobs.nemo import checkpoints


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / checkpoints.FOLDER
    made.mkdir()
    return made


def model(path, time, whole=True):
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("./model_config.yaml")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"a: 1"))
        weights = tarfile.TarInfo("./weights")
        weights.size = 40000
        archive.addfile(weights, io.BytesIO(b"x" * 40000))
    if not whole:
        path.write_bytes(path.read_bytes()[:20000])
    os.utime(path, (time, time))


@pytest.mark.parametrize(
    ("names", "step"),
    [
        ([], 0),
        (["megatron_gpt_sft--val_loss=0.9-step=50-consumed_samples=6400-epoch=0.ckpt"], 50),
        (["megatron_gpt-step=10-consumed_samples=5120-ppo_optimization_step=80-epoch=0-val_global_rewards=1.0"], 10),
        (["megatron_gpt-step=5", "megatron_gpt-step=15-last", "megatron_gpt-step=10"], 15),
        (["megatron_gpt-step=5.ckpt", "megatron_gpt-step=10.ckpt", "megatron_gpt-step=10-unfinished"], 5),
        (["mp_rank_00/megatron_gpt-step=20.ckpt", "mp_rank_01/megatron_gpt-step=20.ckpt"], 20),
        (["tp_rank_00_pp_rank_000/x--val_loss=1.0-step=7-last.ckpt"], 7),
        (["megatron_gpt-step=9.nemo", "notes.txt"], 0),
    ],
)
def test_the_saved_step(tmp_path, folder, names, step):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    assert checkpoints.look(tmp_path, "megatron_gpt").step == step


def test_before_anything_is_there(tmp_path):
    assert checkpoints.look(tmp_path / "nothing", "m") == checkpoints.Saved(0, None, False)


def test_the_newest_model_counts_and_other_names_do_not(tmp_path, folder):
    model(folder / "megatron_gpt.nemo", 100)
    model(folder / "megatron_gpt-v1.nemo", 300)
    model(folder / "megatron_gpt-v2.nemo", 200)
    model(folder / "megatron_gpt_sft.nemo", 400)
    model(folder / "megatron_gpt-version.nemo", 500)
    assert checkpoints.look(tmp_path, "megatron_gpt").model == folder / "megatron_gpt-v1.nemo"


def test_a_model_older_than_the_last_checkpoint_is_not_final(tmp_path, folder):
    model(folder / "m.nemo", 100)
    (folder / "m-step=5.ckpt").write_text("x")
    os.utime(folder / "m-step=5.ckpt", (200, 200))
    assert not checkpoints.look(tmp_path, "m").is_final
    os.utime(folder / "m.nemo", (201, 201))
    assert checkpoints.look(tmp_path, "m").is_final


def test_a_whole_file_is_told_from_a_cut_one(folder):
    model(folder / "a.nemo", 1)
    model(folder / "b.nemo", 1, whole=False)
    (folder / "c.nemo").write_text("nothing of the kind")
    assert [checkpoints.is_whole(folder / f"{name}.nemo") for name in "abcd"] == [True, False, False, False]


def saved(folder, *names):
    """Checkpoints as directories, or as files where the name says so."""
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if name.endswith((".ckpt", "-unfinished")):
            path.write_text(name)
        else:
            path.mkdir()
            (path / "common.pt").write_text(name)


def there(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*step=*"))


@pytest.mark.parametrize(
    ("names", "step", "left"),
    [
        # NeMo goes on from the checkpoint called last alone: the one that is gone back to must be that
        (["m-step=2", "m-step=4", "m-step=4-last"], 2, ["m-step=2-last"]),
        (["m-step=2", "m-step=4", "m-step=4-last"], 4, ["m-step=2", "m-step=4", "m-step=4-last"]),
        (["m-step=2", "m-step=4", "m-step=4-last"], 0, []),
        # killed between its two saves of a step
        (["m-step=2", "m-step=2-last", "m-step=4"], 4, ["m-step=2", "m-step=4-last"]),
        (["m-step=2", "m-step=2-last", "m-step=4"], 2, ["m-step=2", "m-step=2-last"]),
        (["m-step=2.ckpt", "m-step=4-last.ckpt"], 2, ["m-step=2-last.ckpt"]),
        (
            [f"mp_rank_0{rank}/{name}.ckpt" for rank in (0, 1) for name in ("m-step=2", "m-step=4", "m-step=4-last")],
            2,
            ["mp_rank_00/m-step=2-last.ckpt", "mp_rank_01/m-step=2-last.ckpt"],
        ),
    ],
)
def test_going_back_to_a_step(tmp_path, folder, names, step, left):
    saved(folder, *names)
    was_there = checkpoints.stands_at(tmp_path, step)
    gone = checkpoints.roll_back(tmp_path, step)
    assert there(folder) == left
    assert checkpoints.stands_at(tmp_path, step)
    assert was_there == (sorted(names) == left)
    assert checkpoints.roll_back(tmp_path, step) == [], f"{gone} are gone already"


def test_what_is_kept_is_what_was_saved(tmp_path, folder):
    saved(folder, "m-step=2", "m-step=4", "m-step=4-last")
    checkpoints.roll_back(tmp_path, 2)
    assert (folder / "m-step=2-last" / "common.pt").read_text() == "m-step=2"


def test_steps_saved_whole(tmp_path, folder):
    assert checkpoints.steps(tmp_path / "nothing") == frozenset()
    saved(folder, "m-step=2", "m-step=4-last", "m-step=6-last", "m-step=6-last-unfinished")
    assert checkpoints.steps(tmp_path) == {2, 4}
    assert not checkpoints.stands_at(tmp_path, 2)
    assert checkpoints.stands_at(tmp_path, 4)
