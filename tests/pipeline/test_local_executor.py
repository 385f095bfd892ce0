"""The local executor with real processes: small programs that keep the program contract, and a plan that runs them."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cai_operator.local import Timing, execute, lock, read_status
from cai_operator.status import parse_status
from cai_operator.workloads import JobState, Kind, Probe, Resources, SecretReference, Workload

QUICK = Timing(poll_s=0.02, grace_s=5.0, backoff_s=0.02)

# every program gets the flags of its command and --termination-message FILE
PRELUDE = """
import http.server, json, os, signal, sys, time
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
def say(**word):
    open(flags["--termination-message"], "w").write(json.dumps(word))
def count(path):
    with open(path, "a") as file:
        file.write("x")
    return os.path.getsize(path)
"""

SERVER = """
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            os._exit(1)
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()
        self.wfile.write(flags["--port"].encode())
    def log_message(self, *rest):
        pass
time.sleep(float(flags.get("--warm-up", 0)))
print("listening on", flags["--port"], flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(flags["--port"])), Handler).serve_forever()
"""


def job(name: str, code: str, *flags: str, **fields: object) -> Workload:
    command = ("python", "-c", PRELUDE + code, *flags)
    return replace(Workload(name=name, kind=Kind.JOB, node=name, key="k", command=command), **fields)


def server(name: str, port: int, code: str = SERVER, *flags: str, **fields: object) -> Workload:
    command = ("python", "-c", PRELUDE + code, "--port", "{port}", *flags)
    probe = Probe(port, "/ready")
    return replace(Workload(name=name, kind=Kind.SERVER, node=name, key="k", command=command, probe=probe), **fields)


@dataclass
class Plan:
    """Servers first; jobs once all servers are ready; everything is over when no job is left or one has failed."""

    workloads: list[Workload]
    serve: bool = False

    def __call__(self, status, observed, now, address_of):
        self.observed = observed
        servers = [self.rendered(w, address_of) for w in self.workloads if w.kind == Kind.SERVER]
        jobs = [w for w in self.workloads if w.kind == Kind.JOB]
        states = {name: seen.state for name, seen in observed.jobs.items()}
        done = all(states.get(w.name) == JobState.SUCCEEDED for w in jobs)
        failed = JobState.FAILED in states.values() or any(seen.failed for seen in observed.servers.values())
        ready = all(w.name in observed.servers and observed.servers[w.name].ready for w in servers)
        jobs = [self.rendered(w, address_of) for w in jobs]
        apply = list(servers) if self.serve or not done else []
        started = [w for w in jobs if w.name in observed.jobs]
        apply += jobs if ready else started
        phase = "Succeeded" if done else "Failed" if failed else "Running"
        delete = [] if apply else list(observed.servers)
        stages = [{"name": name, "state": "Running"} for name, state in states.items() if state == JobState.RUNNING]
        new = parse_status({"phase": phase, "stages": stages})
        return SimpleNamespace(apply=apply if not failed else [], delete=delete, status=new, events=())

    def rendered(self, workload: Workload, address_of) -> Workload:
        asked = [w for w in self.workloads if w.kind == Kind.SERVER and w.node == workload.node]
        if not asked:
            return workload
        _, port = address_of(asked[0].name, asked[0].probe.port)
        return replace(workload, command=tuple(part.replace("{port}", str(port)) for part in workload.command))


class Quiet:
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def show(self, status, servers) -> None:
        pass

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)


def run(tmp_path: Path, *workloads: Workload, timing: Timing = QUICK, **options):
    plan = Plan(list(workloads))
    outcome = execute(plan, tmp_path, Quiet(), timing=timing, **options)
    return outcome, plan.observed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def starts(log: Path, port: int) -> int:
    return log.read_text().splitlines().count(f"listening on {port}")


def processes_naming(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if text.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_a_job_that_ends_well_has_its_last_word_and_newest_progress(tmp_path):
    code = """
for done in (1, 2):
    print(json.dumps({"progress": {"done": done, "total": 2, "unit": "rows"}}), flush=True)
    time.sleep(0.2)
say(metrics={"rows": 2})
"""
    outcome, seen = run(tmp_path, job("rows", code))
    assert outcome.status.phase == "Succeeded"
    assert seen.jobs["rows"].last_word == {"metrics": {"rows": 2}}
    assert seen.jobs["rows"].progress == {"done": 2, "total": 2, "unit": "rows"}
    assert seen.jobs["rows"].attempts == 1
    assert json.loads((tmp_path / "status.json").read_text())["phase"] == "Succeeded"


def test_a_failing_job_is_tried_again_and_its_log_has_a_header_for_each_attempt(tmp_path):
    code = f"""
attempt = count({str(tmp_path / "tries")!r})
print("attempt number", attempt, flush=True)
if attempt < 3:
    say(error="not yet")
    sys.exit(1)
