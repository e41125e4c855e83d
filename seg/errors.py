"""The one error that a person caused and can repair."""


class UserError(Exception):
    """A mistake in what a person gave: a file, a folder, an option.

    The message states the invariant with the values, then the remedy, on one line. Entry points print it on
    stderr without a traceback and exit with code 2.
    """
