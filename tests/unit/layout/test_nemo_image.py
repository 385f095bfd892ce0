"""The nemo image's Dockerfile, which cannot be built here on NVIDIA's base: what it says leaves NVIDIA's part alone."""

import re
from pathlib import Path

import pytest
from images.build import DEFAULT, FLAVOURS

from cai_operator.engines.nemo_programs import OWN_PYTHON
from cai_operator.settings import DEFAULT_NEMO_IMAGE

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "images" / "nemo" / "Dockerfile").read_text()
PACKAGES = (ROOT / "images" / "requirements-nemo.txt").read_text()


def instructions(word: str) -> list[str]:
    joined = TEXT.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if re.match(rf"{word}\b", line)]


def test_it_is_built_on_nvidias_image_under_the_name_that_is_rendered() -> None:
    assert instructions("ARG")[0] == "ARG BASE=nvcr.io/nvidia/nemo:24.09"
    assert FLAVOURS["nemo"].tag == DEFAULT_NEMO_IMAGE
    assert "nemo" not in DEFAULT


def test_packages_go_into_our_own_python_alone() -> None:
    installs = [line for line in instructions("RUN") for line in line.split("&&") if re.search(r"pip.* install ", line)]
    assert installs
    for line in installs:
        assert "/opt/tools/bin/python -m pip install" in line or "--python /opt/cai/bin/python" in line, line
    copies = [line.split()[-1] for line in instructions("COPY") if "--from" in line]
    assert copies == ["/opt/cai", "/opt/project"]


def test_the_path_stays_nvidias_and_ours_is_called_by_its_own() -> None:
    last = TEXT[TEXT.rindex("\nFROM ") :]
    assert "PATH=" not in last
    assert OWN_PYTHON == "/opt/cai/bin/python"
    assert "-m venv --without-pip /opt/cai" in TEXT


@pytest.mark.parametrize("package", ["torch", "triton", "trl", "accelerate"])
def test_what_trains_is_nvidias_own(package: str) -> None:
    assert f"\n{package}==" not in PACKAGES


@pytest.mark.parametrize("package", ["transformers", "sentencepiece", "datasets", "huggingface-hub", "httpx"])
def test_what_the_generators_need_is_there(package: str) -> None:
    assert f"\n{package}==" in PACKAGES


def test_it_runs_as_the_other_images_do() -> None:
    other = (ROOT / "images" / "jobs" / "Dockerfile").read_text()
    for word in ("USER 10001:10001", "WORKDIR /tmp", "ENTRYPOINT []"):
        assert word in TEXT
        assert word in other
    labels = re.findall(r"org\.opencontainers\.image\.\w+", other)
    assert re.findall(r"org\.opencontainers\.image\.\w+", TEXT) == labels
