"""The critic and the actor as one unit: whatever dies, both end where an undisturbed run ends."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.harness.objects import wait_for
from tests.harness.processes import free_port

from cai_jobs.contract import artifacts
from cai_jobs.nemo.unit import Meeting, Order, Seen, State

STAND_IN = Path(__file__).with_name("stand_in_pair.py")
KEY = "k" * 16
STEPS = 6
HEADER = json.dumps({"stage": "ppo", "key": KEY, "parameters": {}, "inputs": {}})


class Pod:
    """A wrapper that is started again when it ends with a failure, as a pod is."""

    def __init__(self, command: list[str], log: Path, again: bool, rank: int | None) -> None:
        self._command, self._log, self._again = command, log, again
        ranks = {"PET_NODE_RANK": str(rank), "PET_MASTER_ADDR": "localhost", "PET_MASTER_PORT": "1"}
        self._environment = {**os.environ, **(ranks if rank is not None else {})}
        self._over = threading.Event()
        self.codes: list[int] = []
        self._start()
        self._thread = threading.Thread(target=self._look_after, daemon=True)
        self._thread.start()

    def _start(self) -> None:
        with self._log.open("a") as out:
            self.process = subprocess.Popen(self._command, stdout=out, stderr=out, env=self._environment)

    def _look_after(self) -> None:
        while True:
            code = self.process.wait()
            self.codes.append(code)
            if self._over.is_set() or not self._again or code in (0, 2):
                return
            self._start()

    def kill(self) -> None:
        """The whole container at once: the wrapper and all below it."""
        if self.process.poll() is not None:
            return  # it has just ended, and comes again
        self.process.send_signal(signal.SIGSTOP)  # it must not tell what it sees of this
        for process in [*children(self.process.pid), self.process.pid]:
            os.kill(process, signal.SIGKILL)

    def end(self) -> int:
        """Delete the pod; the exit code."""
        self._over.set()
        self.process.send_signal(signal.SIGTERM)
        self._thread.join()
        return self.codes[-1]

    def await_end(self) -> int:
        self._thread.join()
        return self.codes[-1]

    @property
    def log(self) -> str:
        return self._log.read_text()


@pytest.fixture
def unit(tmp_path):
    """Where an actor and its critic run: start either, look at what they leave."""
    found = Unit(tmp_path)
    yield found
    for pod in found.pods:
        pod.end()


class Unit:
    def __init__(self, place: Path) -> None:
        self.place, self.port = place, free_port()
        self.target = place / "ppo" / KEY
        self.partial = self.target.with_name(f"{KEY}.partial")
        self.meeting = Meeting(self.partial)
        (place / "rows.jsonl").write_text("{}\n" * STEPS)
        self.pods: list[Pod] = []

    def critic(self, *flags: str, again: bool = True, rank: int | None = None) -> Pod:
        command = ["--serve", "--stop-signal", "INT", "--serves", str(self.target), "--grace-s", "5", *flags]
        settings = [f"exp_manager.explicit_log_dir={self.partial}/critic", f"trainer.ppo.port={self.port}"]
        return self._pod("critic", [*command, "--", sys.executable, str(STAND_IN), "critic", *settings], again, rank)

    def actor(self, *habits: str, again: bool = True, rank: int | None = None) -> Pod:
        command = [
            *("--artifact-dir", str(self.target), "--artifact-header", HEADER, "--model", "megatron_gpt_ppo_actor"),
            *("--rows", str(self.place / "rows.jsonl"), "--poll-s", "0.1", "--linger-s", "2", "--grace-s", "1"),
            *("--termination-message", str(self.place / "word"), "--progress", "json"),
            *("--critic-host", "127.0.0.1", "--critic-port", str(self.port), "--critic-gone-s", "2"),
            *("--critic-ready-s", "60", "--critic-nodes", "1" if rank is None else "2"),
        ]
        settings = [
            f"exp_manager.explicit_log_dir={self.partial}/nemo",
            f"remote_critic_rm.critic.port={self.port}",
            f"steps={STEPS}",
            *(f"--habit={habit}" for habit in habits),
        ]
        return self._pod("actor", [*command, "--", sys.executable, str(STAND_IN), "actor", *settings], again, rank)

    def _pod(self, name: str, arguments: list[str], again: bool, rank: int | None) -> Pod:
        log = self.place / (f"{name}-{rank}.log" if rank else f"{name}.log")
        self.pods.append(Pod([sys.executable, "-m", "cai_jobs.nemo_run", *arguments], log, again, rank))
        return self.pods[-1]

    def hold(self) -> Path:
        """The actor stays before its fourth step until this file goes."""
        path = self.partial / "nemo" / "hold"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    def await_trained(self) -> None:
        """Wait until the actor, held, has taught the critic a step that neither has saved."""
        wait_for(lambda: "3/6" in (self.place / "actor.log").read_text(), "the actor to be held before step 4")

    def starts(self, who: str) -> list[str]:
        """The step from which each start of a program went on."""
        return (self.partial / who / "starts").read_text().split()

    @property
    def error(self) -> str:
        return str(json.loads((self.place / "word").read_text()).get("error", ""))

    def assert_ended_as_undisturbed(self) -> None:
        manifest = artifacts.verify(self.target)
        assert [entry["path"] for entry in manifest["files"]] == ["metrics.jsonl", "model.nemo"]
        assert f"step {undisturbed(STEPS)}".encode() in (self.target / "model.nemo").read_bytes()
        assert not self.partial.exists()


def children(process: int) -> list[int]:
    """The programs that a wrapper runs."""
    found = (path.read_text() for path in Path(f"/proc/{process}/task").glob("*/children"))
    return [int(number) for numbers in found for number in numbers.split()]


def undisturbed(steps: int) -> int:
    """What the stand-in actor's model says after so many steps, each taken once."""
    from hashlib import sha256

    actor = critic = ""
    for _ in range(steps):
        value = critic
        critic = sha256(f"{critic} {actor}".encode()).hexdigest()
        actor = sha256(f"{actor} {value}".encode()).hexdigest()
    return int(actor[:12], 16)


