"""Artifacts: a directory that exists whole, with a manifest and digests, or not at all.

A program works in the sibling `<directory>.partial`; `publish` digests what is there, writes `manifest.json`, syncs
and renames. What a killed program left in `.partial` (a journal, checkpoints) is found by the next run of the same key.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cai_jobs.contract.program import InputError, RetryableError

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
LOCK_WAIT_S = 30.0


@dataclass
class Artifact:
    """An artifact being written.

    Attributes:
        directory: where it will stand once published.
        path: where to write now: the `.partial` sibling, or `directory` itself for a plain output directory.
        header: stage, key, parameters and inputs for the manifest; None for a plain output directory.
        metrics: JSON values for the manifest and the termination message; fill before `publish`.
        scratch: names below `path` that are removed before publishing (journals, checkpoints).
    """

    directory: Path
    path: Path
    header: Mapping[str, Any] | None
    started: datetime
    metrics: dict[str, Any] = field(default_factory=dict)
    scratch: Sequence[str] = ()

    def publish(self) -> dict[str, Any]:
        """Publish and return the last word: {"artifact": {"key", "digest", "files", "bytes"}, "metrics"}."""
        if self.header is None:
            return {"metrics": self.metrics}
        hidden = {self.path / name for name in self.scratch}
        kept = [path for path in _files_below(self.path) if not hidden & {path, *path.parents}]
        files = [_describe(path, self.path) for path in kept]
        manifest = {
            "schemaVersion": SCHEMA_VERSION,
            **self.header,
            "program": {"name": "cai-operator", "version": _version()},
            "started": self.started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "metrics": self.metrics,
            "files": files,
        }
        write_synced(self.path / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        for directory in {self.path, *(path.parent for path in kept)}:
            sync_path(directory)
        # from here on it is whole, and whoever is killed is followed by one that finishes this
        _finish(self.path, self.directory, self.scratch)
        return last_word(manifest)


@contextmanager
def open_artifact(
    directory: Path | None, header: str | None, fallback: Path, scratch: Sequence[str] = ()
) -> Iterator[Artifact | None]:
    """Open the artifact the flags --artifact-dir and --artifact-header name, for one writer at a time.

    Yields None when the artifact is whole already (its `read` gives the last word). Without --artifact-dir, yields a
    plain output directory `fallback`, created, in which nothing is renamed and no manifest is written.

    Raises:
        InputError: the header is missing, is not JSON, or the directory holds an artifact of another key.
        RetryableError: another process still writes this artifact.
    """
    started = datetime.now(UTC)
    if directory is None:
        fallback.mkdir(parents=True, exist_ok=True)
        yield Artifact(fallback, fallback, None, started)
        return
    fields = _parse_header(header)
    directory.parent.mkdir(parents=True, exist_ok=True)
    lock_path = directory.with_name(directory.name + ".lock")
    with _lock(lock_path):
        found = read(directory)
        if found is not None:
            if found.get("key") != fields["key"]:
                raise InputError(f"{directory} holds an artifact of key {found.get('key')}, not {fields['key']}")
            yield None
            return
        partial = directory.with_name(directory.name + ".partial")
        partial.mkdir(exist_ok=True)
        if (read(partial) or {}).get("key") == fields["key"]:
            _finish(partial, directory, scratch)
            yield None
            return
        yield Artifact(directory, partial, fields, started, scratch=scratch)


def read(directory: Path) -> dict[str, Any] | None:
    """The manifest of a published artifact, or None where there is none.

    Raises:
        InputError: there is a directory, but its manifest cannot be read.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as problem:
        raise InputError(f"{path} is not JSON ({problem}); remove {directory} to make it anew") from problem
    if not isinstance(manifest, dict):
        raise InputError(f"{path} is not a JSON object; remove {directory} to make it anew")
    return manifest


def verify(directory: Path) -> dict[str, Any]:
    """Check every file of an artifact against its manifest (size and sha256) and return the manifest.

    Raises:
        InputError: no artifact there, or a file is missing or differs; the sentence names it.
    """
    manifest = read(directory)
    if manifest is None:
        raise InputError(f"{directory} is no artifact: it has no {MANIFEST}")
    for entry in manifest["files"]:
        path = directory / entry["path"]
        if not path.is_file():
            raise InputError(f"{path} is missing, though {directory / MANIFEST} lists it")
        if _describe(path, directory) != entry:
            raise InputError(f"{path} is not what {MANIFEST} says it was; remove {directory} to make it anew")
    return manifest


def last_word(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The termination message of a finished program: which artifact, its digest and metrics."""
    files = manifest["files"]
    listing = "".join(f"{entry['sha256']}  {entry['path']}\n" for entry in files)
    return {
        "artifact": {
            "key": manifest["key"],
            "digest": "sha256:" + hashlib.sha256(listing.encode()).hexdigest(),
            "files": len(files),
            "bytes": sum(entry["size"] for entry in files),
        },
        "metrics": manifest["metrics"],
    }


def write_synced(path: Path, text: str) -> None:
    """Replace a file's text so that a crash leaves the old or the new one: write aside, sync, rename."""
    aside = path.with_name(path.name + ".new")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)


def sync_path(path: Path) -> None:
    """fsync a file's content, or a directory, so that the names in it survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse_header(header: str | None) -> dict[str, Any]:
    try:
        fields = json.loads(header or "")
    except ValueError as problem:
        raise InputError(f"--artifact-header is not JSON: {problem}") from problem
    missing = {"stage", "key", "parameters", "inputs"} - set(fields if isinstance(fields, dict) else ())
    if missing:
        raise InputError(f"--artifact-header lacks {', '.join(sorted(missing))}")
    return dict(fields)


def _finish(partial: Path, directory: Path, scratch: Sequence[str]) -> None:
    """Remove what is not published and rename; the manifest is there."""
    for name in scratch:
        leftover = partial / name
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
    partial.rename(directory)
    sync_path(directory.parent)


def _files_below(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and path.name != MANIFEST)


def _describe(path: Path, root: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return {"path": path.relative_to(root).as_posix(), "size": path.stat().st_size, "sha256": digest}


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RetryableError(f"another process is writing this artifact (it holds {path})") from None
                time.sleep(0.2)
        yield


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("cai-operator")
    except PackageNotFoundError:
        return "unknown"
