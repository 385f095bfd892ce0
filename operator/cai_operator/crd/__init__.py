"""The CustomResourceDefinition and its reference page, made from the models in `api.py` by `make manifests`."""
