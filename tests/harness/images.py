"""The project's images, built without a registry: Debian's bases by debootstrap, then our own Dockerfiles by buildah.

`python -m tests.harness.images [operator] [jobs-cpu] [jobs] [nemo]` builds them and prints where their archives are.

In the cache each flavour has one directory a recipe (Dockerfile, locked packages, base), which holds buildah's storage
and the archives: a changed source adds a last thin layer to what is there, a changed recipe starts anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images.build import FLAVOURS
from tests.harness.binaries import install
from tests.harness.cache import cache_root, locked, say
from tests.harness.processes import Unavailable

ROOT = Path(__file__).parents[2]
SOURCES = ("operator/cai_operator", "jobs/cai_jobs")
FILES = (".dockerignore", "pyproject.toml", "README.md", "LICENSE")
KEPT = 2
# in the place of NVIDIA's image, on Debian's torch; its files are below tests/
STAND_INS = (
    "cluster/nemo/Dockerfile",
    "cluster/nemo/torchrun",
    "programs/nemo/stand_in*.py",
    "harness/stand_in_texts.py",
)


@dataclass(frozen=True)
class Base:
    """A minimal Debian that stands in for a registry's image."""

    suite: str
    packages: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return _digest([*self.packages])


PYTHON = Base("bookworm", ("ca-certificates", "python3", "python3-venv"))
PYTHON_OF_TRIXIE = "python3.13"
# stands in for NVIDIA's image as far as the build goes: a distribution without Python, but with a package python3.11
NVIDIAS = Base("bookworm", ("ca-certificates",))
BASES = {"operator": PYTHON, "jobs": PYTHON, "jobs-cpu": Base("trixie"), "nemo": NVIDIAS}
# what a cold build takes with two cores
DURATIONS = {
    "operator": "half a minute",
    "jobs": "six minutes and 15 GB of disk",
    "jobs-cpu": "four minutes",
    "nemo": "two minutes",
}


@dataclass(frozen=True)
class Image:
    """A built image: its full name, and the archive to import it from (`ctr -n k8s.io images import FILE`)."""

    flavour: str
    reference: str
    archive: Path

    def config(self) -> dict[str, Any]:
        """The image's configuration document: `config`, `history`, `rootfs`."""
        with tarfile.open(self.archive) as archive:

            def document(name: str) -> Any:
                member = archive.extractfile(name)
                assert member
                return json.load(member)

            return dict(document(document("manifest.json")[0]["Config"]))

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """The image's file system, read-only in effect: what is written there goes when the context ends."""
        store = Store(self.archive.parent)
        with locked(_cache() / "lock"):
            reference = store.holding(self)
            container = store.buildah("from", "--pull-never", reference)
            root = store.buildah("mount", container)
        try:
            yield Path(root)
        finally:
            store.buildah("rm", container)


def build(*flavours: str) -> dict[str, Image]:
    """The named flavours (keys of BASES), from the cache or built into it, by one process at a time.

    Unavailable with a sentence where this machine cannot build images.
    """
    return {flavour: _image(flavour) for flavour in flavours}


def nemo_on_stand_ins() -> Image:
    """Our nemo image, built as a user builds it, on an image of torch, and stand-ins of NVIDIA's programs in it.

    In the storage of the CPU image, whose torch it shares. Unavailable where this machine cannot build images.
    """
    jobs = _image("jobs-cpu")
    files = [ROOT / "images" / name for name in (FLAVOURS["nemo"].dockerfile, FLAVOURS["nemo"].lock, "build.py")]
    files += [path for pattern in STAND_INS for path in sorted((ROOT / "tests").glob(pattern))]
    source = _digest([jobs.archive.parent.name, *files, *(ROOT / name for name in FILES), *_sources()])
    place = _cache() / "nemo-on-stand-ins"
    image = Image("nemo", f"docker.io/library/{FLAVOURS['nemo'].tag}", place / f"{source}.docker.tar")
    with locked(_cache() / "lock"):
        if not image.archive.exists():
            place.mkdir(exist_ok=True)
            say("building cai-nemo:dev on stand-ins of NVIDIA's programs (about a minute)")
            _build_on_stand_ins(image, Store(jobs.archive.parent))
            _forget(sorted(place.glob("*.tar"), key=_age)[1:])
    return image


