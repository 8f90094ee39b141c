"""Runs in MLflow: how they begin, live, end and are found; `service` is the connection to it."""
