"""The two ways a command may fail, each with its exit status.

Every message is one line that says what is wrong, where, and what to do next.
"""


class InputError(Exception):
    """Bad input, usage or environment; a command that meets it exits with status 2."""

    exit_status = 2


class WorkError(Exception):
    """A failure during the work (full disk, non-finite loss); exit status 1."""

    exit_status = 1
