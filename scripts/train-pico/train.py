#!/usr/bin/env python3
"""Train pico, the small llama-architecture model embedded in ruvlab.

Rerun from the corpus:

    python3 -m venv venv && venv/bin/pip install -r scripts/train-pico/requirements.txt
    venv/bin/python scripts/train-pico/train.py --corpus english.txt --out run
    venv/bin/python scripts/train-pico/export.py --run run --gguf pico.gguf
    venv/bin/python scripts/train-pico/evaluate.py --text heldout.txt --run run --gguf pico.gguf

`--out` receives tokenizer.json, model.safetensors (f32), config.json and
loss.csv. The defaults are the settings of the shipped model. Training wants a
CUDA device (minutes on an H100); a CPU works but takes far longer. The seed
fixes initialisation, dropout and data order; GPU kernels still sum in varying
order, so a rerun gives close, not bit-equal, weights.
"""

import argparse
import csv
import hashlib
import json
import math
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

EOT = "<|endoftext|>"


@dataclass
class Config:
    # Every row length (256, 768) is a multiple of 256, so that llama.cpp's
    # K-quants, whose blocks hold 256 weights, fit all matrices.
    vocab: int = 4096
    hidden: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    ff: int = 768
    context: int = 512
    rope_theta: float = 10000.0
    rms_eps: float = 1e-5


# --- text ------------------------------------------------------------------

# The corpus file is works joined end to end without a mark. Most begin with a
# title in capitals and "by AUTHOR"; these are the document boundaries that
# teach the model its end-of-text token.
TITLE = re.compile(
    r"(?:THE END)?([A-Z][A-Z',;: -]*[A-Z])(?=\s+(?:\(\d+\)\s+)?"
    r"[Bb][Yy]\s+(?:Jane Austen|William Shakespeare|John Milton)\b)"
)


