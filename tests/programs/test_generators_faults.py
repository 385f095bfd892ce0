"""The generators among faults: killed, cut off and sent away, they end with the rows of an undisturbed run.

Every trial is drawn from a fixed seed: which protocol the servers speak, how many replicas there are, the batch size,
how many requests are in flight, and when SIGKILL strikes. Kills are counted in requests, so that a trial goes much the
same way each time; a delay of some milliseconds after the request lets them fall into answers, appends and outputs.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.harness.forked_program import ForkedProgram
from tests.harness.stand_in import StandInServer

FAULTS = {"503": 0.2, "429": 0.05, "torn": 0.03, "text": 0.02}
USELESS_VERDICTS = 0.05
REFUSED = "an unbearable question"
END = "<extra_id_1>"
PROMPTS = [f"Question {number}, what is it about?" for number in range(24)]
PROMPTS[7] = f"This is {REFUSED}."
TEMPLATE = [
    *("--user_format", "<extra_id_1>User\\n{MESSAGE}\\n<extra_id_1>Assistant\\n", "--assistant_format", "{MESSAGE}\\n"),
    *("--system_format", "<extra_id_0>System\\n{MESSAGE}\\n", "--system_default_message", "", "--eos_token", END),
    *("--response_extract_pattern", "<extra_id_1>Assistant\\n", "--end_strings", END),
]
# slow enough for something to be in flight always, quick enough for a trial of seconds
PACE = ["--engine", "continuous", "--step-s", "0.0005", "--mean-tokens", "12"]
HEADER = json.dumps({"stage": "data", "key": "k", "parameters": {}, "inputs": {}})

Servers = Callable[..., list[StandInServer]]


@dataclass(frozen=True)
class Generator:
    """One of the two programs, and how this file calls it."""

    name: str
    batch_flag: str
    prompts_flag: str
    flags: tuple[str, ...]
    samples: str

    @property
    def module(self) -> str:
        return f"cai_jobs.generate_{self.name}_cai_dataset"

    def arguments(self, servers: Sequence[StandInServer], directory: Path, batch: int, *more: str) -> list[str]:
        """A whole command line; the artifact is `directory`."""
        red_team = directory.with_name("prompts.jsonl")
        rows = ({"transcript": f"\n\nHuman: {prompt}\n\nAssistant: No."} for prompt in PROMPTS)
        red_team.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [
            *(self.prompts_flag, str(red_team), self.batch_flag, str(batch), *self.flags, *TEMPLATE),
            *("--host", ",".join(server.address for server in servers), "--greedy", "False", "--top_k", "0"),
            *("--tokens_to_generate", "48", "--max-rejected", "0.1", "--retry-budget", "60", "--progress", "none"),
            *("--artifact-dir", str(directory), "--artifact-header", HEADER, *more),
        ]

    def prompts(self, directory: Path) -> list[str]:
        """The prompts of the rows it made, in order."""
        rows = json.loads((directory / self.samples).read_text())
        return [row.get("initial_prompt") or row["prompt"] for row in rows]


SL = Generator(
    "sl",
    "--batch_size",
    "--red-teaming-prompts-dataset-path",
    ("--output-filepath", "sl.jsonl", "--apply_chat_template", "True", "--revisions", "2"),
    "cai_output/cai_critique_revision_samples.json",
)
RL = Generator("rl", "--batch-size", "--red-teaming-file-path", (), "cai_candidate_dataset.json")


def rl_flags(server: StandInServer) -> list[str]:
    return ["--ngc-url", f"{server.url}/v1/chat/completions", "--judge-concurrency", "8"]


@dataclass(frozen=True)
class Trial:
    """What a seed gives."""

    seed: int
    speaks: str
    replicas: int
    batch: int
    in_flight: int
    kills: tuple[tuple[int, float], ...]
    more: tuple[str, ...] = ()

    @classmethod
    def draw(cls, generator: Generator, seed: int) -> Trial:
        chance = random.Random(f"{generator.name} {seed}")
        kills = [(chance.randint(1, most), chance.uniform(0, 0.04)) for most in (3, 12, 24)]
        more: tuple[str, ...] = ()
        if generator is RL and seed % 2:
            more = ("--judge-mode", "principle", "--comparisons-per-prompt", "1")
        elif generator is SL and seed == 4:  # by OpenAI's protocol, where greedy prompts share requests
            more = ("--greedy", "True")
        return cls(
            seed,
            ("ours", "openai", "megatron")[seed % 3],
            chance.choice([1, 2, 3]),
            chance.choice([1, 3, 8, 40]),
            chance.choice([1, 2, 7]),
            tuple(kills),
            more,
        )


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """servers(count, *flags): so many stand-in servers, each with its own seed of faults."""
    with ExitStack() as stack:

        def start(count: int, *flags: str) -> list[StandInServer]:
            common = [*PACE, "--refuse", REFUSED, "--useless-share", str(USELESS_VERDICTS), *flags]
            made = [StandInServer(tmp_path / "servers.log", *common, "--seed", str(number)) for number in range(count)]
            return [stack.enter_context(server) for server in made]

        yield start


def complete(generator: Generator, arguments: list[str], log: Path) -> None:
    code = ForkedProgram(generator.module, arguments, log).wait()
    assert code == 0, log.read_text()[-2000:]


def assert_same(generator: Generator, calm: Path, other: Path) -> None:
    """Every file but the manifest, which holds times, is the same; no row is missing or there twice."""
    files = [{path.relative_to(root) for path in root.rglob("*") if path.is_file()} for root in (calm, other)]
    assert files[0] == files[1]
    for name in files[0] - {Path("manifest.json")}:
        assert (calm / name).read_bytes() == (other / name).read_bytes(), name
    assert not [name for name in files[0] if "journal" in name.name]
    done = [prompt for prompt in generator.prompts(other) if REFUSED not in prompt]
    assert done == [prompt for prompt in PROMPTS if REFUSED not in prompt]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("generator", [SL, RL], ids=["sl", "rl"])
def test_a_disturbed_run_ends_with_the_rows_of_an_undisturbed_one(
    generator: Generator, seed: int, servers: Servers, tmp_path: Path
) -> None:
    trial = Trial.draw(generator, seed)
    log, calm, disturbed = tmp_path / "log", tmp_path / "calm", tmp_path / "disturbed"
    judging = rl_flags if generator is RL else lambda _: []

    # a refusal that may be a mishap, as the reference's all may, is asked for again and again: that takes a while
    speaking = ["--speaks", trial.speaks, "--refuse", "" if trial.speaks == "megatron" else REFUSED]
    [quiet] = servers(1, *speaking)
    # with one seed a request, rows depend on their batch
    batch = trial.batch if trial.speaks == "megatron" else 16
    complete(generator, [*generator.arguments([quiet], calm, batch, *trial.more), *judging(quiet)], log)

    faulty = servers(trial.replicas, *speaking, "--faults", json.dumps(FAULTS))
    in_flight = ("--requests-in-flight", str(trial.in_flight))
    arguments = generator.arguments(faulty, disturbed, trial.batch, *trial.more, *in_flight)
    arguments += judging(faulty[-1])
    codes = []
    for requests, delay in trial.kills:
        kill = (faulty[0].url, {"requests": requests, "delay_s": delay})
        codes.append(ForkedProgram(generator.module, arguments, log, kill=kill).wait())
        assert codes[-1] in (0, -signal.SIGKILL), log.read_text()[-2000:]
    complete(generator, arguments, log)
    assert codes[0] == -signal.SIGKILL

    assert_same(generator, calm, disturbed)
    assert any(count for server in faulty for name, count in server.statistics().items() if name.startswith("fault"))


@pytest.mark.parametrize("generator", [SL, RL], ids=["sl", "rl"])
def test_killed_at_any_moment_of_writing_it_ends_the_same(
    generator: Generator, servers: Servers, tmp_path: Path
) -> None:
    [server] = servers(1)
    log, calm, killed = tmp_path / "log", tmp_path / "calm", tmp_path / "killed"
    judging = rl_flags(server) if generator is RL else []
    complete(generator, [*generator.arguments([server], calm, 40), *judging], log)
    arguments = [*generator.arguments([server], killed, 40), *judging]
    chance = random.Random(generator.name)
    struck = 0
    for _ in range(12):
        program = ForkedProgram(generator.module, arguments, log)
        time.sleep(chance.uniform(0.02, 0.3))
        program.kill()
        struck += program.wait() == -signal.SIGKILL
    complete(generator, arguments, log)
    assert_same(generator, calm, killed)
    assert struck


@pytest.mark.parametrize("generator", [SL, RL], ids=["sl", "rl"])
def test_finished_work_is_not_asked_for_again(generator: Generator, servers: Servers, tmp_path: Path) -> None:
    [server] = servers(1)
    log, batch, kills = tmp_path / "log", 4, 3
    judging = rl_flags(server) if generator is RL else []
    complete(generator, [*generator.arguments([server], tmp_path / "calm", batch), *judging], log)
    calm = server.statistics()
    arguments = generator.arguments([server], tmp_path / "killed", batch, "--requests-in-flight", "2")
    kill = (server.url, {"requests": 8})
    for _ in range(kills):
        code = ForkedProgram(generator.module, [*arguments, *judging], log, kill=kill).wait()
        assert code == -signal.SIGKILL, log.read_text()[-2000:]
    complete(generator, [*arguments, *judging], log)

    found = server.statistics()
    assert_same(generator, tmp_path / "calm", tmp_path / "killed")
    asked, needed = found["sentences"] - calm["sentences"], calm["sentences"]
    assert needed <= asked <= needed + kills * 2 * batch, "what was in flight at a kill is lost, and no more"


@pytest.mark.parametrize("generator", [SL, RL], ids=["sl", "rl"])
def test_a_server_that_goes_away_and_comes_back_costs_time_only(
    generator: Generator, servers: Servers, tmp_path: Path
) -> None:
    [quiet] = servers(1)
    log, calm, disturbed = tmp_path / "log", tmp_path / "calm", tmp_path / "disturbed"
    judging = rl_flags(quiet) if generator is RL else []
    complete(generator, [*generator.arguments([quiet], calm, 8), *judging], log)
    both = servers(2, "--step-s", "0.002")
    program = ForkedProgram(generator.module, [*generator.arguments(both, disturbed, 4), *judging], log)
    for server in both:
        while not server.statistics().get("sentences"):
            time.sleep(0.005)
        server.kill()
    time.sleep(0.5)  # and now there is none
    for server in both:
        server.start()
    assert program.wait() == 0, log.read_text()[-2000:]
    assert_same(generator, calm, disturbed)
