"""Versions, the ledger, and promotion."""
