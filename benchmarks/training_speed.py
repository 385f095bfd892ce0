"""Training and generation speed of a pocket-sized Llama under different thread settings, in tokens a second.

    python -m benchmarks.training_speed

Each setting runs in a process of its own, since OpenMP reads its variables once. The last column is the ratio to the
first row, torch's defaults.
"""

from __future__ import annotations

import os
import subprocess
import sys

SETTINGS = {
    "all cores, OpenMP's default waiting": {},
    "all cores, waiting passively": {"OMP_WAIT_POLICY": "passive"},
    "one core, waiting passively": {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"},
}
STEPS = 8
BATCH, LENGTH = 32, 128

MEASURE = f"""
import time
import torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=1536, hidden_size=128, intermediate_size=384, num_hidden_layers=4,
                                     num_attention_heads=4, tie_word_embeddings=True, eos_token_id=None))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
ids = torch.randint(0, 1536, ({BATCH}, {LENGTH}))
def step():
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
step()
started = time.perf_counter()
for _ in range({STEPS}):
    step()
train = {STEPS} * ids.numel() / (time.perf_counter() - started)
model.eval()
prompts = ids[:16, :16]
started = time.perf_counter()
model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=32, do_sample=False, pad_token_id=0)
print(train, 16 * 32 / (time.perf_counter() - started))
"""


def main() -> None:
    """Measure every setting and print a Markdown table."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    print("| threads | training | generating | ratio, training | ratio, generating |")
    print("|---|---|---|---|---|")
    base: tuple[float, float] | None = None
    for name, variables in SETTINGS.items():
        command = [sys.executable, "-c", MEASURE]
        shown = subprocess.run(command, env=own | variables, capture_output=True, text=True, check=True).stdout
        train, generate = (float(value) for value in shown.split())
        base = base or (train, generate)
        ratios = f"{train / base[0]:.1f} | {generate / base[1]:.1f}"
        print(f"| {name} | {train:,.0f} tok/s | {generate:,.0f} tok/s | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
