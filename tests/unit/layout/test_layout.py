"""The repository's shape: what a stray file would silently break."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("folder", ["operator", "jobs"])
def test_package_roots_hold_packages_only(folder: str) -> None:
    # operator/__init__.py or a path entry named operator would shadow the standard library's module
    assert list((ROOT / folder).glob("*.py")) == []


def test_the_standard_library_operator_is_still_found_from_the_root() -> None:
    code = "import dataclasses, operator; print(operator.__file__)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert str(ROOT) not in shown


def test_control_plane_and_program_parsers_import_without_heavy_libraries() -> None:
    programs = sorted(path.stem for path in (ROOT / "jobs/cai_jobs").glob("*.py") if path.stem != "__init__")
    assert programs, "no program found"
    code = f"""
import importlib, sys
import cai_operator.cli, cai_operator.plan
for name in {programs!r}:
    importlib.import_module("cai_jobs." + name).build_parser()
heavy = {{"torch", "transformers", "trl", "datasets", "fastapi", "tensorboard"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lock_names_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert "torch==" in text


def test_nemo_aligners_lock_pins_everything_and_leaves_torch_to_ours() -> None:
    lines = (ROOT / "tests" / "nemo_packages" / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins["nemo_aligner"] == "0.7.0"
    assert all(re.fullmatch(r"[\w.]+", version) for version in pins.values())
    assert not {"torch", "triton"} & set(pins)
