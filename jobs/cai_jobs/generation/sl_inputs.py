"""What the supervised stage's data are made from, read and checked before anything is asked of a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cai_jobs.contract import seeds
from cai_jobs.contract.program import InputError
from cai_jobs.formats import constitution
from cai_jobs.formats.chat import Message
from cai_jobs.formats.constitution import Principle
from cai_jobs.formats.red_team import read_prompts
from cai_jobs.generation import blend, duplicates, principles, sl
from cai_jobs.generation.blend import Row
from cai_jobs.generation.journal import Journal


@dataclass(frozen=True)
class Inputs:
    """The prompts and what is asked about them.

    Attributes:
        prompts: all of the file's.
        asked: how many from its beginning are to be used.
        chosen: the places of those that are, duplicates left out; a prompt's place is its row.
        few_shots: turns put before every prompt.
        principles, weights: what criticises, and how often.
        revisions, critique: rounds, and whether they criticise before they revise.
        duplicates: how those were found.
    """

    prompts: Sequence[str]
    asked: int
    chosen: Sequence[int]
    few_shots: Sequence[Message]
    principles: Sequence[Principle]
    weights: Sequence[float]
    revisions: int
    critique: bool
    duplicates: str

    @classmethod
    def read(
        cls,
        prompts: Path,
        few_shots: Path,
        instructions: Path,
        *,
        num_examples: int = -1,
        remove_duplicates: str = "none",
        revisions: int = 1,
        critique: bool = True,
        weights: str | None = None,
    ) -> Inputs:
        """The inputs of the generator's flags.

        Raises:
            InputError: a file or a setting is wrong.
        """
        found = constitution.read_principles(instructions)
        turns = constitution.read_few_shots(few_shots)
        texts = read_prompts(prompts)
        asked = len(texts) if num_examples < 0 else min(num_examples, len(texts))
        return cls(
            prompts=texts,
            asked=asked,
            chosen=duplicates.kept(texts.__getitem__, asked, remove_duplicates),
            few_shots=turns if critique else sl.without_critiques(turns, str(few_shots)),
            principles=found,
            weights=principles.read_weights(weights, found),
            revisions=revisions,
            critique=critique,
            duplicates=remove_duplicates,
        )

    def rows(self, seed: int, journal: Journal) -> sl.Rows:
        """The rows of a run."""

        @lru_cache(1)  # a row's sample asks, and so does who counts its principles
        def rounds(row: int) -> list[Principle]:
            return [self.principles[index] for index in principles.draw(seed, row, self.revisions, self.weights)]

        return sl.Rows(self.prompts, self.few_shots, rounds, self.revisions, self.critique, journal)

    def parameters(self, group: int) -> dict[str, Any]:
        """What the journal's values depend on, as JSON, but for the seed and the server's own.

        Args:
            group: rows the server samples together; above 1 they depend on which rows are their neighbours.
        """
        neighbours = {"num-examples": self.asked, "remove-duplicates": self.duplicates} if group > 1 else {}
        return {
            "red-team prompts": seeds.digest_all(self.prompts),
            "few-shots": seeds.digest(self.few_shots),
            "instructions": seeds.digest([asdict(principle) for principle in self.principles]),
            "principle-weights": list(self.weights),
            "critique": self.critique,
            **neighbours,
        }


@dataclass(frozen=True)
class Helpful:
    """The helpfulness rows to blend with.

    Attributes:
        rows: those that are left.
        found: how many the file has.
        duplicates, long: how many were left out as such.
    """

    rows: Sequence[Row]
    found: int
    duplicates: int
    long: int

    @classmethod
    def read(cls, path: Path | None, remove_duplicates: str, limit: int | None, count: Callable[[str], int]) -> Helpful:
        """The rows of a file, without duplicates and those of more than `limit` tokens; none without a file.

        Raises:
            InputError: the file cannot be read, or a row is no SFT row.
        """
        if path is None:
            return cls([], 0, 0, 0)
        found = blend.read_sft_rows(path)
        single: Sequence[Row] = blend.drop_duplicates(found, remove_duplicates)
        rows = single if limit is None else blend.drop_long(single, limit, count)
        return cls(rows, len(found), len(found) - len(single), len(single) - len(rows))

    def check_ratio(self, ratio: float | None, prompts: int) -> None:
        """See that there are rows enough for a blend ratio.

        Args:
            ratio: rows of these a row of ours; None for all of them.
            prompts: how many rows of ours there will be at most.

        Raises:
            InputError: the ratio is not above 0, or asks for more rows than there are.
        """
        if ratio is None:
            return
        if not 0 < ratio < float("inf"):
            raise InputError(f"--blend-ratio {ratio}: a number above 0 is wanted")
        if not self.found:
            raise InputError("--blend-ratio needs --helpfulness-dataset-path, the rows to blend with")
        wanted = round(ratio * prompts)
        if wanted > len(self.rows):
            raise InputError(
                f"--blend-ratio {ratio:g}: {wanted} helpfulness rows are wanted beside {prompts} prompts, there are "
                f"{len(self.rows)}; give a ratio of at most {int(1e4 * len(self.rows) / prompts) / 1e4:g}, or none to "
                "take them all"
            )
