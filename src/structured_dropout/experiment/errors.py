"""What stops a run on purpose; run.py prints these as one line, everything else as a traceback."""


class UsageError(Exception):
    """The configuration or the data cannot be used: says what is wrong, where, and what to do."""


class Damaged(UsageError):
    """A file of the run is not what was written."""


class TrainingDiverged(Exception):
    """The loss is no longer a sensible number."""


class StorageFailed(Exception):
    """A file of the run cannot be written; the one before is intact."""


class Interrupted(Exception):
    """Ctrl-C or a scheduler's SIGTERM; a checkpoint was written."""
