"""From a source to examples with splits, and what the lineage remembers."""
