"""`Session`: what one person looks at, changed by one event at a time."""

from collections.abc import Callable
from threading import Lock
from typing import Any, Self

from experiments.web_page.look import Look
from seg.errors import UserError


class Session:
    """One person's look.

    Events overlap: a slider is still moving when a mask arrives. Each changes the look that is there when its turn
    comes, never an older one, and what it shows is made in its turn.
    """

    def __init__(self) -> None:
        self._look: Look | None = None
        self._lock = Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Gradio copies the first state for each person: everybody starts with nothing."""
        return type(self)()

    @property
    def look(self) -> Look:
        """What is looked at now.

        Raises:
            UserError: if nothing is.
        """
        if self._look is None:
            raise UserError("there must be an image first; drop one, or pick an example.")
        return self._look

    @property
    def is_empty(self) -> bool:
        """Whether nothing is looked at."""
        return self._look is None

    def change(self, change: Callable[[Look], Look], show: Callable[[Look], str]) -> str:
        """Changes the look and shows it.

        Args:
            change: makes the new look of the present one.
            show: makes what is shown of the new one.

        Raises:
            UserError: if nothing is looked at, or `change` refuses.
        """
        with self._lock:
            self._look = change(self.look)
            return show(self._look)

    def begin(self, look: Look, show: Callable[[Look], str]) -> str:
        """Looks at something else; a truth stays with its image."""
        with self._lock:
            if self._look is not None and self._look.content == look.content:
                look = look.with_same_truth(self._look)
            self._look = look
            return show(look)
