"""Outputs at the thaw line: addressed, computed once, kept, shared."""
