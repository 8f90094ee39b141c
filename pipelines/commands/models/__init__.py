"""Commands that use or promote registered models."""
