"""Commands that read texts."""
