"""Evaluates trained sparse autoencoders and reports in SAEBench's format."""
