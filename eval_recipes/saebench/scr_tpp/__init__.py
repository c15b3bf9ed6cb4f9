"""Spurious correlation removal and targeted probe perturbation."""
