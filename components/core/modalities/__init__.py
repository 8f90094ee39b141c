"""What tasks on one kind of record share: checks, augmentation, near-duplicates."""
