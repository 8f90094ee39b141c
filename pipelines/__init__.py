"""The DAG, its runners and the command line: the only code that knows Kubeflow."""
