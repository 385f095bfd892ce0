"""Measurements: commands that print figures and ratios, kept out of the tests."""
