"""The DAG on Kubeflow: its pods, its runs and its schedules."""
