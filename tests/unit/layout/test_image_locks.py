"""The packages of each image are those of requirements.lock, no more and no less than the image needs."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_images_packages_are_what_the_lock_gives() -> None:
    done = subprocess.run([sys.executable, "images/locks.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_operator_needs_no_torch() -> None:
    packages = (ROOT / "images" / "requirements-operator.txt").read_text()
    assert "kopf==" in packages
    assert "torch" not in packages
    assert "numpy" not in packages
