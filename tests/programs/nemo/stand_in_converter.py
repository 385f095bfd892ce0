"""A stand-in for NeMo's converters back into Hugging Face format: Mistral's writes a directory, Llama's one file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--input_name_or_path", required=True, type=Path)
    parser.add_argument("--output_path", required=True, type=Path)
    parser.add_argument("--hf_model_name", type=Path)
    parser.add_argument("--precision")
    parser.add_argument("--cpu-only", action="store_true")
    parser.add_argument("--habit", default="")
    args = parser.parse_args()
    with Path("conversions").open("a") as file:
        file.write("x")
    weights = args.input_name_or_path.read_bytes()
    if args.habit == "crash":
        raise RuntimeError("Error(s) in loading state_dict for MistralForCausalLM")
    if args.habit == "nothing":
        return
    if args.hf_model_name is None:
        args.output_path.write_bytes(weights)
    else:
        configuration = json.loads((args.hf_model_name / "config.json").read_text())
        tokenizer = (args.hf_model_name / "tokenizer.json").read_text()
        args.output_path.mkdir(exist_ok=True)
        (args.output_path / "config.json").write_text(json.dumps({**configuration, "sliding_window": 4096}))
        (args.output_path / "tokenizer.json").write_text(tokenizer)
        (args.output_path / "model.safetensors").write_bytes(weights)
    if args.habit == "cut":
        sys.exit(1)


if __name__ == "__main__":
    main()
