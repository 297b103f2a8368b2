#!/usr/bin/env python3
"""Write a run of train.py as a Q8_0 GGUF that llama.cpp loads.

    python export.py --run run --gguf pico.gguf

Matrices become Q8_0 and norms stay f32. train.py rotates interleaved pairs
and names its tensors as llama.cpp does, so nothing is permuted or renamed.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

EOT = "<|endoftext|>"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--gguf", type=Path, required=True)
    args = parser.parse_args()
    config = json.loads((args.run / "config.json").read_text())["model"]
    tokenizer = json.loads((args.run / "tokenizer.json").read_text())["model"]
    tensors = load_file(args.run / "model.safetensors")

    w = gguf.GGUFWriter(args.gguf, "llama")
    w.add_type(gguf.GGUFType.MODEL)
    w.add_name("pico")
    w.add_description("Small English model for ruvlab's tests, quickstart and benches; not for use.")
    w.add_license("CC0-1.0")
    w.add_languages(["en"])
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_context_length(config["context"])
    w.add_embedding_length(config["hidden"])
    w.add_block_count(config["layers"])
    w.add_feed_forward_length(config["ff"])
    w.add_head_count(config["heads"])
    w.add_head_count_kv(config["kv_heads"])
    w.add_key_length(config["head_dim"])
    w.add_value_length(config["head_dim"])
    w.add_layer_norm_rms_eps(config["rms_eps"])
    w.add_rope_dimension_count(config["head_dim"])
    w.add_rope_freq_base(config["rope_theta"])
    w.add_vocab_size(config["vocab"])

    vocab = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    eot = tokenizer["vocab"][EOT]
    types = [gguf.TokenType.NORMAL] * len(vocab)
    types[eot] = gguf.TokenType.CONTROL
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(vocab)
    w.add_token_types(types)
    w.add_token_merges([" ".join(pair) for pair in tokenizer["merges"]])
    w.add_bos_token_id(eot)
    w.add_eos_token_id(eot)
    w.add_add_bos_token(False)
    w.add_add_eos_token(False)

    for name, data in tensors.items():
        if data.ndim == 1:
            w.add_tensor(name, data.astype(np.float32))
        else:
            q8 = gguf.GGMLQuantizationType.Q8_0
            w.add_tensor(name, gguf.quants.quantize(data.astype(np.float32), q8), raw_dtype=q8)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    print(args.gguf, args.gguf.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
