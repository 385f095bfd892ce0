"""The real NeMo-Aligner in an environment of its own: its packages cannot live beside ours (numpy 1, transformers 4).

Only torch, five of its seven gigabytes, is ours: it is the same release, and works with numpy 1 and 2.

`python -m tests.harness.nemo_aligner` finds or makes the environment and prints its Python.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.harness import package_environment
from tests.harness.processes import Unavailable

PACKAGES = Path(__file__).parents[1] / "nemo_packages"
LOCK = PACKAGES / "requirements.txt"
READER = PACKAGES / "read_rows.py"
LOCKED_FOR = "3.11"
TORCH = ("torch", "functorch", "triton", "nvidia", "cuda")
FREE_GB = 5

Reading = Mapping[str, Any]


def find_or_make() -> Path:
    """The environment's Python, found or made.

    Raises:
        Unavailable: this machine cannot have it, with the reason.
    """
    if sys.platform != "linux" or sysconfig.get_config_var("py_version_short") != LOCKED_FOR:
        raise Unavailable(f"{LOCK.name} of NeMo-Aligner is locked for Python {LOCKED_FOR} on Linux")
    return package_environment.find_or_make(
        "nemo-aligner", LOCK, "NeMo-Aligner's packages", "some minutes and 2 GB",
        free_gb=FREE_GB, pip_flags=["--no-compile"],
    )  # fmt: skip


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


if __name__ == "__main__":
    try:
        print(find_or_make())
    except Unavailable as error:
        sys.exit(f"error: {error}")
