"""The one error that a person caused and can repair, and how its message is made safe to print."""


class UserError(Exception):
    """A mistake in what a person gave: a file, a folder, an option.

    The message states the invariant with the values, then the remedy, on one line. Entry points print it on
    stderr without a traceback and exit with code 2.
    """


def one_line(text: str) -> str:
    """A text that may hold names from outside, for a terminal: what is not printable is escaped, such as `\\n`."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
