"""Evaluation of a model server on held-out red-team and benign prompts."""
