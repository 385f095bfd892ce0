"""Manifests in YAML files: one CAIPipeline and the ConfigMaps it refers to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cai_jobs.contract.program import InputError
from cai_operator import texts
from cai_operator.api import CAIPipeline
from cai_operator.stages import active
from cai_operator.validation import parse_pipeline

Texts = Mapping[str, Mapping[str, str]]
"""Texts a spec refers to, by `texts.source_name`: file name -> content."""


@dataclass(frozen=True)
class Manifests:
    """What the files hold: the CAIPipeline's document, where it stands, and name -> data of every ConfigMap."""

    pipeline: Mapping[str, Any]
    where: str
    config_maps: Mapping[str, Mapping[str, str]]


def read_manifests(paths: Sequence[Path]) -> Manifests:
    """Read YAML files of one or more documents; documents of other kinds are for a cluster and passed over.

    Raises:
        InputError: a file is missing or no YAML, or there is not exactly one CAIPipeline; says file and line.
    """
    pipelines: list[tuple[str, Mapping[str, Any]]] = []
    config_maps: dict[str, Mapping[str, str]] = {}
    for path in paths:
        for where, document in _documents(path):
            kind = document.get("kind")
            if kind == "CAIPipeline":
                pipelines.append((where, document))
            elif kind == "ConfigMap":
                name, data = _config_map(where, document)
                if name in config_maps:
                    raise InputError(f"{where}: there is a ConfigMap {name} already; keep one of them")
                config_maps[name] = data
            elif kind is None:
                raise InputError(f"{where}: no kind is given; kind: CAIPipeline or ConfigMap is wanted")
    files = ", ".join(str(path) for path in paths)
    if not pipelines:
        raise InputError(f"{files}: no document of kind CAIPipeline in it")
    if len(pipelines) > 1:
        places = " and ".join(where for where, _ in pipelines)
        raise InputError(f"{places}: {len(pipelines)} CAIPipelines; give one at a time")
    where, pipeline = pipelines[0]
    return Manifests(pipeline, where, config_maps)


def pipeline_of(manifests: Manifests) -> CAIPipeline:
    """The validated pipeline.

    Raises:
        InputError: it is not valid; says where it stands and lists all that is wrong.
    """
    try:
        return parse_pipeline(manifests.pipeline)
    except InputError as problem:
        listing = "".join(f"\n  {line}" for line in str(problem).splitlines())
        raise InputError(f"{manifests.where}: this CAIPipeline is not valid:{listing}") from problem


def config_maps_of(pipeline: CAIPipeline, manifests: Manifests) -> dict[str, Mapping[str, str]]:
    """Those ConfigMaps of the files that the pipeline refers to, by `texts.source_name`."""
    sources = {texts.source_name("configMap", name): data for name, data in manifests.config_maps.items()}
    return {source: sources[source] for source in texts.sources(pipeline.spec) if source in sources}


def require_texts(manifests: Manifests, pipeline: CAIPipeline, found: Texts) -> None:
    """Make sure that every text the pipeline refers to is there.

    Raises:
        InputError: a ConfigMap, or a key of it, is not.
    """
    try:
        for node in active(pipeline.spec):
            texts.of_node(pipeline.spec, node, found)
    except texts.MissingTextError as problem:
        raise InputError(f"{manifests.where}: {problem}; give the file with that ConfigMap, too") from problem


def _documents(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as problem:
        raise InputError(f"{path}: no such file") from problem
    except IsADirectoryError as problem:
        raise InputError(f"{path}: is a directory, a YAML file is wanted") from problem
    except UnicodeDecodeError as problem:
        raise InputError(f"{path}: is not UTF-8 text ({problem})") from problem
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                continue
            where = f"{path}:{node.start_mark.line + 1}"
            _refuse_duplicates(path, node)
            document = loader.construct_document(node)
            if document is None:
                continue
            if not isinstance(document, dict):
                raise InputError(f"{where}: a mapping with apiVersion, kind, metadata and spec is wanted")
            yield where, document
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not YAML: {problem.problem or problem.context}") from problem
    except yaml.YAMLError as problem:
        raise InputError(f"{path}: not YAML: {problem}") from problem
    finally:
        loader.dispose()


def _refuse_duplicates(path: Path, node: yaml.Node) -> None:
    """A key given twice would silently win over the first one."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise InputError(f"{path}:{key.start_mark.line + 1}: the key {key.value} is given twice")
                seen.add(key.value)
            _refuse_duplicates(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(path, item)


def _config_map(where: str, document: Mapping[str, Any]) -> tuple[str, Mapping[str, str]]:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str):
        raise InputError(f"{where}: metadata.name of the ConfigMap is missing")
    data = document.get("data") or {}
    if not isinstance(data, dict):
        raise InputError(f"{where}: data of ConfigMap {name} is to map file names to texts")
    for key, value in data.items():
        if not isinstance(value, str):
            raise InputError(f"{where}: data.{key} of ConfigMap {name} is to be text; write it with | or in quotes")
    return name, data
