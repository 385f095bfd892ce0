"""Where models and data sets come from: {"huggingFace": {...}}, {"path": ...} or {"pocket": {}}, as in the manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cai_jobs.contract.program import InputError, RetryableError

TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105 - the name of a variable


@dataclass(frozen=True)
class Source:
    """One source.

    Attributes:
        kind: where it is.
        repo, revision, data_dirs, split: of a hub repository; a revision of None is its main branch.
        paths: of local files or directories.
    """

    kind: Literal["huggingFace", "path", "pocket"]
    repo: str = ""
    revision: str | None = None
    data_dirs: tuple[str, ...] = ()
    split: str = "train"
    paths: tuple[Path, ...] = ()


def parse(flag: str, text: str) -> Source:
    """The source of a flag's JSON value.

    Raises:
        InputError: it is not JSON, or not one of the three forms.
    """
    try:
        value = json.loads(text)
    except ValueError as problem:
        raise InputError(f"{flag}: {text[:80]!r} is not JSON ({problem})") from problem
    if not isinstance(value, dict) or len(value) != 1 or not set(value) <= {"huggingFace", "path", "pocket"}:
        raise InputError(
            f'{flag}: one of {{"huggingFace": {{"repo": ...}}}}, {{"path": ...}}, {{"pocket": {{}}}} is wanted'
        )
    [(kind, fields)] = value.items()
    if kind == "pocket":
        return Source("pocket")
    if kind == "path":
        paths = fields if isinstance(fields, list) else [fields]
        if not paths or not all(isinstance(path, str) and path for path in paths):
            raise InputError(f'{flag}: "path" must be a path or a list of paths, it is {fields!r}')
        return Source("path", paths=tuple(Path(path) for path in paths))
    return _hub_source(flag, fields)


def from_hub(
    source: Source,
    kind: Literal["model", "dataset"],
    patterns: list[str],
    target: Path,
    ignore: list[str] | None = None,
) -> Path:
    """Download the files of a hub repository that match the patterns.

    Args:
        patterns, ignore: file name patterns as `fnmatch` has them; "*" also matches "/".
        target: the directory the files go to.

    Raises:
        InputError: there is no such repository or revision, or it wants a token that is not there or has no access.
        RetryableError: the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    with explained(kind, source):
        return Path(
            snapshot_download(
                source.repo,
                repo_type=kind,
                revision=source.revision,
                allow_patterns=patterns,
                ignore_patterns=ignore,
                local_dir=target,
            )
        )


@contextmanager
def explained(kind: str, source: Source) -> Iterator[None]:
    """Turn the hub libraries' exceptions into sentences; see `from_hub`."""
    import httpx
    from huggingface_hub import errors

    what = f"{kind} {source.repo}" + (f" at revision {source.revision}" if source.revision else "")
    try:
        yield
    except errors.GatedRepoError as problem:
        raise InputError(
            f"{what}: the hub gives it only to those who accepted its terms; do so on its page and set {TOKEN_VARIABLE}"
        ) from problem
    except errors.RevisionNotFoundError as problem:
        raise InputError(f"{what}: the hub has no such revision") from problem
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as problem:
        raise InputError(
            f"{what}: the hub has no such repository, or it is private: check the name, or set {TOKEN_VARIABLE}"
        ) from problem
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, httpx.HTTPError, ConnectionError) as problem:
        raise RetryableError(_unreachable(what, problem)) from problem
    except FileNotFoundError as problem:  # also LocalEntryNotFoundError: not downloaded before, and no way to do so now
        if isinstance(problem, errors.LocalEntryNotFoundError):
            raise RetryableError(_unreachable(what, problem)) from problem
        raise InputError(f"{what}: {problem}") from problem


def _unreachable(what: str, problem: Exception) -> str:
    return (
        f"{what}: the hub cannot be reached ({type(problem).__name__}); check the network, "
        'or fetch it elsewhere and give {"path": ...}'
    )


def _hub_source(flag: str, fields: Any) -> Source:
    allowed = {"repo", "revision", "dataDirs", "split"}
    if not isinstance(fields, dict) or not isinstance(fields.get("repo"), str) or not fields["repo"]:
        raise InputError(f'{flag}: "huggingFace" must be an object with "repo", such as {{"repo": "owner/name"}}')
    unknown = set(fields) - allowed
    if unknown:
        raise InputError(
            f"{flag}: huggingFace has no field {', '.join(sorted(unknown))}; there are {', '.join(sorted(allowed))}"
        )
    data_dirs = fields.get("dataDirs") or []
    if not isinstance(data_dirs, list) or not all(isinstance(name, str) and name for name in data_dirs):
        raise InputError(f"{flag}: huggingFace.dataDirs must be a list of names, it is {data_dirs!r}")
    for name in ("revision", "split"):
        if fields.get(name) is not None and not isinstance(fields[name], str):
            raise InputError(f"{flag}: huggingFace.{name} must be text, it is {fields[name]!r}")
    return Source(
        "huggingFace", fields["repo"], fields.get("revision"), tuple(data_dirs), fields.get("split") or "train"
    )
