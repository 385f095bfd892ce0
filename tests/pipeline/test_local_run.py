"""`cai run` in whole, with small programs in place of the stages' own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cai_operator.cli import main
from cai_operator.local import lock

MANIFEST = """
apiVersion: cai.dev/v1alpha1
kind: CAIPipeline
metadata: {name: small}
spec:
  engine: hf
  models: {base: {pocket: {}}}
"""

# what stands in for each stage's program: an engine whose jobs publish an empty artifact, or fail if a file says so
ENGINE = """
import os, sys
from pathlib import Path
from cai_operator.engines import hf
from cai_operator.workloads import Kind, Probe, Workload

CONTROL = Path(os.environ["CONTROL"])
JOB = '''
import json, os, sys, time
node, directory, header, control = sys.argv[1:5]
message = sys.argv[sys.argv.index("--termination-message") + 1]
with open(os.path.join(control, "ran"), "a") as file:
    file.write(node + "\\\\n")
while os.path.exists(os.path.join(control, "hold-" + node)):
    time.sleep(0.02)
if os.path.exists(os.path.join(control, "fail-" + node)):
    json.dump({"error": node + ": row 7 makes no sense"}, open(message, "w"))
    sys.exit(2)
os.makedirs(directory + ".partial")
metrics = {"harmfulRate": 0.5, "helpfulRate": 0.75} if node.startswith("evaluate") else {"rows": 3}
if node == "report":
    open(directory + ".partial/report.html", "w").write("<html>")
manifest = {"key": directory.rpartition("/")[2], "files": [], "metrics": metrics}
json.dump(manifest, open(directory + ".partial/manifest.json", "w"))
os.rename(directory + ".partial", directory)
json.dump({"metrics": metrics}, open(message, "w"))
'''

def job(run):
    command = ("python", "-c", JOB, run.node.name, run.artifact(), "{}", str(CONTROL))
    return Workload(name=run.job_name, kind=Kind.JOB, node=run.node.name, key=run.key, command=command,
                    artifact=run.artifact_path())

def servers(run):
    if run.node.name != "serve":
        return ()
    from cai_operator import names
    name = names.serve_name(run.pipeline.name)
    host, port = run.places.address_of(name, run.pipeline.spec.stages.serve.port)
    listen = (
        "from http.server import HTTPServer, SimpleHTTPRequestHandler as Handler; import sys; "
        "HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()"
    )
    command, probe = ("python", "-c", listen, str(port)), Probe(port, "/")
    return (Workload(name=name, kind=Kind.SERVER, node="serve", key=run.key, command=command, probe=probe),)

