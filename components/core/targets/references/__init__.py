"""Models without fine-tuning, which a network has to beat."""
