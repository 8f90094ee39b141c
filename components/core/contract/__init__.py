"""The contract of a task: its protocols, defaults, options and checks, and the values that flow through it."""
