"""Whisper's hallucinations on sound without speech, edited through SAEs (arXiv 2606.07473)."""
