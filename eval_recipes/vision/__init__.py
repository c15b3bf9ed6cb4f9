"""The evaluation vision: SAEs on images."""
