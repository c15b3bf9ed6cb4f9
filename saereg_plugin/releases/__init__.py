"""Folders of trained SAEs: manifest, hashes, registration with SAELens."""
