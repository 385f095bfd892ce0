"""What the operator tells Prometheus: figures of pipelines as they are, counts of what happened, its own health."""
