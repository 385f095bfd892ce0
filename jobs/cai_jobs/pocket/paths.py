"""Where the files shipped with the pocket world stand."""

from __future__ import annotations

from pathlib import Path

DATA_DIR = Path(__file__).resolve().parent.parent / "data" / "pocket"
MODEL_DIR = DATA_DIR / "model"
FEW_SHOT_FILE = DATA_DIR / "few_shot_samples.json"
JUDGE_FILE = DATA_DIR / "judge.json"
