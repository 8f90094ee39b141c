"""The search: its study and its trials."""
