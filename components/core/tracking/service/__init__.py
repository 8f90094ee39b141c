"""The connection to MLflow: address, outages, retries."""
