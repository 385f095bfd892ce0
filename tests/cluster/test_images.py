"""The images of the operator, of the programs for CPUs and of engine nemo: what is in them, that they run as pods do.

The last is built on a plain Debian in place of NVIDIA's image.
"""

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness import images
from tests.harness.availability import skipped_where_unavailable
from tests.harness.images import Image

FLAVOURS = ("operator", "jobs-cpu", "nemo")
TITLES = {"operator": "cai-operator", "jobs-cpu": "cai-jobs", "nemo": "cai-nemo"}
UID = 10001
PROGRAMS = sorted(
    path.stem
    for path in (images.ROOT / "jobs" / "cai_jobs").glob("*.py")
    if 'if __name__ == "__main__"' in path.read_text()
)

pytestmark = pytest.mark.slow


class Container:
    """An image and its file system, to look into and to run programs in."""

    def __init__(self, image: Image, root: Path) -> None:
        self.image = image
        self.root = root
        self.config = image.config()["config"]
        # in NVIDIA's image `python` is NVIDIA's
        self.python = "/opt/cai/bin/python" if image.flavour == "nemo" else "python"

    def run(self, *words: str, uid: int = UID) -> subprocess.CompletedProcess[str]:
        """Run a program under the restricted level's terms: that user, no other group, a read-only root, only /tmp to
        write to, the image's environment and nothing of ours.
        """
        script = """
            set -e; root=$1; uid=$2; shift 2
            mount --bind "$root" "$root" && mount -o remount,bind,ro "$root"
            mount -t tmpfs tmpfs "$root/tmp" && mount -t proc proc "$root/proc" && mount --bind /dev "$root/dev"
            exec chroot --userspec="$uid:$uid" --groups="$uid" "$root" /usr/bin/env -i "$@"
        """
        command = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script, "sh", str(self.root), str(uid)]
        return subprocess.run([*command, *self.config["Env"], *words], capture_output=True, text=True)

    def files(self) -> Iterator[Path]:
        """Every file and link of the image, as paths from its root."""
        for directory, directories, names in os.walk(self.root):
            here = Path(directory).relative_to(self.root)
            links = [name for name in directories if (self.root / here / name).is_symlink()]
            yield from (here / name for name in [*names, *links])

    def directories(self) -> Iterator[Path]:
        """Every directory of the image, as paths from its root."""
        for directory, directories, _ in os.walk(self.root):
            here = Path(directory).relative_to(self.root)
            yield from (here / name for name in directories if not (self.root / here / name).is_symlink())

    def mode(self, path: Path) -> int:
        """The permissions of a file or directory; none of a link, whose own say nothing."""
        seen = (self.root / path).lstat().st_mode
        return 0 if stat.S_ISLNK(seen) else stat.S_IMODE(seen)


@pytest.fixture(scope="module", params=FLAVOURS)
def container(request: pytest.FixtureRequest) -> Iterator[Container]:
    with skipped_where_unavailable():
        image = images.build(request.param)[request.param]
    with image.mounted() as root:
        yield Container(image, root)


def is_operator(container: Container) -> bool:
    return container.image.flavour == "operator"


def is_nvidias(container: Container) -> bool:
    return container.image.flavour == "nemo"


def test_pods_give_the_whole_command_and_nobody_is_root(container: Container) -> None:
    assert container.config["User"] == f"{UID}:{UID}"
    assert not container.config.get("Entrypoint")
    assert "Healthcheck" not in container.config


def test_labels_say_what_it_is_and_where_it_comes_from(container: Container) -> None:
    labels = {
        name.removeprefix("org.opencontainers.image."): value for name, value in container.config["Labels"].items()
    }
    assert labels["title"] == TITLES[container.image.flavour]
    assert labels["version"] == "0.1.0"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["description"]
    assert labels["source"]
    assert labels["revision"]


