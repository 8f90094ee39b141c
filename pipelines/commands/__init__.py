"""The commands of `thawline`, and what they share."""