def test_a_run_without_trouble(unit):
    critic = unit.critic()
    actor = unit.actor()
    assert actor.await_end() == 0, actor.log
    unit.assert_ended_as_undisturbed()
    # it stood fresh at the beginning, and was not started a second time
    assert critic.log.count("the critic listens") == 1
    assert critic.end() == 143


def test_the_actor_may_come_first(unit):
    actor = unit.actor()
    wait_for(lambda: unit.meeting.actor(), "the actor's wrapper to wait")
    unit.critic()
    assert actor.await_end() == 0, actor.log
    unit.assert_ended_as_undisturbed()


def test_the_critic_is_interrupted_before_anything_is_published(unit):
    hold = unit.hold()
    critic = unit.critic()
    actor = unit.actor("slow")
    unit.await_trained()
    [program] = children(critic.process.pid)
    hold.unlink()
    assert actor.await_end() == 0, actor.log
    assert not Path(f"/proc/{program}").exists()
    assert critic.codes == [], "its wrapper stays until the operator takes the server away"


@pytest.mark.parametrize("habit", ["dies-between", "dies-between-other"])
def test_a_crash_between_their_two_saves(unit, habit):
    critic = unit.critic()
    actor = unit.actor(habit)
    assert actor.await_end() == 0, actor.log
    assert actor.codes == [1, 0]
    assert "actor and critic go on from step 2, without megatron_gpt-step=4, megatron_gpt-step=4-last" in actor.log
    unit.assert_ended_as_undisturbed()
    assert critic.codes == []


def test_an_actor_killed_while_its_critic_lives(unit):
    hold = unit.hold()
    critic = unit.critic()
    actor = unit.actor("slow")
    unit.await_trained()
    actor.kill()
    hold.unlink()
    assert actor.await_end() == 0, actor.log
    unit.assert_ended_as_undisturbed()
    assert critic.log.count("the critic listens") == 2, "what it learnt after its last save must be forgotten"
    assert critic.codes == []


def test_a_critic_that_dies_takes_the_actor_with_it(unit):
    hold = unit.hold()
    critic = unit.critic()
    actor = unit.actor("slow")
    unit.await_trained()
    critic.kill()
    wait_for(lambda: actor.codes, "the actor to be stopped")
    assert actor.codes[0] == 1
    hold.unlink()
    assert actor.await_end() == 0, actor.log
    assert "was stopped, saved at step 2 of 6: the critic at 127.0.0.1" in actor.log
    unit.assert_ended_as_undisturbed()


def test_a_critic_that_is_gone_for_good_stops_the_actor(unit):
    unit.hold()
    critic = unit.critic(again=False)
    actor = unit.actor("slow", again=False)
    unit.await_trained()
    critic.kill()
    assert actor.await_end() == 1
    assert "is gone: no answer for 2 seconds" in unit.error


