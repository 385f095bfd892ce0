"""The operator as another version of it might be: it renders other children, or names other keys.

    OTHER_VERSION=labels,service python -m tests.harness.other_version

| word | what is different |
|---|---|
| `labels` | one label more on every child and its pods |
| `service` | model servers behind an ordinary Service, as before decision 0011 |
| `fields` | pods without `terminationMessagePolicy` |
| `names` | other names of Jobs and servers |
| `contract` | another contract version, so other keys |
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cai_operator import keys, names
from cai_operator.main import main
from cai_operator.manifests import children, job, server

OTHER_LABEL = "cai.dev/flavour"


def _labels() -> None:
    own = names.shared_labels
    names.shared_labels = lambda pipeline: {**own(pipeline), OTHER_LABEL: "other"}


def _service() -> None:
    own = children.server_service
    children.server_service = lambda pipeline, workload: own(pipeline, replace(workload, headless=False))


def _fields() -> None:
    own = job.pod_template

    def template(*given: Any, **named: Any) -> dict[str, Any]:
        found = own(*given, **named)
        del found["spec"]["containers"][0]["terminationMessagePolicy"]
        return found

    job.pod_template = server.pod_template = template


def _names() -> None:
    for name in ("job_name", "server_name"):
        setattr(names, name, _with_prefix(getattr(names, name)))


def _with_prefix(own: Callable[..., str]) -> Callable[..., str]:
    return lambda *given, **named: f"other-{own(*given, **named)}"


def _contract() -> None:
    keys.CONTRACT_VERSION += 1


if __name__ == "__main__":
    for word in os.environ["OTHER_VERSION"].split(","):
        globals()[f"_{word}"]()
    main()
