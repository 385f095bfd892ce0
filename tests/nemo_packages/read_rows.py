"""Let NeMo-Aligner's own classes read files: READINGS.json ROWS.json (tests/harness/nemo_aligner.py starts it).

Runs in an environment of its own and imports nothing of this project. A reading has kind, path, tokenizer and length;
for each, the rows as the trainers would get them:

    sft          {"ids", "trained" (0 or 1 a token), "context" (tokens before the last answer),
                 "in_loss" (how many count in a batch)}
    comparisons  {"chosen", "rejected"}
    prompts      {"ids", "trained" (false: replaced by another prompt and masked)}
"""

import json
import sys
import tempfile
from pathlib import Path

CHAT = {
    "system_turn_start": "<extra_id_0>",
    "turn_start": "<extra_id_1>",
    "label_start": "<extra_id_2>",
    "end_of_turn": "\n",
    "end_of_name": "\n",
}


def main():
    from nemo.collections.nlp.modules.common.tokenizer_utils import get_nmt_tokenizer

    readers = {"sft": sft, "comparisons": comparisons, "prompts": prompts}
    question, answer = sys.argv[1:]
    tokenizers, found = {}, []
    for reading in json.loads(Path(question).read_text()):
        place = reading["tokenizer"]
        if place not in tokenizers:
            tokenizers[place] = get_nmt_tokenizer(library="huggingface", model_name=place, use_fast=True)
        found.append(readers[reading["kind"]](reading["path"], tokenizers[place], reading["length"]))
    Path(answer).write_text(json.dumps(found))


def sft(path, tokenizer, length):
    from nemo_aligner.data.nlp.builders import build_sft_dataset
    from omegaconf import OmegaConf

    # train_ds of gpt_sft.yaml and of the rendered command
    config = OmegaConf.create(
        {
            "file_path": path,
            "max_seq_length": length,
            "min_seq_length": 1,
            "add_bos": False,
            "add_eos": False,
            "add_sep": False,
            "label_key": "output",
            "truncation_field": "input",
            "index_mapping_dir": tempfile.mkdtemp(dir="."),
        }
    )
    data = build_sft_dataset(
        config, tokenizer, num_samples=None, answer_only_loss=True, is_chat=True, special_tokens=CHAT
    )
    rows = []
    for number in range(len(data)):
        row = data[number]
        # what a batch of this row alone trains on: the classes cut to the longest length there
        batch = data.collate_fn([row])
        rows.append(
            {
                "ids": row["input_ids"].tolist(),
                "trained": row["mask"].int().tolist(),
                "context": row["context_ids"].tolist(),
                "in_loss": int(batch["loss_mask"].sum()),
            }
        )
    return rows


def comparisons(path, tokenizer, length):
    from nemo_aligner.data.nlp.builders import build_train_valid_test_rm_datasets

    data = _train_part(build_train_valid_test_rm_datasets, path, tokenizer, length)
    rows = []
    for number in range(len(data)):
        pair = data[number]
        rows.append(
            {side: pair[side][: pair[f"{side}_length"]].tolist() for side in ("chosen", "rejected")},
        )
    return rows


def prompts(path, tokenizer, length):
    from nemo_aligner.data.nlp.builders import build_train_valid_test_rlhf_datasets

    data = _train_part(build_train_valid_test_rlhf_datasets, path, tokenizer, length)
    rows = (data[number] for number in range(len(data)))
    return [{"ids": row["text"].tolist(), "trained": bool(row["loss_multiplier"])} for row in rows]


def _train_part(build, path, tokenizer, length):
    from omegaconf import OmegaConf

    splits = {split: [path] for split in ("train", "validation", "test")}
    config = OmegaConf.create({"data": {"data_impl": "json", "splits_string": None, "data_prefix": splits}})
    train, _, _ = build(
        cfg=config,
        data_prefix=config.data.data_prefix,
        data_impl="json",
        splits_string=None,
        train_valid_test_num_samples=[-1, -1, -1],
        seq_length=length,
        seed=1234,
        tokenizer=tokenizer,
    )
    return train


if __name__ == "__main__":
    main()
