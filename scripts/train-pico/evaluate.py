#!/usr/bin/env python3
"""Perplexity by llama.cpp's convention, of a train.py run and of its GGUF.

    python evaluate.py --text heldout.txt --run run
    python evaluate.py --text heldout.txt --run run --gguf pico.gguf

The text is cut into windows of 512 tokens that do not overlap, a last part
window is dropped, no BOS is added, and only the second half of each window is
scored (tokens 257 to 512 given all before them, 255 a window), as
llama-perplexity does. Without --gguf the f32 weights run in PyTorch; with it
llama.cpp runs the file (pip install llama-cpp-python), and its own tokenizer
is checked against the run's tokenizer.json first.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

WINDOW = 512


def torch_logits(run):
    import torch
    from safetensors.torch import load_file
    from train import Config, Pico

    model = Pico(Config(**json.loads((run / "config.json").read_text())["model"])).eval()
    model.load_state_dict(load_file(run / "model.safetensors"))

    @torch.no_grad()
    def logits(ids):
        return model(torch.tensor([ids]))[0].numpy()

    return logits


def llama_logits(path, ids, text):
    from llama_cpp import Llama

    llm = Llama(str(path), n_ctx=WINDOW, n_batch=WINDOW, logits_all=True, verbose=False)
    own = llm.tokenize(text.encode(), add_bos=False, special=False)
    assert own == ids, "llama.cpp tokenizes the text differently"

    def logits(window):
        llm.reset()
        llm.eval(window)
        return llm.scores[: len(window)]

    return logits


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--gguf", type=Path)
    args = parser.parse_args()

    text = args.text.read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(args.run / "tokenizer.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text
    logits = llama_logits(args.gguf, ids, text) if args.gguf else torch_logits(args.run)

    nll, scored, size = 0.0, 0, 0
    for at in range(0, len(ids) - WINDOW + 1, WINDOW):
        window = ids[at : at + WINDOW]
        rows = logits(window)[WINDOW // 2 : -1].astype(np.float64)
        target = window[WINDOW // 2 + 1 :]
        peak = rows.max(1)
        log_sum = peak + np.log(np.exp(rows - peak[:, None]).sum(1))
        nll += float((log_sum - rows[np.arange(len(target)), target]).sum())
        scored += len(target)
        size += len(tokenizer.decode(target).encode())
    print(json.dumps({
        "tokens": len(ids),
        "characters_per_token": round(len(text) / len(ids), 4),
        "scored_tokens": scored,
        "perplexity": round(math.exp(nll / scored), 4),
        "bits_per_byte": round(nll / size / math.log(2), 4),
    }))


if __name__ == "__main__":
    main()
