"""A stand-in for NeMo's converters from Hugging Face format: a .nemo file with the weights and their configuration."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from stand_in import save_model


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--input_name_or_path", required=True, type=Path)
    parser.add_argument("--output_path", required=True, type=Path)
    parser.add_argument("--precision", default="bf16", choices=["bf16", "16", "32"])
    parser.add_argument("--llama31", default=True, type=bool)  # as Llama's has it: only empty text is false
    args = parser.parse_args()
    hub = json.loads((args.input_name_or_path / "config.json").read_text())
    digest = hashlib.sha256()
    for file in sorted(args.input_name_or_path.glob("*.safetensors")):
        digest.update(file.read_bytes())
    told = {"hidden_size": hub["hidden_size"], "precision": args.precision, "scale_positional_embedding": args.llama31}
    save_model(args.output_path, int(digest.hexdigest()[:12], 16), configuration=json.dumps(told))


if __name__ == "__main__":
    main()
