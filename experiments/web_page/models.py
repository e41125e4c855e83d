"""`Models`: the versions of one registered model, each loaded when it is first asked for."""

import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from experiments.registry.models import fetch_version
from experiments.registry.registry import CHAMPION, ModelInfo, Registry
from seg.errors import UserError
from seg.inference import Predictor

_KEPT = 3  # models in memory


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A version that is ready to predict.

    Attributes:
        info: what the registry knows of it.
        aliases: names that point to it.
        predictor: the model.
    """

    info: ModelInfo
    aliases: tuple[str, ...]
    predictor: Predictor

    @property
    def title(self) -> str:
        """The version with its aliases, for people."""
        return " · ".join((f"version {self.info.version}", *self.aliases))


class Models:
    """The versions of a registered model.

    Args:
        registry: that has them.
        name: of the registered model.
    """

    def __init__(self, registry: Registry, name: str) -> None:
        self._registry = registry
        self.name = name
        self._loaded: OrderedDict[str, Predictor] = OrderedDict()
        self._lock = Lock()

    def choices(self) -> list[tuple[str, str]]:
        """What can be chosen, as text for people and reference: aliases first, the champion before all, newest next.

        Raises:
            UserError: if there is no version.
        """
        aliases = self._registry.aliases(self.name)
        versions = self._registry.versions(self.name)
        if not versions:
            raise UserError(f"model_name must have a version in the registry, got '{self.name}'; run main first.")
        names = sorted(aliases, key=lambda alias: (alias != CHAMPION, alias))
        return [(f"{alias} (version {aliases[alias]})", f"@{alias}") for alias in names] + [
            (f"version {version}", f"/{version}") for version in versions
        ]

    def find(self, reference: str) -> ModelInfo:
        """What the registry knows of a version.

        Raises:
            UserError: if there is none, or it finds several classes, which the page does not show.
        """
        info = self._registry.find(f"models:/{self.name}{reference}")
        self._refuse_several(info, info.classes.split(","))
        return info

    def load(self, reference: str) -> LoadedModel:
        """A version, `@ALIAS` or `/NUMBER`; the last few stay in memory.

        Raises:
            UserError: as `find`.
        """
        info = self.find(reference)
        aliases = self._registry.aliases(self.name)
        named = tuple(sorted(alias for alias, version in aliases.items() if version == info.version))
        return LoadedModel(info=info, aliases=named, predictor=self._predictor(info))

    def example(self, reference: str) -> bytes | None:
        """The encoded image that travels with a version; None where none does."""
        return self._registry.example(self.find(reference))

    def _refuse_several(self, info: ModelInfo, classes: Sequence[str]) -> None:
        if len(classes) > 1:
            raise UserError(
                f"the page shows models of one class, and version {info.version} of {self.name} finds "
                f"{', '.join(classes)}; use predict or serve."
            )

    def _predictor(self, info: ModelInfo) -> Predictor:
        with self._lock:  # two people who ask at once wait for one loading
            if info.version not in self._loaded:
                with tempfile.TemporaryDirectory() as folder:
                    file = fetch_version(info, self._registry, Path(folder)).file
                    predictor = Predictor.load(file)
                self._refuse_several(info, predictor.classes)  # a version without the tag
                self._loaded[info.version] = predictor
                while len(self._loaded) > _KEPT:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(info.version)
            return self._loaded[info.version]
