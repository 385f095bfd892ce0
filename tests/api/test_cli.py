"""`cai status`, `retry`, `suspend` and `resume` against a real API server, through a real kubectl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from tests.harness.binaries import find_or_build
from tests.harness.control_plane import ControlPlane
from tests.harness.pipelines import pocket

ROOT = Path(__file__).parents[2]
PIPELINES = "/apis/cai.dev/v1alpha1/namespaces/{}/caipipelines"

RUNNING = {
    "observedGeneration": 1,
    "phase": "Running",
    "message": "working on sft",
    "progress": "3/9",
    "conditions": [
        {
            "type": "Degraded",
            "status": "True",
            "reason": "ImagePullFailed",
            "message": "image nowhere/jobs:1 cannot be pulled; correct spec.image",
            "lastTransitionTime": "2026-01-01T10:00:00Z",
        }
    ],
    "stages": [
        {"name": "models", "state": "Succeeded", "started": "2026-01-01T10:00:00Z", "finished": "2026-01-01T10:00:42Z"},
        {
            "name": "sft",
            "state": "Running",
            "attempts": 2,
            "progress": {"done": 3, "total": 9, "unit": "steps"},
            "message": "attempt 1 failed: out of luck; trying again",
        },
        {"name": "serve", "state": "Waiting", "message": "waits for sft"},
    ],
}
FAILED = {
    "observedGeneration": 1,
    "phase": "Failed",
    "message": "sft failed: no such option: warmth",
    "stages": [
        {"name": "sft", "state": "Failed", "message": "no such option: warmth", "log": "kubectl logs -n x job/y"},
        {
            "name": "evaluate",
            "state": "Failed",
            "message": "evaluateBase failed: no room",
            "parts": [
                {"name": "evaluateBase", "state": "Failed", "message": "no room"},
                {"name": "evaluateSlCai", "state": "Waiting"},
            ],
        },
    ],
}

Cai = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cai(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Cai:
    """Runs the command in an empty directory, with a kubeconfig whose context is the test's namespace."""
    return runner(tmp_path, control_plane, namespace)


@pytest.fixture
def make(control_plane: ControlPlane, crd: None, namespace: str) -> Iterator[Callable[..., None]]:
    """Makes a pipeline with this status."""
    with control_plane.client() as client:

        def make(name: str, status: dict[str, object] | None = None, **metadata: object) -> None:
            client.post(PIPELINES.format(namespace), json=pocket(name, **metadata)).raise_for_status()
            if status is not None:
                write(name, status)

        def write(name: str, status: dict[str, object]) -> None:
            client.patch(
                f"{PIPELINES.format(namespace)}/{name}/status",
                content=json.dumps({"status": status}),
                headers={"Content-Type": "application/merge-patch+json"},
            ).raise_for_status()

        make.write = write  # type: ignore[attr-defined]
        yield make


