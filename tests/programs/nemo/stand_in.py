"""A stand-in for NeMo-Aligner's trainers: their command line, log, files and bad habits, in milliseconds.

python stand_in.py --habit early ... exp_manager.explicit_log_dir=DIR trainer.sft.max_steps=4
"""

from __future__ import annotations

import io
import os
import signal
import sys
import tarfile
import time
from pathlib import Path

NAME = "megatron_gpt_sft"


def settings_of(words: list[str]) -> dict[str, str]:
    """Hydra's overrides on a command line."""
    return dict(word.removeprefix("++").split("=", 1) for word in words if "=" in word and not word.startswith("--"))


def habit(place: Path, name: str) -> Path | None:
    """The file NAME in the first `habits` beside or above a path, by which a test asks for a habit; None without."""
    folder = next((above / "habits" for above in place.parents if (above / "habits").is_dir()), None)
    return folder / name if folder is not None and (folder / name).exists() else None


def hold(place: Path, name: str) -> None:
    """Stay as long as that file is there."""
    while habit(place, name) is not None:
        time.sleep(0.05)


def save_model(path: Path, step: int, whole: bool = True, configuration: str = "a: 1\n") -> None:
    """A .nemo file, by renaming what is in its way as NeMo does."""
    if path.exists():
        version = 1
        while path.with_name(f"{path.stem}-v{version}.nemo").exists():
            version += 1
        path.rename(path.with_name(f"{path.stem}-v{version}.nemo"))
    with tarfile.open(path, "w") as archive:
        for name, content in (
            ("./model_config.yaml", configuration.encode()),
            ("./weights", f"step {step}".encode() * 1000),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    if not whole:
        path.write_bytes(path.read_bytes()[:3000])


def show(step: int, steps: int, figures: str) -> None:
    sys.stderr.write(f"\rTraining steps:  {100 * step // steps}%|##   | {step}/{steps} [00:01<00:03, 1.0s/it{figures}]")
    sys.stderr.flush()


def saved_step(folder: Path) -> int:
    names = [path.name for path in folder.glob("*step=*") if not path.name.endswith("-unfinished")]
    return max((int(name.split("-step=")[1].split("-")[0]) for name in names), default=0)


def main() -> None:
    habits = {word.removeprefix("--habit=") for word in sys.argv if word.startswith("--habit=")}
    settings = settings_of(sys.argv[1:])
    log_dir = Path(settings["exp_manager.explicit_log_dir"])
    steps = int(settings.get("steps", 4))
    folder = log_dir / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    with (log_dir / "starts").open("a") as file:
        file.write(f"{saved_step(folder)}\n")
    if "setting" in habits:
        print("Could not override 'model.optim.lrr'.\nKey 'lrr' is not in struct", file=sys.stderr)
        sys.exit(1)
    if "terminated" in habits:
        signal.signal(signal.SIGTERM, lambda *_: ((log_dir / "asked").write_text("TERM"), os._exit(0)))
        print("ready", flush=True)
        time.sleep(60)
    start = saved_step(folder)
    if start >= steps:  # NeMo-Aligner's trainers leave at once, and write no model
        return
    figures = ""
    for step in range(start, steps):
        show(step, steps, figures)
        if "crash" in habits and step == 2 and start < 2:
            raise RuntimeError("NCCL communicator was aborted")
        if "memory" in habits and step == 2:
            print("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB")
            sys.exit(1)
        if "killed" in habits and step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        # the bar counts a step only when the next one begins, and so never the last
        figures = f", train_loss={2.0 - (step + 1) / 10:.3g}, val_loss={3.0 - (step + 1) / 10:.3g}, train_lr=1e-6"
        show(step, steps, figures)
        if (step + 1) % 2 == 0:
            name = f"{NAME}--val_loss=1.0-step={step + 1}-consumed_samples={step}-ppo_optimization_step=99-epoch=0-last"
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "common.pt").write_text("x")
        if "early" in habits and step == 2 and start < 2:
            return
    if "forgets" in habits:
        return
    time.sleep(0.01)
    model = folder / f"{NAME}.nemo"
    save_model(model, steps, whole="cut" not in habits)
    if "renames" in habits:  # some versions write the new file under the number
        model.rename(folder / f"{NAME}-v3.nemo")
    if "fails-late" in habits:
        sys.exit(139)
    if "hangs" in habits:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("ProcessGroupNCCL destroyed... waiting", flush=True)
        time.sleep(600)


if __name__ == "__main__":
    main()
