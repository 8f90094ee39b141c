"""Runs in MLflow: how they begin, live, end and are found."""