def _build_on_stand_ins(image: Image, store: Store) -> None:
    debian = store.buildah("pull", "--quiet", f"docker-archive:{_base(BASES['jobs-cpu'])}")
    build = ("build", "--layers", "--isolation", "chroot", "--network", "host", "--quiet")
    torch, base, whole = (f"localhost/cai-nemo-test:{name}" for name in ("torch", "base", "whole"))
    ours = f"localhost/{FLAVOURS['nemo'].tag}"
    stand_ins = ("-f", f"tests/{STAND_INS[0]}", "--build-arg", f"TORCH={torch}")
    cpu = ("-f", f"images/{FLAVOURS['jobs-cpu'].dockerfile}", "--build-arg", f"BASE={debian}")
    store.buildah(*build, *cpu, "--target", "torch", "-t", torch, ".")
    store.buildah(*build, *stand_ins, "--target", "base", "-t", base, "tests")
    words = ("nemo", "--builder", "buildah", "--base", base, "--python", PYTHON_OF_TRIXIE)
    store.run(sys.executable, "images/build.py", *words)
    store.buildah(*build, *stand_ins, "--build-arg", f"OURS={ours}", "-t", whole, "tests")
    store.export(whole, image.archive, image.reference)


def files_of_base(flavour: str) -> dict[str, str]:
    """The regular files of a flavour's base and their SHA-256, by their paths from its root."""
    found: dict[str, str] = {}
    with tarfile.open(_base(BASES[flavour])) as archive:
        (layer,) = (member for member in archive if member.isfile() and member.name.endswith(".tar"))
        with tarfile.open(fileobj=archive.extractfile(layer)) as contents:
            for member in contents:
                file = contents.extractfile(member) if member.isreg() else None
                if file is not None:
                    found[member.name.removeprefix("./")] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


@dataclass(frozen=True)
class Store:
    """buildah with its storage in a directory of its own; the machine's own images are not touched."""

    directory: Path

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command whose buildah uses this storage; Unavailable with the end of its output if it fails."""
        # what is mounted is remembered in the run directory, which must not outlive a reboot
        run = Path("/run/cai-operator-images") / _digest([str(self.directory)])
        for path in (run, self.directory):
            path.mkdir(parents=True, exist_ok=True)
        settings = self.directory / "storage.conf"
        settings.write_text(
            f'[storage]\ndriver = "overlay"\nrunroot = "{run}"\ngraphroot = "{self.directory / "storage"}"\n'
        )
        environment = {**os.environ, "CONTAINERS_STORAGE_CONF": str(settings)}
        done = subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            said = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
            raise Unavailable(f"{command[0]} {command[1]} failed, so the images could not be built:\n{said}")
        return done

    def buildah(self, *words: str | Path) -> str:
        return self.run("buildah", *words).stdout.strip()

    def holding(self, image: Image) -> str:
        """The image's reference in this storage, brought in from its archive if another one bears its name."""
        note = self.directory / "holds"
        if not note.exists() or note.read_text() != image.archive.name:
            self.buildah("pull", f"docker-archive:{image.archive}")
            note.write_text(image.archive.name)
            return image.reference
        return f"localhost/{FLAVOURS[image.flavour].tag}"

    def export(self, reference: str, archive: Path, name: str) -> None:
        """Write an image to an archive under a name; the archive is there whole or not at all.

        Docker's format, since an OCI archive is always compressed: a minute of work, and another to import it.
        """
        partial = archive.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        self.buildah("push", "--quiet", "--disable-compression", reference, f"docker-archive:{partial}:{name}")
        partial.rename(archive)

    def remove(self) -> None:
        # overlay's directory is a mount point of itself
        subprocess.run(["umount", "-l", self.directory / "storage" / "overlay"], capture_output=True)
        shutil.rmtree(self.directory)


