"""Phases of fine-tuning, in one process or several: checkpoints, deadlines, warm starts, and whether thawing pays."""
