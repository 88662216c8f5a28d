"""The two errors that users see as one line; anything else is a bug and keeps its traceback."""


class ToolkitError(Exception):
    """Something in the world is wrong: a file, a disk, a checkpoint, a loss.

    The message is the one line the user reads: what is wrong, with which file or value, what to do.
    """

    exit_code = 1


class UsageError(ToolkitError):
    """The command line is wrong: a flag, a value out of range, a path that does not exist."""

    exit_code = 2
