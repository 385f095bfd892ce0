"""The control plane: what a CAIPipeline means, what to run next, and who runs it."""

__version__ = "0.1.0"
