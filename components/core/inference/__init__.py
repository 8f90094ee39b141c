"""What travels with a registered model and runs where Thawline is not installed."""
