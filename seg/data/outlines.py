"""Polygons that cover a mask exactly: outlines along the edges of pixels, in parts without holes.

pycocotools rasterises a polygon at five times the size and looks where its outline crosses the middle of each column.
On pixel edges that is never a matter of rounding, so the mask comes back pixel for pixel; from an outline through
pixel centres, as contour finders give it, it does not.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from seg.data.segmentation import MAX_OUTLINE


def outlines(mask: np.ndarray) -> list[list[int]]:
    """Outlines whose union is the mask.

    A part is one 4-connected region. COCO's polygons have no holes, so a region with a hole is cut down a column
    through the hole; one whose outline is longer than the reader allows is cut in the middle.

    Args:
        mask: shape (height, width); what is not 0 is foreground.

    Returns:
        Parts x1, y1, x2, y2, … in whole pixels, 0 to width and 0 to height; each begins with its topmost (then
        leftmost) corner, and the parts are in the order of these, row by row.
    """
    parts = []
    pieces = [(0, 0, mask != 0)]
    while pieces:
        top, left, piece = pieces.pop()
        for y, x, region in _regions(piece):
            origin = (left + x, top + y)
            outer, *holes = _loops(region)
            if holes:
                cut = min((_middle(hole) for hole in holes), key=lambda column: abs(2 * column - region.shape[1]))
            elif np.abs(np.diff(outer, axis=0, append=outer[:1])).sum() > MAX_OUTLINE:
                cut = region.shape[1] // 2
            else:
                parts.append([int(number) for number in (outer + origin).ravel()])
                continue
            pieces += [(origin[1], origin[0], region[:, :cut]), (origin[1], origin[0] + cut, region[:, cut:])]
    return sorted(parts, key=lambda part: (part[1], part[0]))


def _regions(mask: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """The 4-connected regions: top, left and the region in its box."""
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    for label, (left, top, width, height, _) in enumerate(boxes.tolist()):
        if label:  # 0 is the background
            yield top, left, labels[top : top + height, left : left + width] == label


def _loops(region: np.ndarray) -> list[np.ndarray]:
    """The closed outlines of one region, the outer one first, each as corners (x, y), shape (corners, 2)."""
    x, y, south = _corners(region)
    # Edges of one row do not overlap: its corners in order are their ends, two by two. So it is with columns.
    by_column = np.lexsort((south, y, x)).reshape(-1, 2)
    along_column = np.empty(len(y), int)
    along_column[by_column] = by_column[:, ::-1]
    following = along_column.tolist()
    seen = [False] * len(following)
    loops = []
    for start in range(0, len(following), 2):
        corner, loop = start, []
        while not seen[corner]:
            along_row = corner ^ 1
            seen[corner] = seen[along_row] = True
            loop += [corner, along_row]
            corner = following[along_row]
        if loop:
            loops.append(np.stack([x[loop], y[loop]], axis=1))
    return loops


def _corners(region: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where outlines turn: x, y, and whether the vertical edge goes south from there; row by row, west to east.

    Where two pixels touch at a corner only, there are two, each turning towards its own pixel.
    """
    padded = np.pad(region, 1)
    # The four pixels around each point of their grid, which has one row and one column more than the region.
    north_west, north_east = padded[:-1, :-1], padded[:-1, 1:]
    south_west, south_east = padded[1:, :-1], padded[1:, 1:]
    single = north_west ^ north_east ^ south_west ^ south_east
    double = (north_west == south_east) & (north_east == south_west) & (north_west != north_east)
    twice = np.argwhere(double)
    y, x = np.concatenate([np.argwhere(single), twice, twice]).T
    # A corner joins an edge to the west or east with one to the north or south; of a double one, the western first.
    east = np.concatenate([(north_east != south_east)[single], np.zeros(len(twice), bool), np.ones(len(twice), bool)])
    south = np.concatenate([(south_west != south_east)[single], north_east[double], north_west[double]])
    order = np.lexsort((east, x, y))
    return x[order], y[order], south[order]


def _middle(loop: np.ndarray) -> int:
    """A column that cuts through the pixels within a loop."""
    return int(loop[:, 0].min() + loop[:, 0].max()) // 2
