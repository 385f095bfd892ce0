"""What the commands for a cluster make of kubectl's words and of a pipeline's status; with a real one in tests/api."""

from __future__ import annotations

import json

import pytest

from cai_jobs.contract.program import InputError, RetryableError
from cai_operator.cli import main
from cai_operator.cluster_commands import view_of
from cai_operator.kubectl import NoCluster, Target, problem_of
from cai_operator.status import parse_status
from cai_operator.status_table import print_status, trouble

# what kubectl 1.32 to 1.35 wrote to standard error
LOG_LINES = (
    'E1122 00:06:20.829734    2086 memcache.go:265] "Unhandled Error" err="couldn\'t get current server API group '
    'list: Get \\"http://localhost:8080/api?timeout=5s\\": dial tcp 127.0.0.1:8080: connect: connection refused"\n'
)


@pytest.mark.parametrize(
    ("said", "kind", "sentence"),
    [
        (
            LOG_LINES + "The connection to the server localhost:8080 was refused - did you specify the right host or "
            "port?\n",
            NoCluster,
            "set KUBECONFIG",
        ),
        ("Please enter Username: error: EOF\n", InputError, "log in first"),
        (
            "Unable to connect to the server: dial tcp: lookup nowhere.example on 10.0.0.2:53: no such host\n",
            RetryableError,
            "cannot be reached: Unable to connect to the server: dial tcp: lookup nowhere.example",
        ),
        (
            "Unable to connect to the server: net/http: request canceled while waiting for connection (Client.Timeout "
            "exceeded while awaiting headers)\n",
            RetryableError,
            "cannot be reached",
        ),
        (
            'error: the server doesn\'t have a resource type "caipipelines"\n',
            InputError,
            "kubectl apply -f crds/ -f operator/install/",
        ),
        ("error: You must be logged in to the server (Unauthorized)\n", InputError, "You must be logged in"),
        (
            'Warning: old\nError from server (Forbidden): caipipelines.cai.dev "p" is forbidden: User "u" cannot '
            'get resource "caipipelines"\n',
            InputError,
            'kubectl: (Forbidden): caipipelines.cai.dev "p" is forbidden',
        ),
        ('error: error loading config file "/x": open /x: permission denied\n', InputError, "permission denied"),
        ("", InputError, "failed without a word"),
    ],
)
def test_kubectls_words_become_one_sentence(said, kind, sentence):
    problem = problem_of(said)
    assert type(problem) is kind
    assert sentence in str(problem)
    assert "\n" not in str(problem)
    assert "memcache" not in str(problem)


def test_flags_name_the_same_cluster_again():
    assert Target().flags() == []
    assert not Target().is_given
    assert Target("lab", "big", "/etc/k").flags() == ["--namespace=lab", "--context=big", "--kubeconfig=/etc/k"]


def document(status, generation=1, **annotations):
    return {"metadata": {"generation": generation, "annotations": annotations}, "status": status}


def test_a_status_is_current_once_the_operator_has_seen_spec_and_retry():
    failed = {"observedGeneration": 1, "phase": "Failed", "stages": [{"name": "sft", "state": "Failed"}]}
    assert view_of(document(failed))[1]
    assert not view_of(document(failed, generation=2))[1]
    assert not view_of(document(failed, **{"cai.dev/retry": "now"}))[1]
    failed["retry"] = "now"
    assert view_of(document(failed, **{"cai.dev/retry": "now"}))[1]
    assert not view_of({"metadata": {"generation": 1}})[1]


def test_trouble_is_said_once(capsys):
    condition = {"type": "Degraded", "status": "True", "reason": "SecretMissing", "message": "Secret s does not exist"}
    condition["lastTransitionTime"] = "2026-01-01T10:00:00Z"
    running = {"phase": "Running", "message": "working on sft", "conditions": [condition]}
    assert trouble(parse_status(running)) == ["SecretMissing: Secret s does not exist"]
    print_status(parse_status(running))
    assert capsys.readouterr().out == "phase: Running\nworking on sft\nSecretMissing: Secret s does not exist\n"
    print_status(parse_status({**running, "message": condition["message"]}))
    assert capsys.readouterr().out == "phase: Running\nSecretMissing: Secret s does not exist\n"
    assert trouble(parse_status({**running, "conditions": [{**condition, "status": "False"}]})) == []


def test_watch_follows_a_local_run_to_its_end(tmp_path, capsys):
    stages = [{"name": "models", "state": "Succeeded"}]
    status = {"phase": "Failed", "message": "sft failed: no room", "stages": stages}
    (tmp_path / "status.json").write_text(json.dumps(status))
    with pytest.raises(SystemExit) as caught:
        main(["status", str(tmp_path), "--watch"])
    assert caught.value.code == 1
    assert capsys.readouterr().out.endswith("sft failed: no room\n")


def test_a_piped_table_breaks_no_line_and_pads_none(tmp_path, capsys):
    sentence = "a reason of many words " * 20
    stages = [{"name": "models", "state": "Waiting", "message": sentence.strip()}, {"name": "sft", "state": "Waiting"}]
    (tmp_path / "status.json").write_text(json.dumps({"stages": stages}))
    with pytest.raises(SystemExit):
        main(["status", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith(sentence.strip()) for line in lines)
    assert all(line == line.rstrip() for line in lines)
