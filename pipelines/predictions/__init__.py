"""Registered models at work: predict, explain, export."""
