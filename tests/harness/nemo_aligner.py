"""The real NeMo-Aligner in an environment of its own: its packages cannot live beside ours (numpy 1, transformers 4).

Only torch, five of its seven gigabytes, is ours: it is the same release, and works with numpy 1 and 2.

`python -m tests.harness.nemo_aligner` finds or makes the environment and prints its Python.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.harness.cache import cache_root, locked, say
from tests.harness.processes import Unavailable

PACKAGES = Path(__file__).parents[1] / "nemo_packages"
LOCK = PACKAGES / "requirements.txt"
READER = PACKAGES / "read_rows.py"
LOCKED_FOR = "3.11"
TORCH = ("torch", "functorch", "triton", "nvidia", "cuda")
FREE_GB = 5

Reading = Mapping[str, Any]


def find_or_make() -> Path:
    """The environment's Python: from the cache, or made into it by one process while the others wait.

    Raises:
        Unavailable: this machine cannot have it, with the reason.
    """
    if sys.platform != "linux" or sysconfig.get_config_var("py_version_short") != LOCKED_FOR:
        raise Unavailable(f"{LOCK.name} of NeMo-Aligner is locked for Python {LOCKED_FOR} on Linux")
    kept = cache_root() / "nemo-aligner"
    directory = kept / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    if not directory.is_dir():
        with locked(kept / "lock"):
            if not directory.is_dir():
                _make(directory)
                for other in kept.iterdir():
                    if other.is_dir() and other != directory:
                        shutil.rmtree(other)
    return directory / "bin" / "python"


def read(readings: Sequence[Reading], scratch: Path) -> list[list[dict[str, Any]]]:
    """What NeMo-Aligner's data set classes make of files: a list of rows for each reading (nemo_packages/read_rows.py).

    Args:
        readings: {"kind": "sft" | "comparisons" | "prompts", "path", "tokenizer", "length"}.
        scratch: a directory to write to, apart from the files: NeMo puts indexes somewhere.
    """
    python = find_or_make()
    question, answer = scratch / "readings.json", scratch / "rows.json"
    question.write_text(json.dumps(readings))
    # nothing of our own environment, in which other versions of the same packages are
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment |= {"PYTHONPATH": str(_torch(scratch / "torch")), "PYTHONNOUSERSITE": "1"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"HF_HOME": str(scratch), "MPLCONFIGDIR": str(scratch)}
    command = [python, READER, question, answer]
    done = subprocess.run(command, env=environment, cwd=scratch, capture_output=True, text=True)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise AssertionError(f"NeMo-Aligner could not read the files:\n{said}")
    rows: list[list[dict[str, Any]]] = json.loads(answer.read_text())
    return rows


def save_tokenizer(source: Path, target: Path) -> Path:
    """A copy of a model's tokenizer that transformers 4 reads, with the same tokens; version 5 has other names."""
    target.mkdir(parents=True)
    shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")
    told = json.loads((source / "tokenizer_config.json").read_text())
    told["tokenizer_class"] = "PreTrainedTokenizerFast"
    told.pop("backend", None)
    extra = told.pop("extra_special_tokens", None)
    if isinstance(extra, list):
        told["additional_special_tokens"] = extra
    (target / "tokenizer_config.json").write_text(json.dumps(told, indent=1))
    return target


def _torch(directory: Path) -> Path:
    """A directory in which another Python finds this environment's torch and nothing else of it."""
    directory.mkdir()
    for found in Path(sysconfig.get_path("purelib")).iterdir():
        if found.name.startswith(TORCH):
            (directory / found.name).symlink_to(found)
    return directory


def _make(directory: Path) -> None:
    free = shutil.disk_usage(directory.parent).free / 1e9
    if free < FREE_GB:
        raise Unavailable(
            f"NeMo-Aligner's packages take {FREE_GB} GB while they are installed, and {directory.parent} has "
            f"{free:.0f} GB free; free some, or set XDG_CACHE_HOME to a larger disk"
        )
    say("installing NeMo-Aligner's packages for the tests (some minutes and 2 GB, once)")
    began = time.monotonic()
    partial = directory.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _run(sys.executable, "-m", "venv", "--without-pip", partial)
    # this environment's pip does the work, so that the other one holds what it needs to read files and no more
    _run(
        sys.executable, "-m", "pip", "--python", partial / "bin" / "python", "install", "--quiet", "--no-cache-dir",
        "--no-deps", "--no-compile", "--requirement", LOCK,
    )  # fmt: skip
    partial.rename(directory)
    say(f"installed in {time.monotonic() - began:.0f} s")


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise Unavailable(
            f"NeMo-Aligner's packages could not be installed ({' '.join(map(str, command[1:3]))}):\n{said}"
        )


if __name__ == "__main__":
    try:
        print(find_or_make())
    except Unavailable as error:
        sys.exit(f"error: {error}")
