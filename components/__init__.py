"""The steps of Thawline as plain Python: importable, callable and testable without Kubeflow."""
