"""Ask a served model one question (the tutorial's last step) and get the answer without the prompt.

python -m cai_jobs.get_answer "How do I bake bread?" --port 1427
"""

from __future__ import annotations

from collections.abc import Sequence

from cai_jobs.contract import program
from cai_jobs.contract.program import InputError, Parser, RetryableError

PROMPT_TEMPLATE = "<extra_id_0>System\n\n<extra_id_1>User\n{question}\n<extra_id_1>Assistant\n"
END_OF_TURN = "<extra_id_1>"
TIMEOUT_S = 600.0


def get_answer(
    question: str,
    max_tokens: int = 512,
    eval_port: int = 1427,
    host: str = "localhost",
    url: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> str:
    """The greedy answer of a server that speaks `PUT /generate` (cai_jobs.serve or megatron_gpt_eval.py).

    Args:
        max_tokens: tokens to generate, at most.
        url: the server ("http://host:1427", with or without /generate); else it is made of `host` and `eval_port`.

    Returns:
        The answer without the prompt and without the end-of-turn mark.

    Raises:
        InputError: the server refuses the request; the sentence is the server's.
        RetryableError: the server cannot be reached, is not ready, or answers something else.
    """
    import httpx

    address = (url or f"http://{host}:{eval_port}").rstrip("/").removesuffix("/generate") + "/generate"
    prompt = PROMPT_TEMPLATE.replace("{question}", question)
    request = {
        "sentences": [prompt],
        "tokens_to_generate": max_tokens,
        "top_k": 1,
        "greedy": True,
        "end_strings": [END_OF_TURN],
    }
    try:
        reply = httpx.put(address, json=request, timeout=timeout_s)
        body = reply.json()
    except (httpx.HTTPError, httpx.InvalidURL) as problem:
        raise RetryableError(
            f"{address} does not answer ({problem or type(problem).__name__}); is the server running?"
        ) from problem
    except ValueError as problem:
        raise RetryableError(f"{address} answered {reply.status_code} with something that is not JSON") from problem
    # the reference server reports a wrong value as 200 with a JSON string
    if isinstance(body, str) or 400 <= reply.status_code < 500:
        raise InputError(f"{address} refused the request: {_complaint(body)}")
    if reply.status_code != 200 or not isinstance(body, dict) or not body.get("sentences"):
        raise RetryableError(f"{address} answered {reply.status_code}: {_complaint(body)}")
    # the formatted prompt is what the answer begins with; the template is shorter by the question
    return str(body["sentences"][0])[len(prompt) :].removesuffix(END_OF_TURN).strip()


def build_parser() -> Parser:
    """The program's flags."""
    parser = Parser("get_answer", "Ask a served model one question.", artifact=False)
    parser.add_argument("question", help="what to ask")
    parser.add_argument("--max-tokens", type=int, default=512, help="tokens of the answer, at most")
    parser.add_argument("--host", default="localhost", help="where the server is")
    parser.add_argument("--port", type=int, default=1427, help="its port")
    parser.add_argument("--url", help="the server's address, instead of --host and --port")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the answer."""
    arguments = build_parser().parse_args(argv)
    print(get_answer(arguments.question, arguments.max_tokens, arguments.port, arguments.host, arguments.url))


def _complaint(body: object) -> str:
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        return str(body["error"].get("message"))
    return str(body)


if __name__ == "__main__":
    program.run(main)
