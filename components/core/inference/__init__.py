"""Code that travels with a registered model and runs without Thawline."""
