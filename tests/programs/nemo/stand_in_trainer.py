"""Stand-in for train_gpt_sft.py and train_reward_model.py, on one machine or, started by torchrun, on several.

    python train_gpt_sft.py exp_manager.explicit_log_dir=DIR model.restore_from_path=FILE ...

Each process reads its share of a step's rows; what all of them read, summed up, is what the model learns.

Habits, as files (`stand_in.habit`): `hold-STAGE` (as long as it is there, stays before step 4), `early-STAGE` (leaves
with 0 after step 2, once, as one whose time is up).
"""

from __future__ import annotations

import sys
from pathlib import Path

from stand_in import habit, hold, save_model, settings_of, show
from stand_in_group import Group
from stand_in_lessons import rows_told, start_of
from stand_in_pair import SAVE_EVERY, Learner

NAMES = {"train_gpt_sft": "megatron_gpt_sft", "train_reward_model": "megatron_gpt"}


def main() -> Group:
    settings = settings_of(sys.argv[1:])
    log_dir, rows = Path(settings["exp_manager.explicit_log_dir"]), rows_told(settings)
    assert rows is not None
    stage = log_dir.parents[1].name
    group = Group()
    learner = Learner(log_dir, start_of(settings), group)
    if learner.step >= rows.steps:  # leaves at once, and writes no model
        return group
    figures = ""
    while learner.step < rows.steps:
        if group.rank == 0:
            show(learner.step, rows.steps, figures)
        if learner.step == 2 and leaves_early(group, log_dir, stage):
            return group
        if learner.step == 3:
            hold(log_dir, f"hold-{stage}")
        learner.learn(str(group.total(rows.share(learner.step, group.rank, group.size))))
        figures = f", train_loss={2.0 / learner.step:.3g}, val_loss={3.0 / learner.step:.3g}, train_lr=1e-6"
        if group.rank == 0:
            show(learner.step - 1, rows.steps, figures)
        if learner.step % SAVE_EVERY == 0:
            learner.save()
    if group.rank == 0:
        model = learner.folder / f"{NAMES[Path(sys.argv[0]).stem]}.nemo"
        save_model(model, int(learner.learnt[:12], 16), configuration=group.configuration)
    return group


def leaves_early(group: Group, log_dir: Path, stage: str) -> bool:
    file = habit(log_dir, f"early-{stage}") if group.rank == 0 else None
    if file is not None:
        file.unlink()
    return group.told("leave" if file is not None else "stay") == ("leave",)


if __name__ == "__main__":
    main().leave()
