"""The operator's image holds the core install: no torch, no numpy. What it imports of the programs must do without."""

from __future__ import annotations

import subprocess
import sys

from cai_operator.engines.hf_options import PROGRAMS
from cai_operator.engines.nemo_programs import MODELS, WRAPPER

ONLY_JOBS_HAVE = (
    *("torch", "transformers", "trl", "accelerate", "datasets", "huggingface_hub", "sentencepiece", "tensorboard"),
    *("fastapi", "uvicorn", "starlette", "numpy", "safetensors", "tokenizers"),
)

SCRIPT = """
import sys

for name in {absent!r}:
    sys.modules[name] = None
import cai_operator.main, cai_operator.cli
from cai_operator.engines.options import program_parser

for program in {programs!r}:
    program_parser(program)
"""


def test_every_programs_options_are_known_without_its_libraries() -> None:
    programs = sorted({*PROGRAMS.values(), "serve", "serve_critic", "pocket_judge", MODELS, WRAPPER})
    script = SCRIPT.format(absent=ONLY_JOBS_HAVE, programs=programs)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
