"""The one exception for what a user can put right: it becomes a single sentence and exit code 2, never a traceback."""


class UserError(Exception):
    """Input, settings or a folder are wrong; the message says what, where and what to do."""
