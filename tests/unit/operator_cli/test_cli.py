from __future__ import annotations

import http.server
import json
import threading

import pytest
import yaml

from cai_operator.cli import main
from cai_operator.local import lock

STATUS = {
    "phase": "Running",
    "progress": "1/2",
    "stages": [
        {"name": "models", "state": "Succeeded", "started": "2026-01-01T10:00:00Z", "finished": "2026-01-01T10:00:42Z"},
        {"name": "sft", "state": "Running", "attempts": 2, "progress": {"done": 3, "total": 9, "unit": "steps"}},
        {"name": "serve", "state": "Waiting", "message": "waits for [sft]"},
    ],
}


def cai(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in argv])
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def workdir(tmp_path):
    (tmp_path / "status.json").write_text(json.dumps(STATUS))
    return tmp_path


def test_status_as_json_and_yaml_is_the_resources_status(tmp_path, capsys):
    directory = workdir(tmp_path)
    code, as_json, _ = cai(capsys, "status", directory, "-o", "json")
    assert code == 0
    assert json.loads(as_json)["stages"][1]["progress"]["total"] == 9
    _, as_yaml, _ = cai(capsys, "status", directory, "-o", "yaml")
    assert yaml.safe_load(as_yaml) == json.loads(as_json)


def test_status_as_a_table(tmp_path, capsys):
    directory = workdir(tmp_path)
    code, table, _ = cai(capsys, "status", directory)
    assert code == 0
    assert "phase: Running (1/2 stages)" in table
    assert "no cai run works here now" in table
    rows = {line.split()[0]: line for line in table.splitlines() if line.strip()}
    assert "42 s" in rows["models"]
    assert "3 of 9 steps" in rows["sft"]
    assert "waits for [sft]" in rows["serve"]
    with lock(directory):
        assert "no cai run works here" not in cai(capsys, "status", directory)[1]


def test_status_and_report_of_a_directory_without_a_run(tmp_path, capsys):
    code, _, err = cai(capsys, "status", tmp_path)
    assert (code, err) == (2, f"error: {tmp_path}/status.json: no such file; cai run --workdir makes it\n")
    code, _, err = cai(capsys, "report", tmp_path)
    assert code == 2
    assert err.startswith(f"error: {tmp_path}/report.html: no such file")


def test_report_prints_the_path_only(tmp_path, capsys):
    (tmp_path / "report.html").write_text("<html>")
    assert cai(capsys, "report", tmp_path) == (0, f"{tmp_path}/report.html\n", "")


@pytest.mark.parametrize(
    "argv", [[], ["fly"], ["run", "f.yaml"], ["run", "f.yaml", "--workdir", "d", "--parallel", "0"]]
)
def test_wrong_usage_is_exit_2_with_usage(capsys, argv):
    code, _, err = cai(capsys, *argv)
    assert code == 2
    assert "usage: cai" in err


@pytest.mark.parametrize("command", [["validate"], ["run", "--workdir", "unused"]])
def test_a_mistake_in_a_file_is_a_sentence_with_file_and_line(tmp_path, capsys, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.yaml").write_text("kind: CAIPipeline\nspec: {engine: hf\n")
    code, out, err = cai(capsys, *command, "f.yaml")
    assert (code, out) == (2, "")
    assert err.startswith("error: f.yaml:")
    assert "Traceback" not in err
    assert not (tmp_path / "unused").exists()


@pytest.fixture
def model_server():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.requests.append(request)
            body = json.dumps({"sentences": [request["sentences"][0] + "With flour.\n<extra_id_1>"]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *rest):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.requests = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_ask_prints_the_answer_without_the_prompt(capsys, model_server):
    url = f"http://127.0.0.1:{model_server.server_port}"
    assert cai(capsys, "ask", "How do I bake?", "--url", url, "--max-tokens", "7") == (0, "With flour.\n", "")
    assert model_server.requests[0]["tokens_to_generate"] == 7


def test_ask_says_who_does_not_answer(capsys):
    code, _, err = cai(capsys, "ask", "Hello?", "--url", "http://127.0.0.1:1")
    assert code == 1
    assert err.startswith("error: http://127.0.0.1:1/generate does not answer")


NEMO = """\
apiVersion: cai.dev/v1alpha1
kind: CAIPipeline
metadata: {name: tiny}
spec:
  engine: nemo
  models: {base: {huggingFace: {repo: mistralai/Mistral-7B-v0.1}}}
"""


@pytest.mark.parametrize(
    ("addition", "code", "sentence"),
    [
        ("  judge: {url: 'https://j/v1/chat/completions', model: m}\n", 0, "CAIPipeline tiny is valid"),
        ("  judge: {self: true}\n", 2, "spec.judge.self: Megatron's model server has no chat API"),
        ("", 2, "spec.judge.apiKeySecret: NVIDIA's endpoint, the default judge, wants a key"),
        (
            "  judge: {url: 'https://j/v1', model: m}\n  stages: {sft: {overrides: {trainer.devices: 2}}}\n",
            2,
            "spec.stages.sft.overrides.trainer.devices: found a setting the operator makes itself",
        ),
    ],
)
def test_validate_says_what_engine_nemo_has_not(tmp_path, capsys, addition, code, sentence):
    path = tmp_path / "pipeline.yaml"
    path.write_text(NEMO + addition)
    ended, out, err = cai(capsys, "validate", path)
    assert ended == code
    assert sentence in out + err


def test_run_says_that_engine_nemo_is_for_clusters(tmp_path, capsys):
    path = tmp_path / "pipeline.yaml"
    path.write_text(NEMO + "  judge: {url: 'https://j/v1', model: m}\n")
    code, _, err = cai(capsys, "run", path, "--workdir", tmp_path / "work")
    assert code == 2
    assert "apply it to a cluster" in err
