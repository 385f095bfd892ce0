"""`PUT /generate`: the request and answer of NeMo's megatron_gpt_eval.py.

Fields, limits and defaults are the reference's (NeMo 2.x, text_generation_server.py). As there, a completion keeps the
end string that ended it (nothing follows it), while BOS, EOS and padding have no text. Deliberate differences:

- a wrong value is a 400 with a JSON object (the reference's string under `reference`), not a 200 with a string;
- rows are not padded to a common length; a sentence begins with its prompt letter for letter;
- `random_seeds` gives every sentence a seed of its own;
- the repetition penalty holds for greedy decoding too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from cai_jobs.inference.request import GREEDY_BELOW, MAX_ROWS, Answer, RequestError, Row, Sampling
from cai_jobs.inference.validation import Body, parse

if TYPE_CHECKING:
    from cai_jobs.inference.model import Model

TOO_MANY = f"Maximum number of sentences is {MAX_ROWS}"
REFERENCES = {
    "sentences": TOO_MANY,
    "tokens_to_generate": "tokens_to_generate must be an integer greater than 0",
    "all_probs": "all_probs must be a boolean value",
    "temperature": "temperature must be a positive number less than or equal to 100.0",
    "add_BOS": "add_BOS must be a boolean value",
    "greedy": "greedy must be a boolean value",
    "top_k": "top_k must be a positive integer number",
    "top_p": "top_p must be a positive number less than or equal to 1.0",
    "repetition_penalty": "repetition_penalty must be a positive number no less than 1.0",
    "end_strings": "expect end_strings to be a list of strings",
    "min_tokens_to_generate": "min_tokens_to_generate must be an integer no less than 0",
    "compute_logprob": "compute_logprob must be a boolean value",
    "random_seed": "random_seed must be a positive integer number or None",
}


class Turn(Body):
    """One turn of every dialogue of a batch."""

    role: list[str] | str
    content: list[str] | str


class GenerateBody(Body):
    """The body of PUT /generate."""

    sentences: list[str] | list[Turn] = Field(
        description=f"a list of 1 to {MAX_ROWS} texts, or the turns of 1 to {MAX_ROWS} dialogues as objects "
        '{"role": [one of each dialogue], "content": [one of each dialogue]}'
    )
    tokens_to_generate: Annotated[int, Field(ge=1)] = Field(64, description="an integer above 0")
    temperature: Annotated[float, Field(gt=0, le=100)] = Field(1.0, description="a number above 0 and at most 100")
    add_BOS: bool = Field(False, description="true or false")
    greedy: bool = Field(False, description="true or false")
    top_k: Annotated[float, Field(ge=0, multiple_of=1)] = Field(
        0, description="a whole number of at least 0; 0 keeps every token"
    )
    top_p: Annotated[float, Field(ge=0, le=1)] = Field(
        0.9, description="a number from 0 to 1; 0 and 1 keep every token"
    )
    repetition_penalty: Annotated[float, Field(ge=1)] = Field(1.0, description="a number of at least 1")
    min_tokens_to_generate: Annotated[int, Field(ge=0)] = Field(0, description="an integer of at least 0")
    end_strings: list[str] = Field(["<|endoftext|>"], description="a list of strings")
    all_probs: bool = Field(False, description="true or false")
    compute_logprob: bool = Field(False, description="true or false")
    random_seed: Annotated[int, Field(ge=0)] | None = Field(None, description="an integer of at least 0, or null")
    random_seeds: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="a list of integers of at least 0, one for each sentence, or null"
    )


def rows_of(raw: bytes, model: Model) -> list[Row]:
    """The rows a request asks for.

    Raises:
        RequestError: a field is wrong, or a prompt does not fit the model.
    """
    body = parse(GenerateBody, raw, REFERENCES)
    prompts, chat = _prompts(body, model)
    if body.random_seeds is not None and len(body.random_seeds) != len(prompts):
        raise RequestError(
            f"random_seeds has {len(body.random_seeds)} seeds for {len(prompts)} sentences; one each is wanted",
            "random_seeds",
        )
    sampling = Sampling(
        max_tokens=body.tokens_to_generate,
        min_tokens=body.min_tokens_to_generate,
        greedy=body.greedy or body.top_k == 1 or body.temperature < GREEDY_BELOW,
        temperature=body.temperature,
        top_k=int(body.top_k),
        top_p=body.top_p or 1.0,
        repetition_penalty=body.repetition_penalty,
        stop=tuple(string for string in body.end_strings if string),
        logprobs=body.compute_logprob or body.all_probs,
        all_logprobs=body.all_probs,
    )
    ids = model.encode(prompts, bos=body.add_BOS and not chat)
    rows = [Row(prompt, prompt_ids, sampling) for prompt, prompt_ids in zip(prompts, ids, strict=True)]
    for number, row in enumerate(rows):
        if body.random_seeds is not None:
            row.seed = body.random_seeds[number]
        elif body.random_seed is not None:
            row.seed, row.index = body.random_seed, number
    model.check_length(rows, "tokens_to_generate")
    return rows


def render(rows: Sequence[Row], answers: Sequence[Answer], model: Model) -> dict[str, Any]:
    """The answer's body: sentences, tokens, logprob, token_ids, offsets, and full_logprob with all_probs.

    `completions` is ours: each answer alone, for clients of chat templates whose prompt they cannot cut off.
    """
    token_ids = [[*row.prompt_ids, *answer.token_ids] for row, answer in zip(rows, answers, strict=True)]
    tokens = [model.pieces(ids) for ids in token_ids]
    scores = [answer.scores for answer in answers]
    body: dict[str, Any] = {
        "completions": [answer.text for answer in answers],
        "sentences": [
            row.prompt + answer.text + (answer.stopped_by or "") for row, answer in zip(rows, answers, strict=True)
        ],
        "tokens": tokens,
        "logprob": [score.tokens for score in scores if score] or None,
        "token_ids": token_ids,
        "offsets": [_offsets(ids, pieces, model) for ids, pieces in zip(token_ids, tokens, strict=True)],
    }
    if any(row.sampling.all_logprobs for row in rows):
        body["full_logprob"] = [score.full for score in scores if score]
    return body


def _prompts(body: GenerateBody, model: Model) -> tuple[list[str], bool]:
    texts = [entry for entry in body.sentences if isinstance(entry, str)]
    turns = [entry for entry in body.sentences if isinstance(entry, Turn)]
    dialogues = _dialogues(turns) if turns else []
    count = len(texts) or len(dialogues)
    if not 1 <= count <= MAX_ROWS:
        raise RequestError(
            f"sentences has {count} entries; allowed: 1 to {MAX_ROWS}",
            "sentences",
            reference=TOO_MANY if count else None,
        )
    return texts or [model.chat_prompt(dialogue) for dialogue in dialogues], bool(turns)


def _dialogues(turns: Sequence[Turn]) -> list[list[dict[str, str]]]:
    roles = [[turn.role] if isinstance(turn.role, str) else turn.role for turn in turns]
    contents = [[turn.content] if isinstance(turn.content, str) else turn.content for turn in turns]
    count = len(roles[0])
    for number, (role, content) in enumerate(zip(roles, contents, strict=True)):
        if len(role) != count or len(content) != count:
            raise RequestError(
                f"turn {number} has {len(role)} roles and {len(content)} contents, the first turn has {count} roles: "
                "every dialogue of a request needs the same number of turns",
                "sentences",
            )
    return [
        [
            {"role": role[place].lower(), "content": content[place]}
            for role, content in zip(roles, contents, strict=True)
        ]
        for place in range(count)
    ]


def _offsets(ids: Sequence[int], pieces: Sequence[str], model: Model) -> list[int]:
    offsets = [0]
    for token, piece in zip(ids[:-1], pieces[:-1], strict=True):
        offsets.append(offsets[-1] + (0 if model.is_hidden(token) else len(piece)))
    return offsets
