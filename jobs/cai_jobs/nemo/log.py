"""What a program's log says: how far it is, with which figures, and why it failed.

NeMo-Aligner's trainers show tqdm bars, "Training steps" (nemo_aligner/algorithms/supervised.py) or "PPO Global Step"
(ppo.py), and after each step the figures behind it: `... 12/50 [01:02<03:00, 4.7s/it, train_loss=0.7, lr=1e-6]`. New
figures come before the bar counts their step, and the last step of "Training steps" is never counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_BAR = re.compile(r"(?:Training steps|PPO Global Step)\s*:\s*\d+%\|.*?\|\s*(\d+)/(\d+)\s*\[([^]]*)\]?")
_FIGURE = re.compile(r"([A-Za-z_][\w./-]*)=(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|nan|-?inf)", re.IGNORECASE)
_ERROR = re.compile(r"^(?:\[rank\d+\]:\s*)?((?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt)\b.*)")
_OURS = re.compile(r"^error: (.+)")
_SETTING = re.compile(
    r"Could not override '|Error merging override|Key '[^']*' is not in struct|Could not append to config"
    r"|Missing mandatory value|MissingMandatoryValue|LexerNoViableAltException|mismatched input"
    r"|ConfigAttributeError|ConfigKeyError|unrecognized arguments: "
)
# what the other processes say, and torchrun, when one has failed
_CONSEQUENCE = re.compile(r"ChildFailedError|DistBackendError|NCCL|Connection (?:reset|closed) by peer|SignalException")
_MEMORY = re.compile(r"CUDA out of memory|OutOfMemoryError")
LONGEST = 400


@dataclass(frozen=True)
class Step:
    """What a bar shows.

    Attributes:
        done: the steps it counts as done.
        total: how many there are.
        figures: by phase, "train" or "validation", and name.
    """

    done: int
    total: int
    figures: Mapping[str, Mapping[str, float]]


@dataclass
class Reading:
    """What was read so far.

    Attributes:
        error: the last exception's line; where there is one, of one that is no mere consequence of another process's.
        setting: a line in which Hydra or a program's own parser refuses a setting; trying again cannot help.
        memory: whether a GPU's memory did not suffice.
    """

    error: str | None = None
    setting: str | None = None
    memory: bool = False
    last: str = field(default="", repr=False)

    def read(self, line: str) -> Step | None:
        """Take one line; the step it tells of, if it does."""
        text = line.strip()
        bar = _BAR.search(text)
        if bar is not None:
            # what is printed while a bar stands comes right after it
            self.read(text[bar.end() :])
            return Step(int(bar.group(1)), int(bar.group(2)), _phases(bar.group(3)))
        if text:
            self.last = text[:LONGEST]
        if self.setting is None and _SETTING.search(text):
            self.setting = text[:LONGEST]
        self.memory = self.memory or _MEMORY.search(text) is not None
        found = _ERROR.match(text) or _OURS.match(text)
        if found is not None and (self.error is None or not _CONSEQUENCE.search(text)):
            self.error = found.group(1)[:LONGEST]
        return None


def _phases(figures: str) -> dict[str, dict[str, float]]:
    """Figures by phase and name: train_loss is "loss" of "train"; those of no phase are of "train"."""
    found: dict[str, dict[str, float]] = {}
    for name, value in _FIGURE.findall(figures):
        phase, bare = "train", name
        for prefix, meant in (("train_", "train"), ("val_", "validation"), ("validation_", "validation")):
            if name.startswith(prefix):
                phase, bare = meant, name.removeprefix(prefix)
                break
        found.setdefault(phase, {})[bare] = float(value)
    return {
        phase: {name: value for name, value in values.items() if value - value == 0} for phase, values in found.items()
    }
