"""The report: one self-contained HTML page from the artifacts of a pipeline."""
