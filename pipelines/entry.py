"""The entry point of the command `thawline`: Ctrl-C ends it without a traceback while its libraries still load."""

INTERRUPTED = 130  # the shell's status of a command that Ctrl-C has ended


def main() -> None:
    """Load the command, and run it."""
    try:
        from pipelines import cli
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    cli.main()


if __name__ == "__main__":
    main()
