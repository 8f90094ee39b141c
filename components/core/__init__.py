"""Code shared by all steps, independent of any task and pipeline."""
