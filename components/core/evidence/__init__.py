"""Statistics and the decision: no model, no MLflow."""
