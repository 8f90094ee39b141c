"""The DAG on this machine."""
