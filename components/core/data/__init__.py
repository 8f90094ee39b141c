"""From records to examples with splits and lineage."""