def test_settings_of_the_build_stay_out_of_it(container: Container) -> None:
    history = " ".join(step.get("created_by", "") for step in container.image.config()["history"])
    assert "PIP_" not in history
    assert not [entry for entry in container.config["Env"] if "PIP_" in entry]
    assert not [path for path in container.files() if path.name in ("pip.conf", "auth.conf")]


def test_leftovers_of_the_build_stay_out_of_it(container: Container) -> None:
    top = {path.name for path in container.root.iterdir()}
    assert "build" not in top
    assert {path.name for path in (container.root / "opt").iterdir()} == {"cai", "project"}
    assert not [path for path in container.files() if {".git", ".cache"} & set(path.parts)]
    assert not [path for path in container.files() if path.suffix == ".whl" and path.parts[0] != "usr"]
    assert list((container.root / "mnt").iterdir()) == []


def test_only_where_torch_is_needed_we_bring_one(container: Container) -> None:
    done = container.run(container.python, "-c", "import torch")
    assert ("No module named 'torch'" in done.stderr) == (container.image.flavour != "jobs-cpu")
    if is_operator(container):
        heavy = {"torch", "transformers", "numpy", "pyarrow", "nvidia"}
        assert not [path for path in container.files() if heavy & set(path.parts)]


def test_python_code_is_compiled_and_stays_valid(container: Container) -> None:
    sources = [path for path in container.files() if path.suffix == ".py" and path.parts[:2] == ("opt", "project")]
    assert any(path.name == "keys.py" for path in sources)
    for source in sources:
        (compiled,) = (container.root / source.parent / "__pycache__").glob(f"{source.stem}.cpython-*.pyc")
        # bytes 4 to 8 are flags: 1 says "by hash", which no changed time stamp makes stale
        assert compiled.read_bytes()[4:8] == b"\x01\0\0\0", source


def test_nothing_can_be_written_but_temporary_files(container: Container) -> None:
    probe = "import pathlib, tempfile; pathlib.Path('/opt/project/new').touch()"
    assert "Read-only file system" in container.run(container.python, "-c", probe).stderr
    ours = [path for path in container.files() if path.parts[0] != "proc" and lives_as(container.root / path, UID)]
    assert ours == []
    done = container.run(container.python, "-c", "import pathlib; (pathlib.Path.home() / 'new').touch()")
    assert done.returncode == 0, done.stderr


def test_no_program_gives_its_caller_rights(container: Container) -> None:
    found = [path for path in container.files() if container.mode(path) & 0o6000]
    assert found == []
    assert sum(1 for _ in container.files()) > 1000


def test_nothing_is_for_everybody_to_write(container: Container) -> None:
    places = [*container.files(), *container.directories()]
    # where nobody takes away what is another's
    sticky = {path for path in places if container.mode(path) & 0o1000}
    assert {str(path) for path in sticky} <= {"tmp", "var/tmp", "run/lock", "dev/shm"}
    found = [path for path in places if container.mode(path) & 0o002 and path not in sticky]
    assert [path for path in found if path.parts[0] not in ("proc", "dev")] == []
    assert [path for path in container.directories() if lives_as(container.root / path, UID)] == []


def test_package_managers_left_nothing(container: Container) -> None:
    caches = ("var/lib/apt/lists", "var/cache/apt/archives", "root/.cache", "root/.npm", "tmp", "var/tmp")
    left = [path for path in container.files() if str(path).startswith(tuple(f"{cache}/" for cache in caches))]
    assert [path for path in left if path.name != "lock"] == []
    histories = {".bash_history", ".python_history", ".ash_history", ".lesshst", ".wget-hsts", ".viminfo"}
    assert [path for path in container.files() if path.name in histories] == []


def test_nothing_is_there_to_build_with(container: Container) -> None:
    ours = list((container.root / "opt" / "cai").glob("lib/python*/site-packages/*"))
    assert len(ours) > 10
    # setuptools is one of the locked packages: torch and tensorboard ask for it
    assert not {path.name for path in ours} & {"pip", "wheel"}
    if is_nvidias(container):
        return  # its base brings compilers, for kernels that are built when they are first used
    programs = {path.name for path in container.files() if "bin" in path.parts}
    assert "python3" in programs
    assert programs & {"gcc", "g++", "cc", "c++", "ld", "as", "make", "cmake", "git", "curl", "wget", "ssh"} == set()


