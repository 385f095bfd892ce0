"""The hub's token is in no sentence and no log, whatever the hub or the token itself is like."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

TOKEN = "hf_canary9f31c0ffee"


class _Refusing(http.server.BaseHTTPRequestHandler):
    """A hub that quotes what it is shown."""

    shown: list[str]

    def do_GET(self) -> None:
        self.shown.append(self.headers.get("Authorization", ""))
        body = f'{{"error": "no access with {self.headers.get("Authorization")}"}}'.encode()
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Error-Message", f"no access with {self.headers.get('Authorization')}")
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    handler = type("Handler", (_Refusing,), {"shown": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler.shown
        server.shutdown()


@pytest.mark.parametrize("token", [TOKEN, f"{TOKEN}\n", f"{TOKEN}\u20ac"], ids=["plain", "line break", "no ASCII"])
@pytest.mark.parametrize(
    ("program", "flags"),
    [
        ("fetch_models", ["--base", '{"huggingFace": {"repo": "owner/name"}}']),
        (
            "fetch_datasets",
            [
                *("--red-team", '{"huggingFace": {"repo": "owner/name"}}'),
                *("--helpfulness", '{"pocket": {}}'),
                *("--preference", '{"pocket": {}}'),
            ],
        ),
    ],
)
def test_a_token_that_is_refused_is_not_told(
    hub: tuple[str, list[str]], tmp_path: Path, program: str, flags: list[str], token: str
) -> None:
    address, shown = hub
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_TOKEN": token, "HF_HOME": str(tmp_path / "home")}
    environment |= {"HF_HUB_OFFLINE": "0"}
    message = tmp_path / "message"
    command = [sys.executable, "-m", f"cai_jobs.{program}", *flags, f"--termination-message={message}"]
    done = subprocess.run(
        [*command, f"--output-dir={tmp_path / 'out'}"], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode != 0
    assert "error" in message.read_text()
    assert token.endswith("\u20ac") or "owner/name" in message.read_text()
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [content for content in files if TOKEN.encode() in content]
    assert TOKEN not in done.stdout + done.stderr
    if token == TOKEN:
        assert f"Bearer {TOKEN}" in shown