def split_corpus(text, blocks=20, block_chars=5200):
    """Cut about 1 % of the corpus, in blocks spread evenly, for validation.

    The last 1 % alone would be nothing but dictionary entries; spread blocks
    see novels, plays and verse in the proportion of the corpus.
    """
    train, val, at = [], [], 0
    for k in range(blocks):
        start = text.index("\n", (2 * k + 1) * len(text) // (2 * blocks)) + 1
        end = text.index("\n", start + block_chars) + 1
        train.append(text[at:start])
        val.append(text[start:end])
        at = end
    train.append(text[at:])
    return "".join(train), "".join(val)


def documents(text):
    cuts = [0] + [m.start(1) for m in TITLE.finditer(text) if m.start(1) > 0] + [len(text)]
    return [text[a:b] for a, b in zip(cuts, cuts[1:])]


def train_tokenizer(text, vocab):
    """Byte-level BPE exactly as GPT-2: its regex, no prefix space, all 256 bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[EOT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents(text), trainer)
    assert tokenizer.get_vocab_size() == vocab and tokenizer.token_to_id(EOT) == 0
    return tokenizer


def encode(tokenizer, docs):
    """Token ids of the documents, an end-of-text token after each but the last."""
    eot = tokenizer.token_to_id(EOT)
    ids = []
    for encoding in tokenizer.encode_batch(docs, add_special_tokens=False):
        ids += encoding.ids + [eot]
    return torch.tensor(ids[:-1], dtype=torch.int64)


# --- model -----------------------------------------------------------------
# Module names are llama.cpp's tensor names, so exporting renames nothing.


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return (y * self.weight).to(x.dtype)


def rotate(x, cos, sin):
    """Rotary embedding over interleaved pairs (0,1), (2,3), ...

    This is the layout that llama.cpp's llama architecture expects, so Q and K
    need no permutation on export (Hugging Face pairs i with i + dim/2).
    """
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


class Block(nn.Module):
    def __init__(self, c, dropout):
        super().__init__()
        self.c, self.dropout = c, nn.Dropout(dropout)
        q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
        self.attn_norm = RMSNorm(c.hidden, c.rms_eps)
        self.attn_q = nn.Linear(c.hidden, q, bias=False)
        self.attn_k = nn.Linear(c.hidden, kv, bias=False)
        self.attn_v = nn.Linear(c.hidden, kv, bias=False)
        self.attn_output = nn.Linear(q, c.hidden, bias=False)
        self.ffn_norm = RMSNorm(c.hidden, c.rms_eps)
        self.ffn_gate = nn.Linear(c.hidden, c.ff, bias=False)
        self.ffn_up = nn.Linear(c.hidden, c.ff, bias=False)
        self.ffn_down = nn.Linear(c.ff, c.hidden, bias=False)

    def forward(self, x, cos, sin):
        def split(y):
            return y.unflatten(-1, (-1, self.c.head_dim)).transpose(1, 2)

        h = self.attn_norm(x)
        q = rotate(split(self.attn_q(h)), cos, sin)
        k = rotate(split(self.attn_k(h)), cos, sin)
        h = F.scaled_dot_product_attention(
            q, k, split(self.attn_v(h)), is_causal=True, enable_gqa=True
        )
        x = x + self.dropout(self.attn_output(h.transpose(1, 2).flatten(-2)))
        h = self.ffn_norm(x)
        return x + self.dropout(self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h)))


class Pico(nn.Module):
    def __init__(self, c, dropout=0.0):
        super().__init__()
        self.token_embd = nn.Embedding(c.vocab, c.hidden)
        self.dropout = nn.Dropout(dropout)
        self.blk = nn.ModuleList(Block(c, dropout) for _ in range(c.layers))
        self.output_norm = RMSNorm(c.hidden, c.rms_eps)

        inverse = c.rope_theta ** (-torch.arange(0, c.head_dim, 2).double() / c.head_dim)
        angle = torch.arange(c.context).double()[:, None] * inverse
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

        for name, p in self.named_parameters():
            if p.dim() == 2:
                # Scaling what each layer adds keeps the residual stream's size
                # at the start independent of depth (GPT-2's recipe).
                adds = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * c.layers) if adds else 0.02)

    def forward(self, ids):
        n = ids.shape[1]
        x = self.dropout(self.token_embd(ids))
        for block in self.blk:
            x = block(x, self.cos[:n], self.sin[:n])
        return F.linear(self.output_norm(x), self.token_embd.weight)  # tied


# --- training --------------------------------------------------------------


def loss_of(model, windows):
    logits = model(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


def windows_of(ids, length, offset=0):
    """Non-overlapping windows of length + 1 tokens, the last shared with the next."""
    return ids[offset:].unfold(0, length + 1, length)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=48)
    parser.add_argument("--batch", type=int, default=32, help="windows a step")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--weight-decay", type=float, default=2.0)
    parser.add_argument("--dropout", type=float, default=0.2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    config = Config()

    raw = args.corpus.read_bytes()
    train_text, val_text = split_corpus(raw.decode("utf-8"))
    tokenizer = train_tokenizer(train_text, config.vocab)
    tokenizer.save(str(args.out / "tokenizer.json"))

    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train = encode(tokenizer, documents(train_text)).to(device)
    val = windows_of(encode(tokenizer, [val_text]), config.context).to(device)

    model = Pico(config, args.dropout).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    matrices = [p for p in model.parameters() if p.dim() == 2]
    norms = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": args.weight_decay},
         {"params": norms, "weight_decay": 0.0}],
        lr=args.lr, betas=(0.9, 0.95), fused=True,
    )

    # Each epoch cuts the stream at a fresh offset; reserving one window for
    # that keeps the number of steps the same in every epoch.
    per_epoch = ((len(train) - 1) // config.context - 1) // args.batch
    steps = per_epoch * args.epochs
    warmup = steps // 50

    def schedule(step):  # linear warmup, then cosine to 0
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (steps - warmup))

    # Validation runs the plain model, so that only one shape is compiled.
    train_loss = torch.compile(loss_of) if device == "cuda" else loss_of
    every = max(1, steps // 300)
    rows, running = [], torch.zeros((), device=device)
    began = time.time()
    for step in range(steps):
        if step % per_epoch == 0:
            offset = int(torch.randint(config.context, ()))
            epoch = windows_of(train, config.context, offset)
            order = torch.randperm(len(epoch))[: per_epoch * args.batch].to(device)
        at = step % per_epoch * args.batch
        batch = epoch[order[at : at + args.batch]]

        rate = args.lr * schedule(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = train_loss(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        running += loss.detach()
        if (step + 1) % every == 0 or step + 1 == steps:
            model.eval()
            with torch.no_grad():
                val_loss = loss_of(model, val).item()
            model.train()
            since = step + 1 - (rows[-1][0] if rows else 0)
            rows.append((step + 1, rate, running.item() / since, val_loss))
            running.zero_()
            if len(rows) % 10 == 0:
                print("step %d/%d lr %.2e train %.4f val %.4f" % (
                    step + 1, steps, *rows[-1][1:]), flush=True)
    seconds = time.time() - began

    with open(args.out / "loss.csv", "w", newline="") as f:
        out = csv.writer(f)
        out.writerow(["step", "lr", "train_loss", "val_loss"])
        out.writerows((s, f"{r:.3e}", f"{t:.4f}", f"{v:.4f}") for s, r, t, v in rows)
    save_file({k: v.float().cpu().contiguous() for k, v in model.state_dict().items()},
              args.out / "model.safetensors")
    settings = {k: v for k, v in vars(args).items() if k not in ("corpus", "out")}
    record = {
        "model": asdict(config),
        "parameters": parameters,
        "training": settings,
        "steps": steps,
        "train_tokens": len(train),
        "val_tokens": val.numel(),
        "corpus_sha256": hashlib.sha256(raw).hexdigest(),
        "val_loss": rows[-1][3],
        "best_val_loss": min(r[3] for r in rows),
        "seconds": round(seconds, 1),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    (args.out / "config.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
