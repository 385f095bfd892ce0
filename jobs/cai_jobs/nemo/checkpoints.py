"""What NeMo left on the disk: which step is saved, and which .nemo file is the newest.

Checkpoints are files or directories below `checkpoints/`, on several ranks in `mp_rank_*/` or `tp_rank_*/` there; their
names hold `step=N`, as `checkpoint_callback_params.filename` of every config file has it. While one is written a file
of the same name and `-unfinished` stands beside it. Source: NVIDIA/NeMo, nemo/utils/callbacks/nemo_model_checkpoint.py.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = "checkpoints"
CONFIGURATION = "model_config.yaml"
SAME_TIME_S = 2.0
"""Clocks of file servers and their clients; a file that is this little older was not written before."""

_RANK = re.compile(r"(mp|tp)_rank_\d+.*")
# not the ppo_optimization_step= of the actor's names
_STEP = re.compile(r"(?:^|-)step=(\d+)")
_UNFINISHED = "-unfinished"
_LAST, _FILE = "-last", ".ckpt"


@dataclass(frozen=True)
class Saved:
    """What is saved.

    Attributes:
        step: the newest whole checkpoint's; 0 where there is none.
        model: the newest .nemo file, whatever number it has; None where there is none.
        is_final: whether that file was written after the newest checkpoint.
        size: its bytes; with `written` it tells whether it still grows.
        written: when it was last written.
    """

    step: int
    model: Path | None
    is_final: bool
    size: int = 0
    written: float = 0.0


def look(work: Path, name: str) -> Saved:
    """See what a program with `explicit_log_dir=WORK` and `exp_manager.name=NAME` has saved.

    NeMo renames a .nemo file that is in its way to NAME-vN.nemo and writes NAME.nemo anew; some versions write the new
    one under the number. So the newest counts.
    """
    folder = work / FOLDER
    steps = [(step, path.stat().st_mtime) for step, path in _checkpoints(folder)]
    step = max((step for step, _ in steps), default=0)
    last = max((time for found, time in steps if found == step), default=0.0)
    models = [path for path in folder.glob("*.nemo") if re.fullmatch(rf"{re.escape(name)}(-v\d+)?\.nemo", path.name)]
    if not models:
        return Saved(step, None, False)
    model = max(models, key=lambda path: path.stat().st_mtime)
    state = model.stat()
    return Saved(step, model, state.st_mtime >= last - SAME_TIME_S, state.st_size, state.st_mtime)


def steps(work: Path) -> frozenset[int]:
    """The steps of which there is a whole checkpoint."""
    return frozenset(step for step, _ in _checkpoints(work / FOLDER))


def stands_at(work: Path, step: int) -> bool:
    """Whether a program started now goes on from this step: NeMo goes on from the checkpoint called last, or anew."""
    found = list(_checkpoints(work / FOLDER))
    last = {number for number, path in found if _is_last(path)}
    return last == ({step} if step > 0 else set()) and max((number for number, _ in found), default=0) == step


def roll_back(work: Path, step: int) -> list[str]:
    """Let a program go on from a step it has saved, or from the beginning (0); the names of the checkpoints removed.

    Interrupted, it may be called again. Where the step's checkpoint is not the one called last, it becomes that.
    """
    gone = []
    for found, path in list(_checkpoints(work / FOLDER)):
        if found > step or (found < step and _is_last(path)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            gone.append(path.name)
    kept = [path for found, path in _checkpoints(work / FOLDER) if found == step]
    for folder in {path.parent for path in kept}:
        here = [path for path in kept if path.parent == folder]
        if not any(_is_last(path) for path in here):
            here[0].rename(_as_last(here[0]))
    return sorted(set(gone))


def is_whole(model: Path) -> bool:
    """Whether a .nemo file, a tar archive, ends where it should and holds a model's configuration."""
    try:
        with tarfile.open(model) as archive:
            return any(member.name.rsplit("/", 1)[-1] == CONFIGURATION for member in archive.getmembers())
    except (tarfile.TarError, EOFError, OSError):
        return False


def _checkpoints(folder: Path) -> Iterator[tuple[int, Path]]:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir() and _RANK.fullmatch(path.name):
            yield from ((step, inner) for inner in path.iterdir() if (step := _step_of(folder, inner)) is not None)
        elif (step := _step_of(folder, path)) is not None:
            yield step, path


def _is_last(path: Path) -> bool:
    return path.name.removesuffix(_FILE).endswith(_LAST)


def _as_last(path: Path) -> Path:
    ending = _FILE if path.name.endswith(_FILE) else ""
    return path.with_name(path.name.removesuffix(_FILE) + _LAST + ending)


def _step_of(folder: Path, path: Path) -> int | None:
    found = _STEP.search(path.name)
    if found is None or path.name.endswith((".nemo", _UNFINISHED)):
        return None
    marker = folder / f"{path.name.removesuffix(_FILE)}{_UNFINISHED}"
    return None if marker.exists() else int(found.group(1))
