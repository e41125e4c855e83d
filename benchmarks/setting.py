"""`Setting`: what all parts of one benchmark share."""

from dataclasses import dataclass
from pathlib import Path

from seg.data.convert import convert


@dataclass(frozen=True)
class Setting:
    """What to measure with, and how thoroughly.

    Attributes:
        mode: `short` for under five minutes, `full`, or `tiny` for the tests, where no number means anything.
        export: folder of a COCO export.
        workspace: absolute folder for converted datasets and what contenders leave.
        threads: cores that each contender may use.
        rounds: of each case, unless a case is of whole studies.
        clock: `wall`, or `processor`: what contenders take for the time.
    """

    mode: str
    export: Path
    workspace: Path
    threads: int
    rounds: int = 5
    clock: str = "wall"

    @property
    def full(self) -> bool:
        return self.mode == "full"

    @property
    def short(self) -> bool:
        return self.mode == "short"

    @property
    def tiny(self) -> bool:
        return self.mode == "tiny"

    def dataset(self, image_size: int) -> str:
        """Folder of the export as a converted dataset."""
        return str(convert(self.export, self.workspace, image_size=image_size, on_bad="skip", progress=False).folder)
