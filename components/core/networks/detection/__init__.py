"""Detectors: anchors, pyramids and heads on any image backbone, and whole ones."""