hf.job, hf.servers = job, servers
from cai_operator.cli import main
main()
"""


class Cai:
    def __init__(self, tmp_path: Path) -> None:
        self.manifest, self.workdir, self.control = tmp_path / "p.yaml", tmp_path / "work", tmp_path / "control"
        self.manifest.write_text(MANIFEST)
        self.control.mkdir()

    def start(self, *flags: str) -> subprocess.Popen:
        command = [sys.executable, "-c", ENGINE, "run", str(self.manifest), "--workdir", str(self.workdir), *flags]
        environment = {**os.environ, "CONTROL": str(self.control), "COLUMNS": "110"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)

    def run(self, *flags: str) -> tuple[int, str]:
        process = self.start(*flags)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def ran(self) -> list[str]:
        path = self.control / "ran"
        found = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    def status(self) -> dict:
        return json.loads((self.workdir / "status.json").read_text())

    def stages(self) -> dict[str, dict]:
        return {stage["name"]: stage for stage in self.status()["stages"]}


@pytest.fixture
def cai(tmp_path):
    return Cai(tmp_path)


ALL = {"models", "datasets", "slData", "sft", "rlData", "rewardModel", "ppo", "report"} | {
    "evaluateBase",
    "evaluateSlCai",
    "evaluateRlCai",
}


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited for a minute in vain"
        time.sleep(0.02)


def test_a_whole_run_then_one_that_finds_all_done_then_one_that_makes_what_is_missing(cai):
    code, output = cai.run("--parallel", "3")
    assert code == 0, output
    ran = cai.ran()
    assert set(ran) == ALL
    assert ran.index("slData") > max(ran.index("models"), ran.index("datasets"))
    status = cai.status()
    assert status["phase"] == "Succeeded"
    assert cai.stages()["evaluate"]["metrics"]["rlCai"]["harmfulRate"] == 0.5
    assert cai.stages()["serve"]["message"] == "not kept running by cai run; --serve keeps it"
    assert "50.0 %" in output
    assert "RL-CAI" in output
    assert f"report: {cai.workdir}/report.html" in output
    assert (cai.workdir / "report.html").read_text() == "<html>"

    code, output = cai.run()
    assert (code, cai.ran()) == (0, [])
    assert f"everything was found done in {cai.workdir}; nothing had to be run" in output
    assert "ppo: found done already" in output

    (sft,) = (cai.workdir / "artifacts" / "small" / "sft").glob("*/manifest.json")
    sft.unlink()
    sft.parent.rmdir()
    code, output = cai.run()
    assert code == 0, output
    assert cai.ran() == ["sft"]


def test_a_failed_stage_is_told_and_tried_again_by_the_next_run(cai):
    (cai.control / "fail-sft").touch()
    code, output = cai.run("--parallel", "2")
    assert code == 1
    assert "sft failed: sft: row 7 makes no sense" in output
    log = cai.stages()["sft"]["log"]
    assert f"its log: {log}" in output
    assert Path(log).read_text().startswith("==== ")
    assert "Traceback" not in output
    assert "evaluateBase" in cai.ran()  # what does not need the failed stage goes on
    assert cai.status()["phase"] == "Failed"

    (cai.control / "fail-sft").unlink()
    code, output = cai.run("--parallel", "2")
    assert code == 0, output
    ran = cai.ran()
    assert ran[0] == "sft"
    assert not {"models", "datasets", "slData", "evaluateBase"} & set(ran)


def test_ctrl_c_leaves_a_status_and_the_same_command_goes_on(cai):
    (cai.control / "hold-slData").touch()
    process = cai.start()
    wait_for(lambda: (cai.control / "ran").exists() and "slData" in (cai.control / "ran").read_text())
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped; the same command goes on from here" in output
    assert cai.stages()["slData"]["state"] == "Waiting"
    cai.ran()
    (cai.control / "hold-slData").unlink()
    code, output = cai.run()
    assert code == 0, output
    assert not {"models", "datasets"} & set(cai.ran())


def test_serve_keeps_the_model_up_until_ctrl_c(cai):
    process = cai.start("--serve", "--parallel", "3")
    wait_for(lambda: process.poll() is not None or (cai.workdir / "report.html").exists())
    time.sleep(0.5)  # what ends by itself now is not kept up
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "served at http://127.0.0.1:" in output
    assert "everything was found done" not in output
    status = cai.status()
    assert status["phase"] == "Succeeded"
    assert "endpoint" not in status


def refused(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in argv])
    captured = capsys.readouterr()
    assert caught.value.code == 2
    assert "Traceback" not in captured.err
    return captured.err


def test_a_second_run_is_refused(cai, capsys):
    with lock(cai.workdir):
        assert "works here; wait for it" in refused(capsys, "run", cai.manifest, "--workdir", cai.workdir)


def test_a_suspended_pipeline_is_not_run(cai, capsys):
    cai.manifest.write_text(MANIFEST + "  suspend: true\n")
    assert "spec.suspend is true" in refused(capsys, "run", cai.manifest, "--workdir", cai.workdir)


@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_wrong_field_is_told_with_its_path(cai, capsys, command):
    cai.manifest.write_text(MANIFEST + "  sede: 3\n")
    flags = ["--workdir", cai.workdir] if command == "run" else []
    assert "spec.sede" in refused(capsys, command, cai.manifest, *flags)
    assert not cai.workdir.exists()


def test_texts_come_from_config_maps_given_with_the_pipeline(cai, capsys, tmp_path):
    cai.manifest.write_text(MANIFEST + "  constitution: {configMap: {name: mine}}\n")
    assert "ConfigMap mine, the constitution, does not exist" in refused(capsys, "validate", cai.manifest)
    texts = tmp_path / "texts.yaml"
    texts.write_text("kind: ConfigMap\nmetadata: {name: mine}\ndata:\n  judge_system_prompt.txt: Be fair.\n")
    with pytest.raises(SystemExit) as caught:
        main(["validate", str(cai.manifest), str(texts)])
    assert caught.value.code == 0
    assert "CAIPipeline small is valid" in capsys.readouterr().out


def test_a_constitution_directory_lies_beside_the_manifest(cai, capsys, tmp_path):
    cai.manifest.write_text(MANIFEST + "  constitution: {path: principles}\n")
    assert f"{tmp_path}/principles is no directory" in refused(capsys, "validate", cai.manifest)
    (tmp_path / "principles").mkdir()
    assert "has none of" in refused(capsys, "validate", cai.manifest)
    (tmp_path / "principles" / "judge_system_prompt.txt").write_text("Be fair.")
    with pytest.raises(SystemExit) as caught:
        main(["validate", str(cai.manifest)])
    assert caught.value.code == 0
