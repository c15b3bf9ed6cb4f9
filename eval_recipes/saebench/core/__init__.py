"""SAEBench's core metrics, with corrected explained variance."""
