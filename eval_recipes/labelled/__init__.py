"""Labelled text sets that need no network, of the same shape as SAEBench's hub sets."""
