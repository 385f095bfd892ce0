"""A real Kubernetes for the tests: a control plane alone, or a whole node with pods that run."""
