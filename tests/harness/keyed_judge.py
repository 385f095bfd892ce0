"""The pocket judge behind a door: only who shows a key is answered, and a wrong key is quoted, as some judges do.

    python keyed_judge.py --port 5998 --sha256 DIGEST

It knows keys by their digests alone, so that a search for a key finds none here. Needs `cai_jobs` alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from typing import Any

import uvicorn

from cai_jobs.pocket.judge import load_judge
from cai_jobs.pocket.paths import JUDGE_FILE
from cai_jobs.pocket_judge import build_app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--sha256", action="append", required=True, help="of a key that is let in; may be repeated")
    options = parser.parse_args()
    app = behind_door(build_app(load_judge(JUDGE_FILE)), frozenset(options.sha256))
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning", access_log=False)


def behind_door(app: Any, digests: frozenset[str]) -> Any:
    """The ASGI application, for those who have a key; its health is everybody's."""

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/health"):
            await app(scope, receive, send)
            return
        shown = dict(scope["headers"]).get(b"authorization", b"").decode()
        key = shown.removeprefix("Bearer ")
        if hashlib.sha256(key.encode()).hexdigest() in digests:
            await app(scope, receive, send)
            return
        body = json.dumps({"error": {"message": f"Incorrect API key provided: {shown}"}}).encode()
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})

    return guarded


if __name__ == "__main__":
    main()
