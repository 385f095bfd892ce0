"""A journal gives back what was whole, whatever became of the process, and never keeps it in memory."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from cai_jobs.contract.program import InputError, RetryableError
from cai_jobs.generation import journal as journal_module
from cai_jobs.generation.journal import Journal


def write(path: Path) -> list[bytes]:
    with Journal(path, {"seed": 1}) as journal:
        journal.add("response", [0, 1], ["a", "b"])
        journal.add("critique 1", [0, 1], ["c", {"refused": "too long"}])
    return path.read_bytes().splitlines(keepends=True)


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    write(tmp_path / "j")
    with Journal(tmp_path / "j", {"seed": 1}) as journal:
        assert journal["response", 1] == "b"
        assert journal["critique 1", 1] == {"refused": "too long"}
        assert ("critique 1", 2) not in journal
        assert ("critique 2", 0) not in journal
        journal.add("response", [3], ["z"])
        assert (journal.count("response"), journal.count("critique 2")) == (3, 0)
        with pytest.raises(KeyError):
            journal["response", 2]
    with Journal(tmp_path / "j", {"seed": 1}) as journal:
        assert journal["response", 3] == "z"
        assert journal.count("response") == 3


@pytest.mark.parametrize("named", [True, False])
def test_values_come_back_as_they_were(tmp_path: Path, named: bool) -> None:
    drawn = random.Random(1)
    values = {
        row: drawn.choice(["ü\u2028\n\r\0", "\ud83d half a pair", "x" * 9000, {"a": [1, 2.5, None]}, ""])
        for row in range(500)
    }
    rows = list(values)
    drawn.shuffle(rows)
    with Journal(tmp_path / "j" if named else None, {}) as journal:
        while rows:
            batch = [rows.pop() for _ in range(min(len(rows), drawn.randrange(1, 40)))]
            journal.add("s", batch, [values[row] for row in batch])
        assert journal.count("s") == 500
        assert {row: journal["s", row] for row in range(500)} == values
    assert named == (tmp_path / "j").exists()


def test_a_value_added_again_replaces_the_first(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", {}) as journal:
        journal.add("s", [0, 1], ["old", "kept"])
        journal.add("s", [0], ["new"])
    with Journal(tmp_path / "j", {}) as journal:
        assert (journal["s", 0], journal["s", 1], journal.count("s")) == ("new", "kept", 2)


def test_the_reading_of_a_long_file_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(tmp_path / "j", {}) as journal:
        for row in range(5):
            journal.add("s", [row], ["x" * journal_module.MIB])
    with Journal(tmp_path / "j", {}, progress="json"):
        assert not capsys.readouterr().out
    monkeypatch.setattr(journal_module, "LONG", 4 * journal_module.MIB)
    with Journal(tmp_path / "j", {}, progress="json") as journal:
        assert journal.count("s") == 5
    told = [json.loads(line)["progress"] for line in capsys.readouterr().out.splitlines()]
    assert [(each["done"], each["total"], each["unit"]) for each in (told[0], told[-1])] == [(0, 5, "MB"), (5, 5, "MB")]


def test_rows_and_values_must_be_as_many(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", {}) as journal, pytest.raises(ValueError, match="2 rows, but 1 values"):
        journal.add("s", [0, 1], ["a"])


def test_a_kill_at_any_byte_loses_only_what_was_not_whole(tmp_path: Path) -> None:
    lines = write(tmp_path / "j")
    whole = b"".join(lines)
    ends = [len(b"".join(lines[:count])) for count in range(1, 4)]
    for cut in sorted({*range(0, len(whole), 9), *ends, *(end - 1 for end in ends)} - {len(whole)}):
        path = tmp_path / "cut"
        path.write_bytes(whole[:cut])
        with Journal(path, {"seed": 1}) as journal:
            assert (("response", 0) in journal) == (cut >= ends[1])
            assert ("critique 1", 0) not in journal
            journal.add("last", [7], ["kept"])
        with Journal(path, {"seed": 1}) as journal:
            assert journal["last", 7] == "kept"
        assert all(json.loads(line) for line in path.read_bytes().splitlines())


KILLED = """
import sys
from pathlib import Path
from cai_jobs.generation.journal import Journal
with Journal(Path(sys.argv[1]), {}) as journal:
    for row in range(10**9):
        journal.add("s", [row], [f"value {row} " * 40])
        print(row, flush=True)