def test_both_killed(unit):
    hold = unit.hold()
    critic = unit.critic()
    actor = unit.actor("slow")
    unit.await_trained()
    critic.kill()
    actor.kill()
    hold.unlink()
    assert actor.await_end() == 0, actor.log
    unit.assert_ended_as_undisturbed()


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_at_any_moment(unit, seed):
    """At their start, while they settle, in the middle of saves, at the end: whenever it comes to that."""
    moments = random.Random(seed)
    critic, actor = unit.critic(), unit.actor("steady")
    for _ in range(5):
        time.sleep(moments.uniform(0.3, 4.0))
        if actor.codes[-1:] == [0]:
            break
        moments.choice([critic, actor]).kill()
    assert actor.await_end() == 0, actor.log
    critic.end()
    unit.assert_ended_as_undisturbed()


def test_a_critic_of_an_actor_that_had_published_leaves_nothing(unit):
    critic, first = unit.critic(), unit.actor()
    assert first.await_end() == 0, first.log
    critic.end()
    critic = unit.critic()
    wait_for(lambda: unit.partial.exists(), "the critic to serve, as the plan wants it to before it makes a Job")
    again = unit.actor("dies-between")
    assert again.await_end() == 0
    critic.end()
    unit.assert_ended_as_undisturbed()


def test_a_critic_whose_last_save_is_missing_is_no_end(unit):
    unit.critic()
    actor = unit.actor("forgets-critic")
    assert actor.await_end() == 0, actor.log
    assert actor.codes == [1, 0]
    assert "saved at step 6, but its critic at step 4: nothing is published" in actor.log
    unit.assert_ended_as_undisturbed()


def test_no_step_in_common_is_for_a_person(unit):
    folder = unit.partial / "nemo" / "checkpoints"
    for step in (2, 4):
        (folder / f"megatron_gpt-step={step}").mkdir(parents=True)
    unit.critic()
    actor = unit.actor()
    assert actor.await_end() == 2
    assert "have no saved step in common: steps 2, 4 below" in unit.error
    assert len(list(folder.iterdir())) == 2


def test_first_saves_that_do_not_match_are_begun_anew(unit):
    """A critic that came back between two steps may be asked to save what it has learnt since, at a step of its own."""
    for work, step in (("nemo", 2), ("critic", 1)):
        saved = unit.partial / work / "checkpoints" / f"megatron_gpt-step={step}-last"
        saved.mkdir(parents=True)
        (saved / "common.pt").write_text(json.dumps([step, "something else"]))
    unit.meeting.claim("the life of a critic that an actor was started with")
    unit.critic()
    actor = unit.actor()
    assert actor.await_end() == 0, actor.log
    assert "go on from step 0" in actor.log
    unit.assert_ended_as_undisturbed()


def test_on_two_machines_each(unit):
    hold = unit.hold()
    critics = [unit.critic(rank=rank) for rank in (0, 1)]
    actors = [unit.actor("slow", rank=rank) for rank in (1, 0)]
    unit.await_trained()
    wait_for(lambda: (unit.partial / "nemo" / "starts-1").exists(), "the actor's other machine to begin")
    # one machine of the critic is gone: all of it is started again, and all of the actor
    critics[1].kill()
    wait_for(lambda: all(pod.codes for pod in actors), "both machines of the actor to be stopped")
    hold.unlink()
    assert [pod.await_end() for pod in actors] == [0, 0], [pod.log for pod in actors]
    assert critics[0].log.count("the critic listens") == 2
    assert critics[0].codes == []
    for pod in critics:
        pod.end()
    unit.assert_ended_as_undisturbed()


def test_on_two_machines_both_begin_again_where_the_critics_save_is_missing(unit):
    for rank in (0, 1):
        unit.critic(rank=rank)
    actors = [unit.actor("forgets-critic", rank=rank) for rank in (1, 0)]
    assert [pod.await_end() for pod in actors] == [0, 0], [pod.log for pod in actors]
    assert [pod.codes for pod in actors] == [[1, 0], [1, 0]]
    unit.assert_ended_as_undisturbed()


def test_a_stopped_critic_that_nobody_orders_about_serves_again(unit):
    critic = unit.critic("--silence-s", "1")
    wait_for(lambda: unit.meeting.critic(1), "the critic to say that it is there")
    [first] = unit.meeting.critic(1)
    assert first.state == State.SERVING
    wait_for(lambda: "listens" in critic.log, "the critic to listen")
    given = unit.meeting.give(Order.STOP)
    wait_for(
        lambda: unit.meeting.critic(1),
        "the critic to stop",
        lambda seen: seen == (Seen(first.life, State.STOPPED, given.number),),
    )
    wait_for(lambda: unit.meeting.critic(1), "the critic to serve again", lambda seen: seen[0].state == State.SERVING)
    assert unit.meeting.critic(1)[0].life != first.life
    assert (unit.partial / "critic" / "interrupted").exists()
