"""`cai render`: every manifest the operator would apply over a pipeline's life, for review before anything runs."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from cai_jobs.contract.program import InputError
from cai_operator import texts
from cai_operator.api import CAIPipeline
from cai_operator.engines import EngineError, engine_of
from cai_operator.engines.run import Run
from cai_operator.manifest_files import Texts, config_maps_of, pipeline_of, read_manifests, require_texts
from cai_operator.manifests.children import places_of, shared_children, workload_children
from cai_operator.manifests.site import Site
from cai_operator.plan import node_keys
from cai_operator.settings import read_settings
from cai_operator.site_defaults import with_site_defaults
from cai_operator.stages import active
from cai_operator.workloads import Kind

Manifest = dict[str, Any]


def add_command(commands: Any) -> None:
    """Add the command to those of `cai`."""
    command: argparse.ArgumentParser = commands.add_parser(
        "render",
        help="print every manifest the operator would apply",
        description="Print every manifest the operator would apply over the pipeline's life, in the order of its "
        "stages. Settings of the operator are taken from its environment variables (CAI_IMAGE_HF, ...) or are the "
        "default ones. Owner references are left out: only a cluster knows the pipeline's uid.",
        allow_abbrev=False,
    )
    command.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="YAML with a CAIPipeline and its ConfigMaps"
    )
    command.add_argument("--image", help="image of the programs where the pipeline names none")
    command.set_defaults(command=_render)


def _render(arguments: argparse.Namespace) -> int:
    print(render(arguments.files, arguments.image), end="")
    return 0


def render(files: Sequence[Path], image: str | None = None) -> str:
    """The manifests as a YAML stream; a comment says which node of the graph each group is for.

    Raises:
        InputError: a file, the manifest, a setting or a text it refers to is missing or wrong.
    """
    given = read_manifests(files)
    site = read_settings().site
    pipeline = with_site_defaults(pipeline_of(given), site)
    found = config_maps_of(pipeline, given)
    require_texts(given, pipeline, found)
    if image is not None:
        site = dataclasses.replace(site, images={pipeline.spec.engine: image})
    try:
        groups = list(manifests_by_node(pipeline, found, site))
    except EngineError as problem:
        raise InputError(f"{given.where}: {problem}") from problem
    return "".join(f"---\n# {title}\n{as_yaml(manifest)}" for title, manifests in groups for manifest in manifests)


def manifests_by_node(pipeline: CAIPipeline, found: Texts, site: Site) -> Iterator[tuple[str, list[Manifest]]]:
    """What is applied for all stages, then for each node of the graph in order, its servers before its job.

    Raises:
        EngineError: the spec's engine has not what the spec asks of it.
    """
    engine = engine_of(pipeline.spec)
    keys, _ = node_keys(pipeline.spec, found)
    yield "all stages", list(shared_children(pipeline, site))
    for name, node in active(pipeline.spec).items():
        used = texts.of_node(pipeline.spec, name, found)
        run = Run(pipeline, node, keys, used, None, places_of(pipeline))
        jobs = () if node.kind == Kind.SERVER else (engine.job(run),)
        workloads = (*engine.servers(run), *jobs)
        yield name, [child for workload in workloads for child in workload_children(pipeline, workload, site)]


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, and nothing by reference: to be read by people."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else "'" if _is_number(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _is_number(text: str) -> bool:
    """Whether some YAML reader takes this text for a number: kubectl's does so with 3e-05, Python's does not."""
    try:
        float(text)
    except ValueError:
        return text[:2].lower() in ("0x", "0o", "0b")
    return True


_Dumper.add_representer(str, _represent_text)


def as_yaml(manifest: Manifest) -> str:
    """A manifest as people read it and every YAML reader takes it."""
    return yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
