"""Labelled text sets for offline use, shaped like SAEBench's hub sets."""
