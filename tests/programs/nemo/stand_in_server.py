"""Stand-in for megatron_gpt_eval.py: its command line, its one page, its way of refusing; one request at a time.

    python megatron_gpt_eval.py gpt_model_file=FILE port=5999 trainer.devices=1 ...

What it says follows from the model file, the prompt and the seed. With a file `text-server` (see `stand_in.habit`) the
next request is answered with status 200 and a JSON string, once.
"""

from __future__ import annotations

import json
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from stand_in import habit, settings_of
from stand_in_lessons import digest_of
from stand_in_texts import Speaker

MEAN_TOKENS = 24.0
MOST_SENTENCES = 128


def main() -> None:
    settings = settings_of(sys.argv[1:])
    model = Path(settings["gpt_model_file"])
    split = int(settings["tensor_model_parallel_size"]) * int(settings["pipeline_model_parallel_size"])
    assert int(settings["trainer.devices"]) * int(settings["trainer.num_nodes"]) == split
    with tarfile.open(model):
        digest = digest_of(model)
    speaker, one_at_a_time = Speaker(MEAN_TOKENS), threading.Lock()

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        """The status, and what is answered."""
        refusal = habit(model, "text-server")
        if refusal is not None:
            refusal.unlink()
            return 200, "The model is busy: try again"
        sentences = body["sentences"]
        if len(sentences) > MOST_SENTENCES:
            return 400, f"Maximum number of sentences is {MOST_SENTENCES}"
        if not 0 < body.get("temperature", 1.0) <= 100:
            return 200, "temperature must be a positive number less than or equal to 100.0"
        sampled = not body.get("greedy") and body.get("top_k") != 1
        # one seed a request: what a sentence draws depends on those beside it
        seed = f"{digest} {body.get('random_seed')} {sentences}" if sampled else digest
        most, heat = body.get("tokens_to_generate", 64), body.get("temperature", 1.0) if sampled else 1.0
        said = [
            speaker.answer(text, f"{seed} {sampled and place}", heat, most)[0] for place, text in enumerate(sentences)
        ]
        return 200, {"sentences": [f"{text}{words}" for text, words in zip(sentences, said, strict=True)]}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(405, {"message": "The method is not allowed for the requested URL."})

        def do_PUT(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with one_at_a_time:
                self._send(*answer(body))

        def _send(self, code: int, document: object) -> None:
            content = json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    time.sleep(0.5)  # it generates twice before it listens
    ThreadingHTTPServer(("0.0.0.0", int(settings["port"])), Handler).serve_forever()


if __name__ == "__main__":
    main()