"""


def test_what_a_killed_process_has_added_is_there(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "j")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(200):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        last = 199 + len([line for line in process.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")])
    with Journal(tmp_path / "j", {}) as journal:
        assert journal.count("s") in (last + 1, last + 2)
        assert all(journal["s", row] == f"value {row} " * 40 for row in range(last + 1))


@pytest.mark.parametrize(
    "damage",
    [
        b"\0" * 40 + b"\n",
        b'{"step": "s", "rows": [0, 1], "values": ["only one"]}\n',
        b'{"step": "s", "rows": [-1], "values": ["x"]}\n',
        b'{"step": "s", "rows": ["0"], "values": ["x"]}\n',
        b'{"journal": 1, "parameters": {}}\n',
        b'["no object"]\n',
        b"\xff\xfe\n",
    ],
)
def test_from_the_first_damaged_line_on_all_is_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: bytes
) -> None:
    lines = write(tmp_path / "j")
    (tmp_path / "j").write_bytes(b"".join(lines[:2]) + damage + lines[2])
    with Journal(tmp_path / "j", {"seed": 1}) as journal:
        assert ("response", 0) in journal
        assert ("critique 1", 0) not in journal
    assert "j:3 is damaged" in capsys.readouterr().err
    assert (tmp_path / "j").read_bytes() == b"".join(lines[:2])


def test_other_parameters_are_named(tmp_path: Path) -> None:
    before = write(tmp_path / "j")
    with pytest.raises(InputError, match=r"\(seed was 1, now 2; top_k was not set, now 5\)"):
        Journal(tmp_path / "j", {"seed": 2, "top_k": 5})
    assert (tmp_path / "j").read_bytes() == b"".join(before)


def test_what_differs_is_shown_of_nested_and_of_long_parameters(tmp_path: Path) -> None:
    long = "one and the same beginning, " * 20
    with Journal(
        tmp_path / "j", {"judge": {"mode": "constitution", "model": "m"}, "template": long + "old"}
    ) as journal:
        journal.add("s", [0], ["a"])
    with pytest.raises(InputError) as problem:
        Journal(tmp_path / "j", {"judge": {"mode": "principle", "model": "m"}, "template": long + "new"})
    shown = str(problem.value)
    assert 'judge.mode was "constitution", now "principle"; template was ...' in shown
    assert "beginning, old" in shown
    assert "beginning, new" in shown
    assert "judge.model" not in shown
    assert len(shown) < 500


def test_a_journal_without_finished_work_takes_other_parameters(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", {"seed": 1}):
        pass
    with Journal(tmp_path / "j", {"seed": 2}) as journal:
        journal.add("response", [0], ["a"])
    with Journal(tmp_path / "j", {"seed": 2}) as journal:
        assert journal["response", 0] == "a"
    with pytest.raises(InputError, match="seed was 2, now 1"):
        Journal(tmp_path / "j", {"seed": 1})


def test_a_full_disk_is_named_and_leaves_no_torn_line_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    room = 30

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = real(descriptor, data[:room], offset)
        room -= taken
        return taken

    with Journal(tmp_path / "j", {}) as journal:
        monkeypatch.setattr(os, "pwrite", pwrite)
        with pytest.raises(OSError, match=r"No space left on device: '.*/j'"):
            journal.add("s", [0], ["x" * 100])
        assert ("s", 0) not in journal
        room = 10_000
        journal.add("s", [1], ["y"])
        assert journal["s", 1] == "y"


def test_a_journal_cut_short_by_others_is_a_failure_and_no_endless_loop(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", {}) as journal:
        journal.add("s", [0], ["x"])
        os.truncate(tmp_path / "j", 40)
        with pytest.raises(RetryableError, match="cut short"):
            journal["s", 0]


def test_the_disk_is_synced_now_and_then_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, synced = 100, []
    monkeypatch.setattr(journal_module.time, "monotonic", lambda: now)
    monkeypatch.setattr(os, "fdatasync", lambda _: synced.append(now))
    with Journal(tmp_path / "j", {}, sync_interval_s=20) as journal:
        synced.clear()
        for row in range(50):
            now += 1
            journal.add("s", [row], ["x"])
        assert synced == [120, 140]
    assert len(synced) == 3


def test_memory_holds_no_values() -> None:
    """8 bytes a value and a few kept lines, while the file grows to 3 MB."""
    with Journal(None, {}) as journal:
        journal.add("s", [0], ["x"])
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for row in range(3_000):
                journal.add("s", [row], [f"{row} " * 200])
            for row in range(3_000):
                assert journal["s", row].startswith(f"{row} ")
            after, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert after - before < 3_000 * 12 + 100_000
    assert peak - before < 1_000_000
