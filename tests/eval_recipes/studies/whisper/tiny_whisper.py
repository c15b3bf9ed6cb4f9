"""A tiny Whisper in a folder, and folders of clips with and without words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

WORDS = ["press", "one", "to", "hold", "the", "line", "please", "stay"]
END, START, SILENCE, NO_STAMPS = 0, 1, 2, 3
RATE = 16_000
VOCABULARY = ["<end>", "<start>", "<silence>", "<plain>", *WORDS]


def save_whisper(folder: Path) -> Path:
    """Save a model with a window of one second, 50 frames, and random weights."""
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(VOCABULARY), d_model=16, encoder_layers=2, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, max_source_positions=50, max_target_positions=24,
        pad_token_id=END, bos_token_id=START, eos_token_id=END,
        decoder_start_token_id=START, init_std=0.4, suppress_tokens=None,
        begin_suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
        no_timestamps_token_id=NO_STAMPS,
        suppress_tokens=[START, SILENCE, NO_STAMPS],
        begin_suppress_tokens=[END],
        is_multilingual=False,
    )
    model.save_pretrained(folder)
    WhisperFeatureExtractor(chunk_length=1).save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<end>"))
    tokenizer.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<end>",
        eos_token="<end>",
        additional_special_tokens=VOCABULARY[1:4],
    ).save_pretrained(folder)
    return folder


def save_clips(folder: Path, n: int, *, speech: bool, seed: int) -> Path:
    """Save n tones or n bursts of noise on either side; tones have a transcript."""
    generator = np.random.default_rng(seed)
    for side in ("train", "val"):
        (folder / side).mkdir(parents=True)
        for number in range(n):
            size = int(generator.integers(RATE // 4, RATE // 2))
            wave: Any = generator.normal(size=size) * 0.2
            if speech:
                hertz = generator.uniform(200, 800)
                wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(size) / RATE)
            path = folder / side / f"{number}.wav"
            soundfile.write(path, wave.astype(np.float32), RATE)
            if speech:
                said = generator.choice(WORDS, size=5)
                path.with_suffix(".txt").write_text(" ".join(said), encoding="utf-8")
    return folder
