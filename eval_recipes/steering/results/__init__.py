"""Results of steering: texts, output, plots."""
