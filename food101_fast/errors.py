"""Errors that a user can put right: each becomes a single sentence and exit code 2, never a traceback. And warnings."""


class UserError(Exception):
    """Input, settings or a folder are wrong; the message says what, where and what to do."""


class DamagedDataError(UserError):
    """Bytes of a data set are not those that were written; the message names the file, and the sample if it is one."""


class Notice(UserWarning):
    """A warning in one sentence: work goes on, but in another way than usual. Commands print it on stderr, once."""
