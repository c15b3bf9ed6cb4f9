"""SAEBench's evaluations, made reproducible."""
