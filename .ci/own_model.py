"""A tiny random language model and a text in local folders, as a user's own."""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [f"word{number}" for number in range(200)]
SPECIAL = ["<s>", "</s>", "<unk>"]


def write_model(folder):
    """Write a model of two layers, 16 wide, with a tokenizer of whole words."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def write_text(folder):
    """Write a text of a thousand lines as a data set with the split "train"."""
    folder.mkdir(parents=True)
    with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
        for line in range(1000):
            text = " ".join(WORDS[line * step % 200] for step in range(1, 40))
            file.write(json.dumps({"text": text}) + "\n")


if __name__ == "__main__":
    write_model(Path(sys.argv[1], "model"))
    write_text(Path(sys.argv[1], "text"))
