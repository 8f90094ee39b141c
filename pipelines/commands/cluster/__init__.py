"""Commands that speak to Kubeflow."""