def _image(flavour: str) -> Image:
    ours = FLAVOURS[flavour]
    base = BASES[flavour]
    recipe_files = [ROOT / "images" / name for name in (ours.dockerfile, ours.lock, "requirements-build.txt")]
    recipe = _digest([base.suite, base.key, *recipe_files])
    store = Store(_cache() / flavour / recipe)
    source = _digest([*(ROOT / name for name in FILES), *_sources()])
    image = Image(flavour, f"docker.io/library/{ours.tag}", store.directory / f"{source}.docker.tar")
    if image.archive.exists():
        return image
    with locked(_cache() / "lock"):
        if not image.archive.exists():
            _check_machine()
            _build(image, store, base)
            _forget(sorted(store.directory.glob("*.tar"), key=_age)[KEPT:])
            _forget(sorted(store.directory.parent.iterdir(), key=_age)[KEPT:])
    return image


def _build(image: Image, store: Store, base: Base) -> None:
    tag = FLAVOURS[image.flavour].tag
    base_archive = _base(base)
    new = not (store.directory / "storage").exists()
    say(f"building {tag}" + (f" (about {DURATIONS[image.flavour]})" if new else ": the source has changed"))
    began = time.monotonic()
    reference = store.buildah("pull", "--quiet", f"docker-archive:{base_archive}")
    store.run(sys.executable, "images/build.py", image.flavour, "--builder", "buildah", "--base", reference)
    built = time.monotonic()
    store.export(f"localhost/{tag}", image.archive, image.reference)
    (store.directory / "holds").write_text(image.archive.name)
    size = image.archive.stat().st_size / 1e6
    say(f"built {tag} in {built - began:.0f} s, exported {size:,.0f} MB in {time.monotonic() - built:.0f} s")


def _base(base: Base) -> Path:
    """The archive of a base image, made by debootstrap if it is not there."""
    archive = _cache() / "bases" / f"{base.suite}-{base.key}.docker.tar"
    if archive.exists():
        return archive
    say(f"making a minimal Debian {base.suite} with debootstrap (about a minute)")
    store = Store(archive.parent / f"{base.suite}-{base.key}")
    container = store.buildah("from", "scratch")
    root = store.buildah("mount", container)
    include = [f"--include={','.join(base.packages)}"] if base.packages else []
    store.run("debootstrap", "--variant=minbase", *include, base.suite, root)
    for leftovers in ("var/cache/apt/archives", "var/lib/apt/lists"):
        for path in (Path(root) / leftovers).iterdir():
            if path.is_file():
                path.unlink()
    name = f"localhost/cai-base:{base.suite}"
    store.buildah("commit", "--quiet", "--rm", container, name)
    store.export(name, archive, name)
    store.remove()
    return archive


def _check_machine() -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Unavailable("images for the test cluster are built by root on Linux (debootstrap, buildah)")
    missing = [program for program in ("buildah", "debootstrap") if not shutil.which(program)]
    if missing:
        install(*missing)


def _sources() -> list[Path]:
    found = [path for name in SOURCES for path in (ROOT / name).rglob("*")]
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def _digest(parts: Sequence[str | Path]) -> str:
    """Of words, and of files with their place in the repository."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            content = part.read_bytes()
            digest.update(f"file {part.relative_to(ROOT)} {len(content)}\n".encode() + content)
        else:
            digest.update(f"word {part}\n".encode())
    return digest.hexdigest()[:16]


def _forget(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_dir():
            Store(path).remove()
        else:
            path.unlink()


def _age(path: Path) -> float:
    return -path.stat().st_mtime


def _cache() -> Path:
    return cache_root() / "images"


if __name__ == "__main__":
    try:
        for image in build(*(sys.argv[1:] or ("operator", "jobs-cpu"))).values():
            print(f"{image.reference:44} {image.archive}")
    except Unavailable as error:
        sys.exit(f"error: {error}")
