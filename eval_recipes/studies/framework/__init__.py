"""The frame of studies: stages, choices, verdicts, report."""
