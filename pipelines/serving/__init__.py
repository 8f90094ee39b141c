"""A registered model over HTTP: micro-batches, limits, metrics, and the next version when its alias moves."""
