"""Edits of a module's output, through an SAE or along a direction."""
