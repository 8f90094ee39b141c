"""From a source to examples with splits and lineage."""
