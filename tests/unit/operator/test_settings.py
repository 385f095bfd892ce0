"""The operator's settings: what an environment may say, and what is said to who writes it wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cai_jobs.contract.program import InputError
from cai_operator import settings
from cai_operator.settings import VARIABLES, Settings, read_settings

DEPLOYMENT = Path(__file__).parents[3] / "operator" / "install" / "4-operator.yaml"


def test_an_empty_environment_will_do():
    found = read_settings({})
    assert (found.namespaces, found.resync_s, found.progress_s, found.workers) == ((), 300, 10, 8)
    assert (found.log_format, found.log_level, found.liveness_port) == ("text", "info", 8080)
    assert found.metrics_port == 9090
    assert found.site.images == {"hf": "cai-jobs:dev", "nemo": "cai-nemo:dev"}
    assert (found.site.pull_policy, found.site.run_as_user, found.site.job_ttl_s) == (None, 10001, 604800)
    assert found.identity


def test_empty_variables_are_as_good_as_none():
    assert read_settings({**dict.fromkeys(VARIABLES, ""), "CAI_IDENTITY": "me"}) == read_settings(
        {"CAI_IDENTITY": "me"}
    )


def test_everything_can_be_set():
    found = read_settings(
        {
            "CAI_NAMESPACES": "team-a, team-b,,team-a",
            "CAI_IMAGE_HF": "registry.example/jobs:1",
            "CAI_IMAGE_NEMO": "registry.example/nemo:1",
            "CAI_IMAGE_PULL_POLICY": "Always",
            "CAI_IMAGE_PULL_SECRETS": "login, second,,login",
            "CAI_JUDGE_SECRET": "judge:api-key",
            "CAI_JUDGE_URL": "https://judge.example/v1/chat/completions",
            "CAI_RUN_AS_USER": "1234",
            "CAI_JOB_TTL_SECONDS": "3600",
            "CAI_RESYNC_SECONDS": "2.5",
            "CAI_PROGRESS_SECONDS": "0.5",
            "CAI_WORKERS": "3",
            "CAI_LOG_FORMAT": "json",
            "CAI_LOG_LEVEL": "debug",
            "CAI_LIVENESS_PORT": "0",
            "CAI_METRICS_PORT": "9999",
            "CAI_LEASE_NAMESPACE": "cai-system",
            "CAI_IDENTITY": "operator-1",
        }
    )
    site = settings.Site(
        images={"hf": "registry.example/jobs:1", "nemo": "registry.example/nemo:1"},
        pull_policy="Always",
        pull_secrets=("login", "second"),
        judge_secret=settings.JudgeSecret("judge", "api-key", "https://judge.example/v1/chat/completions"),
        run_as_user=1234,
        job_ttl_s=3600,
    )
    assert found == Settings(
        namespaces=("team-a", "team-b"),
        site=site,
        resync_s=2.5,
        progress_s=0.5,
        workers=3,
        log_format="json",
        log_level="debug",
        liveness_port=0,
        metrics_port=9999,
        lease_namespace="cai-system",
        identity="operator-1",
    )


def test_the_user_can_be_left_to_the_cluster():
    assert read_settings({"CAI_RUN_AS_USER": "none"}).site.run_as_user is None


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("CAI_RESYNC_SECONDS", "five", "CAI_RESYNC_SECONDS: 'five' is no number"),
        ("CAI_RESYNC_SECONDS", "0.5", "CAI_RESYNC_SECONDS: 0.5 is below 1"),
        ("CAI_RESYNC_SECONDS", "-1", "CAI_RESYNC_SECONDS: -1 is below 1"),
        ("CAI_PROGRESS_SECONDS", "nan", "CAI_PROGRESS_SECONDS: 'nan' is no number"),
        ("CAI_PROGRESS_SECONDS", "inf", "CAI_PROGRESS_SECONDS: 'inf' is no number"),
        ("CAI_WORKERS", "0", "CAI_WORKERS: 0 is not between 1 and"),
        ("CAI_WORKERS", "2.5", "CAI_WORKERS: '2.5' is no whole number"),
        ("CAI_WORKERS", "inf", "CAI_WORKERS: 'inf' is no whole number"),
        ("CAI_RUN_AS_USER", "0", "CAI_RUN_AS_USER: 0 is not between 1 and"),
        ("CAI_RUN_AS_USER", "root", "CAI_RUN_AS_USER: 'root' is no whole number"),
        ("CAI_JOB_TTL_SECONDS", "99999999999", "CAI_JOB_TTL_SECONDS: 99999999999 is not between 60 and"),
        ("CAI_IMAGE_PULL_SECRETS", "a,B", "CAI_IMAGE_PULL_SECRETS: 'B' is no name of an object"),
        ("CAI_NAMESPACES", "a b", "CAI_NAMESPACES: 'a b' is no name of an object"),
        ("CAI_JUDGE_SECRET", "ngc", "CAI_JUDGE_SECRET: 'ngc' is not SECRET:KEY, such as ngc:api-key"),
        ("CAI_JUDGE_SECRET", "ngc:a key", "CAI_JUDGE_SECRET: 'ngc:a key' is not SECRET:KEY"),
        ("CAI_JUDGE_URL", "judge.example", "CAI_JUDGE_URL: 'judge.example' is no http or https address"),
        ("CAI_METRICS_PORT", "many", "CAI_METRICS_PORT: 'many' is no whole number"),
        ("CAI_LIVENESS_PORT", "65536", "CAI_LIVENESS_PORT: 65536 is not between 0 and 65535"),
        ("CAI_LOG_FORMAT", "xml", "CAI_LOG_FORMAT: 'xml' is none of text, json"),
        ("CAI_LOG_LEVEL", "INFO", "CAI_LOG_LEVEL: 'INFO' is none of debug, info, warning, error"),
        ("CAI_IMAGE_PULL_POLICY", "never", "CAI_IMAGE_PULL_POLICY: 'never' is none of Always, IfNotPresent, Never"),
    ],
)
def test_what_a_variable_cannot_be_is_said(name, value, sentence):
    with pytest.raises(InputError) as told:
        read_settings({name: value})
    assert str(told.value).startswith(sentence)


def test_a_misspelt_variable_is_not_passed_over():
    with pytest.raises(InputError) as told:
        read_settings({"CAI_RESYNC_SECOND": "5", "CAI_WORKER": "1", "PATH": "/bin"})
    assert str(told.value).startswith("CAI_RESYNC_SECOND, CAI_WORKER: no such setting; there are CAI_NAMESPACES, ")


def test_addresses_of_services_are_no_settings():
    """Kubernetes sets them in every container for each Service of its namespace: here one named cai-7b-serve."""
    links = {
        "CAI_7B_SERVE_SERVICE_HOST": "10.0.0.7",
        "CAI_7B_SERVE_SERVICE_PORT": "1427",
        "CAI_7B_SERVE_SERVICE_PORT_GENERATE": "1427",
        "CAI_7B_SERVE_PORT": "tcp://10.0.0.7:1427",
        "CAI_7B_SERVE_PORT_1427_TCP": "tcp://10.0.0.7:1427",
        "CAI_7B_SERVE_PORT_1427_TCP_PROTO": "tcp",
        "CAI_7B_SERVE_PORT_1427_TCP_PORT": "1427",
        "CAI_7B_SERVE_PORT_1427_TCP_ADDR": "10.0.0.7",
    }
    assert read_settings({**links, "CAI_IDENTITY": "me"}) == read_settings({"CAI_IDENTITY": "me"})


def test_in_a_pod_the_lease_is_in_its_own_namespace(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "NAMESPACE_FILE", tmp_path / "namespace")
    assert read_settings({}).lease_namespace == "default"
    (tmp_path / "namespace").write_text("cai-system\n")
    assert read_settings({}).lease_namespace == "cai-system"
    assert read_settings({"CAI_LEASE_NAMESPACE": "other"}).lease_namespace == "other"


def test_the_shipped_deployment_sets_what_there_is():
    (container,) = yaml.safe_load(DEPLOYMENT.read_text())["spec"]["template"]["spec"]["containers"]
    found = read_settings({variable["name"]: variable.get("value", "from-the-pod") for variable in container["env"]})
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"health": found.liveness_port, "metrics": found.metrics_port}