say(metrics={{}})
"""
    outcome, seen = run(tmp_path, job("again", code, retries=2))
    assert outcome.status.phase == "Succeeded"
    assert seen.jobs["again"].attempts == 3
    log = (tmp_path / "logs" / "again.log").read_text()
    assert log.count("==== ") == 3
    assert log.index("attempt number 1") < log.index("attempt 2:") < log.index("attempt number 2")


def test_a_job_that_fails_too_often_is_failed_with_its_own_sentence(tmp_path):
    code = f"count({str(tmp_path / 'tries')!r}); say(error='the hub is away'); sys.exit(1)"
    outcome, seen = run(tmp_path, job("hub", code, retries=1))
    assert outcome.status.phase == "Failed"
    assert (seen.jobs["hub"].problem, seen.jobs["hub"].problem_reason) == ("the hub is away", "RetriesExhausted")
    assert (tmp_path / "tries").stat().st_size == 2


def test_exit_2_is_not_tried_again(tmp_path):
    code = f"count({str(tmp_path / 'tries')!r}); say(error='f.jsonl:7: not JSON'); sys.exit(2)"
    _, seen = run(tmp_path, job("bad", code, retries=5))
    assert (seen.jobs["bad"].problem, seen.jobs["bad"].problem_reason) == ("f.jsonl:7: not JSON", "InputError")
    assert (tmp_path / "tries").stat().st_size == 1


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL; the machine may have run out of memory"),
        ("print('the disk is on strike'); sys.exit(7)", "exited with code 7: the disk is on strike"),
        ("sys.exit(7)", "exited with code 7"),
        ("print('error: the disk is full'); print('warning: so it is'); sys.exit(1)", "the disk is full"),
    ],
)
def test_an_end_without_a_last_word_is_explained(tmp_path, code, sentence):
    _, seen = run(tmp_path, job("mute", code, retries=0))
    assert seen.jobs["mute"].problem == sentence


def test_a_last_word_of_an_earlier_attempt_is_not_taken_for_this_ones(tmp_path):
    code = f"""
if count({str(tmp_path / "tries")!r}) == 1:
    say(error="old words")
    sys.exit(1)
os.kill(os.getpid(), signal.SIGTERM)
"""
    _, seen = run(tmp_path, job("words", code, retries=1))
    assert seen.jobs["words"].problem == "killed by SIGTERM"


def test_exit_0_without_the_artifact_is_a_failure(tmp_path):
    _, seen = run(tmp_path, job("liar", "say(metrics={})", retries=0, artifact="p/liar/k"))
    assert seen.jobs["liar"].problem == "ended without publishing p/liar/k"


def test_artifacts_on_the_disk_are_observed_as_published(tmp_path):
    directory = tmp_path / "artifacts" / "p" / "rows" / "k"
    code = f"""
os.makedirs({str(directory)!r})
manifest = {{"key": "k", "files": [], "metrics": {{"rows": 3}}}}
open({str(directory / "manifest.json")!r}, "w").write(json.dumps(manifest))
say(metrics={{"rows": 3}})
"""
    half = tmp_path / "artifacts" / "p" / "rows" / "other.partial"
    half.mkdir(parents=True)
    (half / "manifest.json").write_text('{"key": "other", "files": [], "metrics": {}}')
    _, seen = run(tmp_path, job("rows", code, artifact="p/rows/k"))
    assert list(seen.published) == ["p/rows/k"]
    assert seen.published["p/rows/k"]["metrics"] == {"rows": 3}
    assert seen.published["p/rows/k"]["artifact"]["key"] == "k"


def test_an_overrunning_job_is_stopped_at_its_deadline_with_what_it_started(tmp_path):
    code = """
import subprocess
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(97)", flags["--mark"]])
time.sleep(97)
"""
    mark = f"mark-{tmp_path.name}-{os.getpid()}"
    _, seen = run(tmp_path, job("slow", code, "--mark", mark, deadline_s=1))
    assert seen.jobs["slow"].problem == "took longer than its deadline of 1 s and was stopped"
    assert processes_naming(mark) == []


def test_children_of_a_finished_job_do_not_stay(tmp_path):
    code = """
import subprocess
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(97)", flags["--mark"]])
say(metrics={})
"""
    mark = f"mark-{tmp_path.name}-{os.getpid()}"
    outcome, _ = run(tmp_path, job("parent", code, "--mark", mark))
    assert outcome.status.phase == "Succeeded"
    assert processes_naming(mark) == []


def test_a_job_starts_when_its_server_is_ready_and_the_server_is_stopped_after_it(tmp_path):
    port = free_port()
    ask = f"""
