"""Stand-ins for NeMo-Aligner's critic and actor, with their protocol, files and bad habits, in milliseconds.

    python stand_in_pair.py critic exp_manager.explicit_log_dir=DIR trainer.ppo.port=PORT
    python stand_in_pair.py actor exp_manager.explicit_log_dir=DIR remote_critic_rm.critic.port=PORT steps=8 [--habit=H]

What each has learnt is a digest of all it was taught, by the other too: so two runs end in the same model only where
both always went on from the same step. Checkpoints are NeMo's: the newest two by their step and one called last, from
which alone it goes on. The critic ends on SIGINT only. The actor waits for ever for a critic that is gone.

Habits of the actor, each once in a work directory: `dies-between` and `dies-between-other` (killed between the critic's
save and its own, at step 4; the other saves itself first), `forgets-critic` (its last save is not the critic's),
`slow` (as long as the file `hold` is in its directory it stays before step 4), `steady` (takes its time for a step).
Called serve_ppo_critic.py and train_gpt_ppo_actor.py, as in NVIDIA's image, they need no first word, know what they
start from and learn from the rows too; started by torchrun on several machines, they are one group
there. A file `hold-ppo` is `slow` (see `stand_in.habit`).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from stand_in import hold, save_model, settings_of, show
from stand_in_group import Group
from stand_in_lessons import Rows, after, rows_told, start_of

SAVE_EVERY = 2
MODELS = ("critic_infer", "critic_train", "critic_save")


class Learner:
    """Something that learns and saves as NeMo does; of several processes the first reads and writes."""

    def __init__(self, log_dir: Path, start: str, group: Group) -> None:
        self.folder, self._group = log_dir / "checkpoints", group
        found = json.dumps(self._load(log_dir, start)) if group.rank == 0 else ""
        self.step, self.learnt = json.loads(group.told(found)[0])

    def _load(self, log_dir: Path, start: str) -> list[object]:
        self.folder.mkdir(parents=True, exist_ok=True)
        for marker in self.folder.glob("*-unfinished"):
            shutil.rmtree(self.folder / marker.name.removesuffix("-unfinished"), ignore_errors=True)
            marker.unlink()
        last = list(self.folder.glob("*-last"))
        assert len(last) <= 1, last
        found: list[object] = json.loads((last[0] / "common.pt").read_text()) if last else [0, start]
        with (log_dir / "starts").open("a") as file:
            file.write(f"{found[0]}\n")
        return found

    def learn(self, lesson: str) -> None:
        self.learnt = after(self.learnt, lesson)
        self.step += 1

    def save(self) -> None:
        self._group.total(1)  # all are at this step
        if self._group.rank > 0:
            return
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


def serve_critic(log_dir: Path, port: int, start: str, group: Group) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    learner = Learner(log_dir, start, group)

    def work(name: str, given: str) -> None:
        """All machines of it do what the first is asked for."""
        name, given = group.told(name, given)
        if name == "critic_train":
            learner.learn(given)
        elif name == "critic_save":
            learner.save()

    while group.rank > 0:
        work("", "")
    began, one_at_a_time = time.monotonic(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # models are bound one after the other; the server as a whole is ready before them
            there = int((time.monotonic() - began) / 0.2)
            name = self.path.split("/")[-2]
            self._answer(200 if name == "health" or name in MODELS[:there] else 400, {})

        def do_POST(self) -> None:
            given = self.rfile.read(int(self.headers["Content-Length"])).decode()
            with one_at_a_time:
                work(self.path.split("/")[-2], given)
            self._answer(200, {"value": learner.learnt})

        def _answer(self, code: int, document: object) -> None:
            body = json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("0.0.0.0", port), Handler)
    print("the critic listens", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        (log_dir / "interrupted").touch()


def call(address: str, model: str, given: str = "") -> str:
    while True:
        try:
            request = urllib.request.Request(f"http://{address}/v2/models/{model}/infer", given.encode())
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


def train_actor(
    log_dir: Path, address: str, rows: Rows | None, steps: int, habits: set[str], start: str, group: Group
) -> None:
    learner = Learner(log_dir, start, group)
    if learner.step >= steps:  # leaves at once, and writes no model
        return
    while learner.step < steps:
        if group.rank == 0:
            show(learner.step, steps, "")
        if learner.step == 3:
            hold(log_dir, "hold-ppo")
        while "slow" in habits and learner.step == 3 and (log_dir / "hold").exists():
            time.sleep(0.05)
        if "steady" in habits:
            time.sleep(0.3)
        value = ""
        if group.rank == 0:
            value = call(address, "critic_infer")
            call(address, "critic_train", learner.learnt)
        [lesson] = group.told(value)
        if rows is not None:
            lesson = f"{lesson} {group.total(rows.share(learner.step, group.rank, group.size))}"
        learner.learn(lesson)
        if learner.step % SAVE_EVERY:
            continue
        if learner.step == 4 and once(log_dir, habits, "dies-between-other"):
            learner.save()
            os.kill(os.getpid(), signal.SIGKILL)
        if group.rank == 0 and not (learner.step == steps and once(log_dir, habits, "forgets-critic")):
            call(address, "critic_save")
        if learner.step == 4 and once(log_dir, habits, "dies-between"):
            os.kill(os.getpid(), signal.SIGKILL)
        learner.save()
    # the digest is cut to a number, which is all this model says
    if group.rank == 0:
        model = learner.folder / "megatron_gpt_ppo_actor.nemo"
        save_model(model, int(learner.learnt[:12], 16), configuration=group.configuration)


def follow(log_dir: Path) -> None:
    """The part of another machine: it listens to nobody, and waits for the first one."""
    with (log_dir / "starts-1").open("a") as file:
        file.write("-\n")
    while not list(log_dir.glob("checkpoints/*.nemo")) and log_dir.exists():
        time.sleep(0.05)


def main() -> None:
    habits = {word.removeprefix("--habit=") for word in sys.argv if word.startswith("--habit=")}
    settings = settings_of(sys.argv[1:])
    log_dir = Path(settings["exp_manager.explicit_log_dir"])
    log_dir.mkdir(parents=True, exist_ok=True)
    if os.environ.get("PET_NODE_RANK", "0") != "0" and "WORLD_SIZE" not in os.environ:
        follow(log_dir)
        return
    group = Group()
    if "critic" in sys.argv[:2] or Path(sys.argv[0]).stem == "serve_ppo_critic":
        serve_critic(log_dir, int(settings["trainer.ppo.port"]), start_of(settings), group)
        group.leave(together=False)
        return
    host = settings.get("remote_critic_rm.critic.ip", "127.0.0.1")
    rows = rows_told(settings)
    steps = int(settings.get("steps", 4 if rows is None else rows.steps))
    address = f"{host}:{settings['remote_critic_rm.critic.port']}"
    train_actor(log_dir, address, rows, steps, habits, start_of(settings), group)
    group.leave()


if __name__ == "__main__":
    main()
