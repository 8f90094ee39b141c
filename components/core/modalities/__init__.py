"""Code shared by tasks on one kind of record: checks, augmentation, near-duplicates."""
