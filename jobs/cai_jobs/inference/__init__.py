"""The model server: HTTP shapes, batching and sampling. `serve` is the program."""
