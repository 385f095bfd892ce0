"""A row more takes places in files and some hundred bytes, never its texts; the benchmark has a million rows."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FEW, MANY = 300, 2300
TEXTS_BYTES = 2000
"""At least so much text every row has."""


def peak_bytes(kind: str, rows: int, directory: Path) -> int:
    directory.mkdir()
    command = [sys.executable, "-m", "tests.unit.generation.flat_memory", kind, str(rows), str(directory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("kind", ["SL", "RL"])
def test_memory_does_not_grow_with_the_texts(tmp_path: Path, kind: str) -> None:
    few, many = (peak_bytes(kind, rows, tmp_path / str(rows)) for rows in (FEW, MANY))
    assert sum(file.stat().st_size for file in (tmp_path / str(MANY)).iterdir()) > MANY * TEXTS_BYTES
    assert (many - few) / (MANY - FEW) < 700
