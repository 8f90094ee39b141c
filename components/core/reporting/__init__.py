"""What people and monitors are told."""
