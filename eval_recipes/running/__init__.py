"""Runs of evaluations: plan, checks, models, held-out text, artefacts."""