def runner(directory: Path, plane: ControlPlane, namespace: str) -> Cai:
    config = directory / "config"
    document = yaml.safe_load(plane.kubeconfig.read_text())
    document["contexts"][0]["context"]["namespace"] = namespace
    config.write_text(yaml.safe_dump(document))
    programs = find_or_build("kubectl")["kubectl"].parent
    environment = {
        **os.environ,
        "KUBECONFIG": str(config),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "KUBECACHEDIR": str(directory / "cache"),
    }
    empty = directory / "empty"
    empty.mkdir()

    def run(*words: str, **options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cai_operator.cli", *words]
        done = subprocess.run(command, cwd=empty, env=environment | options, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        return done

    run.environment, run.directory = environment, empty  # type: ignore[attr-defined]
    return run


def lines_until(text: str, process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    seen: list[str] = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return seen
    raise AssertionError(f"it ended without {text!r}: {''.join(seen)}")


def pipeline(plane: ControlPlane, namespace: str, name: str) -> dict[str, dict[str, object]]:
    with plane.client() as client:
        return dict(client.get(f"{PIPELINES.format(namespace)}/{name}").json())


def test_status_by_name_is_the_pipelines_status(cai: Cai, make: Callable[..., None], namespace: str) -> None:
    make("pocket", RUNNING)
    shown = cai("status", "pocket")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("phase: Running (3/9 stages)\nworking on sft\nImagePullFailed: image nowhere/jobs:1")
    rows = {line.split()[0]: line for line in shown.stdout.splitlines() if line.strip()}
    assert "42 s" in rows["models"]
    assert rows["sft"].endswith("3 of 9 steps; attempt 1 failed: out of luck; trying again")
    assert "waits for sft" in rows["serve"]
    as_json = cai("status", "pocket", "-o", "json", "-n", namespace).stdout
    assert json.loads(as_json)["stages"][1]["progress"]["total"] == 9
    assert yaml.safe_load(cai("status", "pocket", "-o", "yaml").stdout) == json.loads(as_json)


def test_status_says_what_a_status_itself_cannot(cai: Cai, make: Callable[..., None], namespace: str) -> None:
    make("fresh")
    assert "no operator has looked at it yet" in cai("status", "fresh").stdout
    make("behind", {**RUNNING, "observedGeneration": 0})
    assert "has not looked at the last change yet" in cai("status", "behind").stdout
    served = {"observedGeneration": 1, "phase": "Succeeded", "endpoint": "http://served-serve:1427", "stages": []}
    make("served", {**served, "report": "served/report/0123/report.html"})
    shown = cai("status", "served").stdout
    assert f"kubectl port-forward -n {namespace} service/served-serve 1427" in shown
    assert "report: served/report/0123/report.html" in shown
    make("failed", FAILED)
    shown = cai("status", "failed", "-n", namespace).stdout
    assert "log of sft: kubectl logs -n x job/y" in shown
    assert f"to start it anew: cai retry failed -n {namespace}" in shown


def test_a_directory_is_a_local_run_unless_a_cluster_is_named(
    cai: Cai, make: Callable[..., None], namespace: str
) -> None:
    make("pocket", RUNNING)
    local = cai.directory / "pocket"  # type: ignore[attr-defined]
    local.mkdir()
    assert "pocket/status.json: no such file" in cai("status", "pocket").stderr
    assert "is shown with -n NAMESPACE" in cai("status", "pocket").stderr
    assert "elsewhere/pocket/status.json: no such file" in cai("status", "elsewhere/pocket").stderr
    assert cai("status", "pocket", "-n", namespace).stdout.startswith("phase: Running")
    assert cai("status", "pocket", "--context", "test").stdout.startswith("phase: Running")


def test_a_name_that_is_not_there(cai: Cai, make: Callable[..., None], namespace: str) -> None:
    none = cai("status", "pocket")
    assert none.returncode == 2
    assert none.stderr.startswith(f"error: there is no CAIPipeline pocket in namespace {namespace}")
    make("pocket-two")
    assert cai("status", "pocket-tow").stderr == (
        f"error: there is no CAIPipeline pocket-tow in namespace {namespace}; did you mean pocket-two?\n"
    )
    assert "; there are: pocket-two\n" in cai("retry", "mistral").stderr
    assert cai("status", "pocket-two", "-n", "default").stderr.endswith(
        f"there is one in {namespace}: give it with -n\n"
    )
    assert "there is no CAIPipeline mistral" in cai("suspend", "mistral").stderr


def test_a_cluster_without_the_resource_says_how_to_install_it(tmp_path: Path) -> None:
    with ControlPlane() as bare:
        cai = runner(tmp_path, bare, "default")
        for words in (["status", "pocket"], ["retry", "pocket"], ["resume", "pocket"]):
            done = cai(*words)
            assert done.returncode == 2
            assert done.stderr == (
                "error: this cluster does not know CAIPipelines; install the operator and its resource: "
                "kubectl apply -f crds/ -f operator/install/\n"
            )
        install = ["apply", "-f", str(ROOT / "crds"), "-f", str(ROOT / "operator" / "install")]
        bare.kubectl(*install)  # in one go on a cluster that has nothing of it yet
        assert all(line.endswith(" unchanged") for line in bare.kubectl(*install).stdout.splitlines())
        assert cai("status", "pocket").stderr.startswith("error: there is no CAIPipeline pocket in namespace default")
        bare.stop_apiserver()
        away = cai("status", "pocket")
        assert away.returncode == 1
        assert away.stderr.startswith("error: the cluster cannot be reached: ")
        assert away.stderr.count("\n") == 1


def test_who_may_not_read_is_told_so(
    cai: Cai, make: Callable[..., None], control_plane: ControlPlane, namespace: str
) -> None:
    make("pocket")
    config = control_plane.kubeconfig_of(namespace, "default")
    done = cai("status", "pocket", "-n", namespace, "--kubeconfig", str(config))
    assert done.returncode == 2
    assert 'cannot get resource "caipipelines"' in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_kubectl_or_a_cluster(cai: Cai) -> None:
    assert cai("status", "pocket", PATH="").stderr == (
        "error: there is no directory pocket, and kubectl is not installed, or not on PATH; "
        "a cluster is read through it\n"
    )
    assert "kubectl has no cluster to talk to" in cai("status", "pocket", KUBECONFIG="/dev/null").stderr
    assert cai("retry", "pocket", "--context", "nowhere").stderr == (
        "error: kubectl: in configuration: context was not found for specified context: nowhere\n"
    )
    assert "No Name" in cai("status", "No Name").stderr
    assert cai("retry", "--", "-A").returncode == 2


def test_retry_starts_what_failed_anew_every_time(
    cai: Cai, make: Callable[..., None], control_plane: ControlPlane, namespace: str
) -> None:
    make("pocket", FAILED, annotations={"cai.dev/retry": "earlier"})
    done = cai("retry", "pocket", "-n", namespace)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "sft is started anew; it had failed: no such option: warmth",
        "evaluateBase is started anew; it had failed: no room",
        f"to see it: cai status pocket -n {namespace} --watch",
    ]
    first = pipeline(control_plane, namespace, "pocket")["metadata"]["annotations"]
    cai("retry", "pocket")
    second = pipeline(control_plane, namespace, "pocket")["metadata"]["annotations"]
    assert len({"earlier", first["cai.dev/retry"], second["cai.dev/retry"]}) == 3  # type: ignore[index]


def test_retry_refuses_where_nothing_has_failed(
    cai: Cai, make: Callable[..., None], control_plane: ControlPlane, namespace: str
) -> None:
    make("running", RUNNING)
    done = cai("retry", "running")
    assert done.returncode == 2
    assert "no stage has failed (it is Running: working on sft)" in done.stderr
    assert "annotations" not in pipeline(control_plane, namespace, "running")["metadata"]
    assert "another try is asked for" in cai("retry", "running", "--force").stdout
    assert "annotations" in pipeline(control_plane, namespace, "running")["metadata"]
    gate = {"name": "evaluate", "state": "Failed", "message": "harmful rate 0.5 is above 0.2"}
    parts = [{"name": name, "state": "Succeeded"} for name in ("evaluateBase", "evaluateSlCai")]
    make("gated", {"observedGeneration": 1, "phase": "Failed", "stages": [{**gate, "parts": parts}]})
    done = cai("retry", "gated")
    assert done.returncode == 2
    assert "a gate is not met: harmful rate 0.5 is above 0.2" in done.stderr


def test_suspend_and_resume_set_the_spec_once(
    cai: Cai, make: Callable[..., None], control_plane: ControlPlane, namespace: str
) -> None:
    make("pocket", FAILED)
    assert cai("resume", "pocket").stdout == "pocket is not suspended\n"
    assert cai("suspend", "pocket").stdout.endswith("to let it go on from there: cai resume pocket\n")
    found = pipeline(control_plane, namespace, "pocket")
    assert (found["spec"]["suspend"], found["metadata"]["generation"]) == (True, 2)
    assert cai("suspend", "pocket").stdout == "pocket is suspended already\n"
    assert cai("retry", "pocket").stdout.endswith("to let it go on: cai resume pocket\n")
    assert cai("resume", "pocket").stdout.startswith("pocket goes on")
    found = pipeline(control_plane, namespace, "pocket")
    assert (found["spec"]["suspend"], found["metadata"]["generation"]) == (False, 3)


def test_watch_shows_changes_until_the_end(cai: Cai, make: Callable[..., None]) -> None:
    make("pocket", RUNNING)
    command = [sys.executable, "-m", "cai_operator.cli", "status", "pocket", "--watch"]
    environment = cai.environment  # type: ignore[attr-defined]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        seen = lines_until("ImagePullFailed", process)
        # an end the operator reached before it saw the last change is none
        make.write("pocket", {**FAILED, "observedGeneration": 0})  # type: ignore[attr-defined]
        seen += lines_until("sft: failed", process)
        time.sleep(3)
        assert process.poll() is None
        make.write("pocket", FAILED)  # type: ignore[attr-defined]
        rest = process.communicate()[0]
    assert process.returncode == 1
    assert rest.rstrip().endswith("sft failed: no such option: warmth")
    assert sum("ImagePullFailed" in line for line in seen) == 1


def test_watch_takes_a_finished_pipeline_as_it_is(cai: Cai, make: Callable[..., None]) -> None:
    make("done", {"observedGeneration": 1, "phase": "Succeeded", "stages": [{"name": "models", "state": "Succeeded"}]})
    assert cai("status", "done", "-w").returncode == 0
    assert cai("status", "done", "-w", "-o", "json").stderr.startswith("error: --watch shows a table")
