"""The terminal: help, progress, the config file, checks of what is typed."""
