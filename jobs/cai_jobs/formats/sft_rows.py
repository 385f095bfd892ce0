"""SFT rows: one dialogue each, laid out and masked as NeMo's `GPTSFTChatDataset` does with the `<extra_id_N>` tokens.

A row is `{"system": str, "conversations": [{"from": str, "value": str, "label": str | null}, ...], "mask": str,
"type": null | "VALUE_TO_TEXT" | "TEXT_TO_VALUE"}` (other fields, such as "dataset", are carried along unread). As text:

    <extra_id_0>System\\n{system}\\n<extra_id_1>User\\n{value}\\n<extra_id_1>Assistant\\n{value}\\n<extra_id_1>

The last token is there only when the last turn is not of the masked role. Labels are laid out only in typed rows:
before the value (VALUE_TO_TEXT, never trained) or after it (TEXT_TO_VALUE, then the label alone is trained).
Source: NVIDIA/NeMo, nemo/collections/nlp/data/language_modeling/megatron/gpt_sft_chat_dataset.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from cai_jobs.contract.program import InputError

SYSTEM_TURN_START = "<extra_id_0>"
TURN_START = "<extra_id_1>"
LABEL_START = "<extra_id_2>"
IGNORED = -100
TYPES = (None, "VALUE_TO_TEXT", "TEXT_TO_VALUE")


class Segment(NamedTuple):
    """A stretch of a row's text and whether its tokens are in the loss."""

    text: str
    trained: bool


def validate(row: Mapping[str, Any], where: str) -> None:
    """Check that a row can be rendered and that something of it is trained.

    Args:
        row: the parsed row.
        where: "file:line", put before every complaint.

    Raises:
        InputError: a field is missing or of the wrong type, the masked role has no turn, or nothing would be trained.
    """
    _want_text(row, "system", where)
    _want_text(row, "mask", where, default="User")
    if row.get("type") not in TYPES:
        raise InputError(f'{where}: "type" is {row["type"]!r}; null, "VALUE_TO_TEXT" or "TEXT_TO_VALUE" is wanted')
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise InputError(f'{where}: "conversations" must be a list of at least one turn')
    for number, turn in enumerate(turns, start=1):
        here = f"{where}: turn {number}"
        if not isinstance(turn, dict):
            raise InputError(f'{here}: an object with "from" and "value" is wanted')
        _want_text(turn, "from", here)
        _want_text(turn, "value", here)
        if not isinstance(turn.get("label"), str | None):
            raise InputError(f'{here}: "label" must be text or null')
    mask = row.get("mask", "User")
    if all(turn["from"] != mask for turn in turns):
        speakers = ", ".join(sorted({turn["from"] for turn in turns}))
        raise InputError(f'{where}: "mask" is {mask!r}, but the turns are from {speakers}')
    if not any(segment.trained for segment in render(row)):
        raise InputError(f"{where}: nothing to train on: no turn after the first is from another role than {mask!r}")


def render(row: Mapping[str, Any]) -> list[Segment]:
    """The row's text in order, cut where the loss starts and stops. The row must have passed `validate`.

    Not in the loss: the system turn, the first turn (unless TEXT_TO_VALUE), every role name and label line, and the
    masked role's turns. In the loss: the other values with their newline, and the turn token that ends them.
    """
    kind = row.get("type")
    mask = row.get("mask", "User")
    segments = [Segment(f"{SYSTEM_TURN_START}System\n{row['system']}\n", False)]
    for index, turn in enumerate(row["conversations"]):
        masked_role = turn["from"] == mask
        # the first turns have no answer before them whose end their turn token could teach
        ends_an_answer = masked_role and index >= (1 if kind == "TEXT_TO_VALUE" else 2)
        answers = not masked_role and (index > 0 or kind == "TEXT_TO_VALUE")
        label = turn.get("label") if kind is not None else None
        segments += [Segment(TURN_START, ends_an_answer), Segment(f"{turn['from']}\n", False)]
        if label is None:
            segments.append(Segment(f"{turn['value']}\n", answers))
        elif kind == "VALUE_TO_TEXT":
            segments += [Segment(f"{LABEL_START}{label}\n", False), Segment(f"{turn['value']}\n", answers)]
        else:
            segments += [Segment(f"{turn['value']}\n{LABEL_START}", False), Segment(f"{label}\n", answers)]
    if row["conversations"][-1]["from"] != mask:
        segments.append(Segment(TURN_START, True))
    return segments


def tokenize(row: Mapping[str, Any], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids of the whole text and, of the same length, labels with -100 wherever there is no loss.

    The text is tokenised in one piece and without BOS or EOS, as the reference does; a token that spans a border
    belongs to the stretch it starts in.

    Args:
        row: a row that has passed `validate`.
        tokenizer: a Hugging Face tokenizer that knows character offsets (a "fast" one).

    Raises:
        InputError: the tokenizer knows no offsets.
    """
    if not tokenizer.is_fast:
        raise InputError(f"{tokenizer.name_or_path}: this tokenizer has no tokenizer.json; convert it to a fast one")
    segments = render(row)
    encoded = tokenizer(
        "".join(segment.text for segment in segments),
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    trained = [segment.trained for segment in segments for _ in segment.text]
    ids: list[int] = encoded["input_ids"]
    starts = [start for start, _ in encoded["offset_mapping"]]
    return ids, [token if trained[start] else IGNORED for token, start in zip(ids, starts, strict=True)]


def _want_text(fields: Mapping[str, Any], name: str, where: str, default: str | None = None) -> None:
    if not isinstance(fields.get(name, default), str):
        found = "missing" if name not in fields else f"{fields[name]!r}"
        raise InputError(f'{where}: "{name}" must be text, it is {found}')
