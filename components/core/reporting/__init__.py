"""Reports to people and monitors."""
