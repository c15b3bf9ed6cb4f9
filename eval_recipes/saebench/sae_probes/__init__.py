"""Sparse probing on the data sets of sae-probes."""
