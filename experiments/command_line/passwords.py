"""Passwords of URLs: kept out of texts, of command lines, and of the processes that need none."""

import re
from collections.abc import Mapping, MutableMapping, Sequence
from urllib.parse import unquote, urlsplit, urlunsplit

from seg.errors import UserError

_SHOWN = "***"
_LOGIN = re.compile(r"""(?<=://)([^\s:/@'"]*):[^\s'"]+@""")  # up to the last @: a password may have one unescaped
_QUERY = re.compile(r"""([?&;\s]\w*(?:password|passwd|token|secret)=)[^&\s'"]+""", re.IGNORECASE)
_SECRETS = re.compile(r"MLFLOW_TRACKING_(URI|USERNAME|PASSWORD|TOKEN)|PGPASSWORD")
_WEB_LOGIN = re.compile(r"(?<=://)[^\s/@]+@")


def hide(text: str) -> str:
    """A text with the passwords of all the URLs in it as `***`."""
    return _QUERY.sub(rf"\1{_SHOWN}", _LOGIN.sub(rf"\1:{_SHOWN}@", text))


def without_login(text: str) -> str:
    """A text with all the URLs in it without user and password: a token may stand in the place of either."""
    return _WEB_LOGIN.sub("", hide(text))


def find_exposed(arguments: Sequence[str]) -> str | None:
    """The name of the first option whose value is a URL with a password; None if there is none.

    Args:
        arguments: of a command line, which other users of the machine see and shells and `mlflow run` keep.
    """
    option = "an argument"
    for argument in arguments:
        if argument.startswith("-"):
            option = argument.partition("=")[0].lstrip("-")
        # Spaces and quotes, at which a text's URL ends, may be in an argument's.
        if re.search(r"://[^:/@]*:.+@", argument, re.DOTALL) or hide(argument) != argument:
            return option
    return None


def separate_login(environment: MutableMapping[str, str]) -> None:
    """Moves user and password of a server's address in MLFLOW_TRACKING_URI to the variables that MLFLOW has for them.

    MLflow repeats the address in what it raises and logs.

    Raises:
        UserError: if the address is none.
    """
    try:
        parts = urlsplit(environment.get("MLFLOW_TRACKING_URI", ""))
    except ValueError as error:  # it may hold a password: it is not shown
        raise UserError(f"MLFLOW_TRACKING_URI must be a URL, got one with an {error}; correct it.") from None
    if parts.scheme in ("http", "https") and parts.password is not None:
        environment["MLFLOW_TRACKING_URI"] = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        environment["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username or "")
        environment["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process that talks to neither MLflow nor a database."""
    return {name: value for name, value in environment.items() if not _SECRETS.fullmatch(name)}
