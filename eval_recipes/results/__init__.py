"""Result files in SAEBench's format: writing, reading, one tidy table."""
