"""Kubernetes objects as pure functions of the pipeline: what the plan's workloads look like on a cluster."""