import urllib.request
urllib.request.urlopen("http://127.0.0.1:{port}/ready")
say(metrics={{}})
"""
    mark = f"mark-{tmp_path.name}-{os.getpid()}"
    outcome, seen = run(
        tmp_path, server("model", port, SERVER, "--mark", mark, "--warm-up", "0.5"), job("ask", ask, retries=0)
    )
    assert outcome.status.phase == "Succeeded", seen
    assert processes_naming(mark) == []


def test_two_servers_with_the_same_port_get_one_each_and_a_port_in_use_is_avoided(tmp_path):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        outcome, _ = run(tmp_path, server("one", port), server("two", port), job("wait", "say(metrics={})"))
    assert outcome.status.phase == "Succeeded"
    ports = {(tmp_path / "logs" / f"{name}.log").read_text().split()[-1] for name in ("one", "two")}
    assert len(ports) == 2
    assert str(port) not in ports


def test_a_server_that_dies_is_started_again_and_its_job_goes_on(tmp_path):
    port = free_port()
    ask = f"""
import urllib.request
if count({str(tmp_path / "tries")!r}) == 1:
    try:
        urllib.request.urlopen("http://127.0.0.1:{port}/die")
    except OSError:
        pass
deadline = time.time() + 30
while time.time() < deadline:
    try:
        urllib.request.urlopen("http://127.0.0.1:{port}/ready")
        say(metrics={{}})
        sys.exit(0)
    except OSError:
        time.sleep(0.05)
sys.exit(1)
"""
    outcome, seen = run(tmp_path, server("model", port), job("ask", ask, retries=0))
    assert outcome.status.phase == "Succeeded", seen
    assert starts(tmp_path / "logs" / "model.log", port) == 2


def test_a_job_is_told_where_a_server_is_that_has_lost_its_port(tmp_path):
    port, died = free_port(), tmp_path / "died"
    ask = f"""
import urllib.request
url = "http://127.0.0.1:" + flags["--port"]
if count({str(tmp_path / "tries")!r}) == 1:
    try:
        urllib.request.urlopen(url + "/die")
    except OSError:
        open({str(died)!r}, "w").close()
    time.sleep(60)
urllib.request.urlopen(url + "/ready")
say(metrics=dict(port=int(flags["--port"])))
"""

    def take_the_port() -> None:
        while not died.exists():
            time.sleep(0.005)
        while True:
            try:
                busy.bind(("127.0.0.1", port))
            except OSError:  # the dying server has it still
                time.sleep(0.005)
            else:
                break
        busy.listen()

    with socket.socket() as busy:
        busy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief = threading.Thread(target=take_the_port)
        thief.start()
        asker = job("ask", ask, "--port", "{port}", node="model", retries=0)
        outcome, seen = run(tmp_path, server("model", port), asker, timing=replace(QUICK, backoff_s=1.0))
        thief.join()
        assert busy.getsockname()[1] == port
    assert outcome.status.phase == "Succeeded", seen
    assert seen.jobs["ask"].last_word["metrics"]["port"] != port


def test_a_server_that_cannot_stay_up_fails_with_its_last_sentence(tmp_path):
    code = "say(error='the model is not there'); sys.exit(1)"
    outcome, seen = run(tmp_path, server("model", free_port(), code, retries=1), job("ask", "say()"))
    assert outcome.status.phase == "Failed"
    assert seen.servers["model"].failed
    assert seen.servers["model"].problem == "the model is not there"
    assert "ask" not in seen.jobs


@pytest.mark.parametrize("first_to_die", ["critic", "actor"])
def test_critic_and_actor_are_one_unit(tmp_path, first_to_die):
    port = free_port()
    die = f"urllib.request.urlopen('http://127.0.0.1:{port}/die')" if first_to_die == "critic" else "sys.exit(1)"
    actor = f"""
import urllib.request
if count({str(tmp_path / "tries")!r}) == 1:
    try:
        {die}
    except OSError:
        time.sleep(60)
urllib.request.urlopen("http://127.0.0.1:{port}/ready")
say(metrics={{}})
"""
    critic = server("critic", port, node="ppo")
    outcome, seen = run(tmp_path, critic, job("actor", actor, node="ppo", retries=1))
    assert outcome.status.phase == "Succeeded", seen
    assert (tmp_path / "tries").stat().st_size == 2
    assert starts(tmp_path / "logs" / "critic.log", port) == 2


def test_a_secret_reaches_its_program_only_and_nothing_that_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("NGC_API_KEY", "s3cret-value")
    monkeypatch.setenv("UNRELATED_TOKEN", "other-value")
    code = """
