"""Stand-ins for NeMo-Aligner's critic and actor, with their protocol, files and bad habits, in milliseconds.

    python stand_in_pair.py critic exp_manager.explicit_log_dir=DIR trainer.ppo.port=PORT
    python stand_in_pair.py actor exp_manager.explicit_log_dir=DIR remote_critic_rm.critic.port=PORT steps=8 [--habit=H]

What each has learnt is a digest of all it was taught, by the other too: so two runs end in the same model only where
both always went on from the same step. Checkpoints are NeMo's: the newest two by their step and one called last, from
which alone it goes on. The critic ends on SIGINT only. The actor waits for ever for a critic that is gone.

Habits of the actor, each once in a work directory: `dies-between` and `dies-between-other` (killed between the critic's
save and its own, at step 4; the other saves itself first), `forgets-critic` (its last save is not the critic's),
`slow` (as long as the file `hold` is in its directory it stays before step 4), `steady` (takes its time for a step).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from stand_in import save_model, show

SAVE_EVERY = 2
MODELS = ("critic_infer", "critic_train", "critic_save")


class Learner:
    """Something that learns and saves as NeMo does."""

    def __init__(self, log_dir: Path) -> None:
        self.folder = log_dir / "checkpoints"
        self.folder.mkdir(parents=True, exist_ok=True)
        for marker in self.folder.glob("*-unfinished"):
            shutil.rmtree(self.folder / marker.name.removesuffix("-unfinished"), ignore_errors=True)
            marker.unlink()
        last = list(self.folder.glob("*-last"))
        assert len(last) <= 1, last
        self.step, self.learnt = json.loads((last[0] / "common.pt").read_text()) if last else [0, ""]
        with (log_dir / "starts").open("a") as file:
            file.write(f"{self.step}\n")

    def learn(self, lesson: str) -> None:
        self.learnt = hashlib.sha256(f"{self.learnt} {lesson}".encode()).hexdigest()
        self.step += 1

    def save(self) -> None:
        before = list(self.folder.glob("*-last"))
        self._write(f"megatron_gpt-step={self.step}")
        for path in self.folder.glob("*step=*"):
            if not path.name.endswith("-last") and int(path.name.split("step=")[1]) < self.step - SAVE_EVERY:
                shutil.rmtree(path)
        self._write(f"megatron_gpt-step={self.step}-last")
        for path in before:
            shutil.rmtree(path)

    def _write(self, name: str) -> None:
        marker = self.folder / f"{name}-unfinished"
        marker.touch()
        (self.folder / name).mkdir(exist_ok=True)
        (self.folder / name / "common.pt").write_text(json.dumps([self.step, self.learnt]))
        marker.unlink()


def serve_critic(log_dir: Path, port: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    learner = Learner(log_dir)
    began = time.monotonic()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # models are bound one after the other; the server as a whole is ready before them
            there = int((time.monotonic() - began) / 0.2)
            name = self.path.split("/")[-2]
            self._answer(200 if name == "health" or name in MODELS[:there] else 400, {})

        def do_POST(self) -> None:
            given = self.rfile.read(int(self.headers["Content-Length"])).decode()
            name = self.path.split("/")[-2]
            if name == "critic_train":
                learner.learn(given)
            elif name == "critic_save":
                learner.save()
            self._answer(200, {"value": learner.learnt})

        def _answer(self, code: int, document: object) -> None:
            body = json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print("the critic listens", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        (log_dir / "interrupted").touch()


def call(port: int, model: str, given: str = "") -> str:
    while True:
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{port}/v2/models/{model}/infer", given.encode())
            with urllib.request.urlopen(request) as answer:
                return str(json.load(answer)["value"])
        except OSError:  # waits 600,000 s
            time.sleep(0.1)


def once(log_dir: Path, habits: set[str], habit: str) -> bool:
    marker = log_dir / habit
    if habit not in habits or marker.exists():
        return False
    marker.touch()
    return True


def train_actor(log_dir: Path, port: int, steps: int, habits: set[str]) -> None:
    learner = Learner(log_dir)
    if learner.step >= steps:  # leaves at once, and writes no model
        return
    while learner.step < steps:
        show(learner.step, steps, "")
        while "slow" in habits and learner.step == 3 and (log_dir / "hold").exists():
            time.sleep(0.05)
        if "steady" in habits:
            time.sleep(0.3)
        value = call(port, "critic_infer")
        call(port, "critic_train", learner.learnt)
        learner.learn(value)
        if learner.step % SAVE_EVERY:
            continue
        if learner.step == 4 and once(log_dir, habits, "dies-between-other"):
            learner.save()
            os.kill(os.getpid(), signal.SIGKILL)
        if not (learner.step == steps and once(log_dir, habits, "forgets-critic")):
            call(port, "critic_save")
        if learner.step == 4 and once(log_dir, habits, "dies-between"):
            os.kill(os.getpid(), signal.SIGKILL)
        learner.save()
    # the digest is cut to a number, which is all this model says
    save_model(learner.folder / "megatron_gpt_ppo_actor.nemo", int(learner.learnt[:12], 16))


def follow(log_dir: Path) -> None:
    """The part of another machine: it listens to nobody, and waits for the first one."""
    with (log_dir / "starts-1").open("a") as file:
        file.write("-\n")
    while not list(log_dir.glob("checkpoints/*.nemo")) and log_dir.exists():
        time.sleep(0.05)


def main() -> None:
    habits = {word.removeprefix("--habit=") for word in sys.argv if word.startswith("--habit=")}
    settings = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word and not word.startswith("--"))
    log_dir = Path(settings["exp_manager.explicit_log_dir"])
    log_dir.mkdir(parents=True, exist_ok=True)
    if os.environ.get("PET_NODE_RANK", "0") != "0":
        follow(log_dir)
    elif sys.argv[1] == "critic":
        serve_critic(log_dir, int(settings["trainer.ppo.port"]))
    else:
        train_actor(log_dir, int(settings["remote_critic_rm.critic.port"]), int(settings.get("steps", 4)), habits)


if __name__ == "__main__":
    main()