def lives_as(path: Path, uid: int) -> bool:
    return path.lstat().st_uid == uid


@pytest.mark.parametrize("uid", [UID, 23456])
def test_the_user_has_a_name_whatever_its_number(container: Container, uid: int) -> None:
    done = container.run(container.python, "-c", "import getpass; print(getpass.getuser())", uid=uid)
    assert done.stdout == "cai\n", done.stderr


def test_the_command_and_the_shipped_files_are_there(container: Container) -> None:
    command = ("/opt/cai/bin/python", "-m", "cai_operator.cli") if is_nvidias(container) else ("cai",)
    assert "usage: cai" in container.run(*command, "--help").stdout
    reading = (
        "from importlib.resources import files; data = files('cai_jobs') / 'data';"
        "print((data / 'constitution' / 'judge_system_prompt.txt').is_file(), (data / 'pocket' / 'model').is_dir())"
    )
    assert container.run(container.python, "-c", reading).stdout == "True True\n"


def test_the_operator_starts(container: Container) -> None:
    done = container.run(container.python, "-m", "cai_operator.main", "--help")
    assert done.returncode == 0, done.stderr
    assert "CAI_NAMESPACES" in done.stdout


def test_every_program_starts(container: Container) -> None:
    if is_operator(container):
        pytest.skip("the programs run from the jobs image")
    assert "sft" in PROGRAMS
    for program in PROGRAMS:
        done = container.run(container.python, "-m", f"cai_jobs.{program}", "--help")
        assert done.returncode == 0, f"{program}: {done.stderr}"
        assert "usage:" in done.stdout


def test_the_libraries_work_together(container: Container) -> None:
    if container.image.flavour != "jobs-cpu":
        pytest.skip("what trains is in the jobs image")
    # imports that the programs make late, and one step of arithmetic through OpenBLAS
    probe = (
        "import torch, fastapi, uvicorn, sentencepiece, datasets; from trl import SFTTrainer, RewardTrainer;"
        "from torch.utils.tensorboard import SummaryWriter;"
        "print(float((torch.eye(64) @ torch.ones(64, 64)).sum()), SFTTrainer.__name__, RewardTrainer.__name__)"
    )
    done = container.run("python", "-c", probe)
    assert done.stdout == "4096.0 SFTTrainer RewardTrainer\n", done.stderr


def test_the_generators_libraries_are_there_beside_nvidias_programs(container: Container) -> None:
    if not is_nvidias(container):
        pytest.skip("about the nemo image")
    # what the generators, the data sets' program and the evaluation import late; transformers counts tokens
    probe = (
        "import datasets, huggingface_hub, httpx, numpy, sentencepiece; from importlib.resources import files;"
        "from cai_jobs.generation.lengths import token_counter;"
        "print(token_counter(str(files('cai_jobs') / 'data' / 'pocket' / 'model'), None)('<extra_id_1>User') > 1)"
    )
    done = container.run(container.python, "-c", probe)
    assert done.stdout == "True\n", done.stderr


def test_nothing_of_the_base_is_replaced_in_the_nemo_image(container: Container) -> None:
    if not is_nvidias(container):
        pytest.skip("about the nemo image")
    ours = {"etc/passwd", "etc/group", "etc/ld.so.cache"}
    changed = []
    for name, digest in images.files_of_base("nemo").items():
        path = container.root / name
        kept = path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest
        if not kept and name not in ours and not name.startswith(("var/lib/dpkg/", "var/log/", "var/cache/")):
            changed.append(name)
    assert changed == []
    path = next((entry for entry in container.config["Env"] if entry.startswith("PATH=")), "")
    assert "/opt/cai" not in path
