"""The machine and this process on it: CPUs, threads, user, revision, time."""