assert os.environ["NGC_API_KEY"] == "-".join(["s3" + "cret", "value"]) and "UNRELATED_TOKEN" not in os.environ
say(error="the judge refuses " + os.environ["NGC_API_KEY"])
sys.exit(2)
"""
    secrets = {"NGC_API_KEY": SecretReference("ngc", "api-key")}
    _, seen = run(tmp_path, job("judge", code, secrets=secrets))
    assert seen.jobs["judge"].problem == "the judge refuses $NGC_API_KEY"
    assert "s3cret" not in repr(seen)
    assert "s3cret" not in (tmp_path / "status.json").read_text()
    assert "s3cret" not in (tmp_path / "logs" / "judge.log").read_text()


def test_a_program_without_secrets_sees_none(tmp_path, monkeypatch):
    monkeypatch.setenv("NGC_API_KEY", "s3cret-value")
    outcome, _ = run(tmp_path, job("plain", "assert 'NGC_API_KEY' not in os.environ; say(metrics={})", retries=0))
    assert outcome.status.phase == "Succeeded"


def test_a_missing_secret_names_the_variable(tmp_path, monkeypatch):
    monkeypatch.delenv("NGC_API_KEY", raising=False)
    _, seen = run(tmp_path, job("judge", "say()", secrets={"NGC_API_KEY": SecretReference("ngc", "api-key")}))
    assert "the environment variable NGC_API_KEY is not set" in seen.jobs["judge"].problem
    assert not (tmp_path / "logs" / "judge.log").exists()


def test_texts_are_laid_before_the_program_starts(tmp_path):
    code = "assert open(flags['--file']).read() == 'be kind'; say(metrics={})"
    path = tmp_path / "texts" / "reads" / "principles.json"
    outcome, _ = run(tmp_path, job("reads", code, "--file", str(path), retries=0, texts={"principles.json": "be kind"}))
    assert outcome.status.phase == "Succeeded"


def test_gpus_are_handed_out_one_program_each(tmp_path):
    code = f"""
place = os.path.join({str(tmp_path)!r}, "gpu-" + os.environ["CUDA_VISIBLE_DEVICES"])
os.mkdir(place)
time.sleep(0.2)
os.rmdir(place)
say(metrics={{}})
"""
    jobs = [job(f"train{n}", code, retries=0, resources=Resources(gpus=1)) for n in range(4)]
    outcome, seen = run(tmp_path, *jobs, devices=("0", "3"))
    assert outcome.status.phase == "Succeeded", seen


def test_more_gpus_than_there_are_is_a_sentence(tmp_path):
    _, seen = run(tmp_path, job("train", "say()", resources=Resources(gpus=8)), devices=("0",))
    assert seen.jobs["train"].problem == "asks for 8 GPU(s), this machine offers 1; lower gpusPerNode or server.gpus"


def test_a_program_that_does_not_exist_is_a_failure_with_its_name(tmp_path):
    nothing = Workload(name="gone", kind=Kind.JOB, node="gone", key="k", command=("no-such-program",), retries=0)
    _, seen = run(tmp_path, nothing)
    assert seen.jobs["gone"].problem.startswith("no-such-program could not be started")


def test_a_second_run_in_the_same_directory_is_refused(tmp_path):
    with lock(tmp_path), pytest.raises(Exception, match=f"process {os.getpid()}.*works here"), lock(tmp_path):
        pass
    with lock(tmp_path):
        pass


def test_a_damaged_status_file_counts_as_none(tmp_path):
    (tmp_path / "status.json").write_text('{"phase": ')
    assert read_status(tmp_path).phase == "Pending"


def test_a_status_file_that_cannot_be_written_does_not_end_the_run(tmp_path):
    (tmp_path / "status.json").mkdir()
    view = Quiet()
    outcome = execute(Plan([job("rows", "say(metrics={})")]), tmp_path, view, timing=QUICK)
    assert outcome.status.phase == "Succeeded"
    assert sum("status.json cannot be written" in sentence for sentence in view.sentences) == 1


def test_the_status_file_is_not_written_again_without_a_change(tmp_path):
    stamps = set()

    class Watching(Quiet):
        def show(self, status, servers) -> None:
            if status.stages:
                stamps.add((tmp_path / "status.json").stat().st_mtime_ns)

    execute(Plan([job("rows", "time.sleep(0.6); say(metrics={})")]), tmp_path, Watching(), timing=QUICK)
    assert len(stamps) == 1


def test_python_means_the_interpreter_that_runs_us(tmp_path):
    code = f"assert os.path.samefile(sys.executable, {sys.executable!r}); say(metrics={{}})"
    outcome, _ = run(tmp_path, job("which", code, retries=0))
    assert outcome.status.phase == "Succeeded"


def test_time_zone_free_start_and_end_are_kept(tmp_path):
    before = time.time()
    _, seen = run(tmp_path, job("clock", "say(metrics={})"))
    assert (
        before - 1 <= seen.jobs["clock"].started.timestamp() <= seen.jobs["clock"].finished.timestamp() <= time.time()
    )
