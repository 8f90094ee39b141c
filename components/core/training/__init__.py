"""Data, phases, loop, studies, checkpoints."""
