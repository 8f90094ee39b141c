"""List a source, read its records, and index it."""
