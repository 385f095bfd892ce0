"""What a fork server of the tests has imported before it is asked for a program (tests/harness/forked_program.py)."""

from __future__ import annotations

import gc
import importlib
import os

LIGHT = ("aiohttp", "cai_operator.main", "cai_operator.cli", "cai_operator.local", "cai_jobs.generate_sl_cai_dataset",
         "cai_jobs.generate_rl_cai_dataset")  # fmt: skip
HEAVY = ("trl", "cai_jobs.training.trainers", "cai_jobs.training.fit", "cai_jobs.inference.model", "cai_jobs.ppo.actor",
         "cai_jobs.ppo.actor_setup", "transformers.models.llama.modeling_llama")  # fmt: skip

# each program begins with one thread, and may take more once it knows its own environment
os.environ["OMP_NUM_THREADS"] = "1"
gc.disable()
for name in (*LIGHT, *HEAVY):
    importlib.import_module(name)
gc.freeze()
gc.enable()
