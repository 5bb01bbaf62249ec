"""How a frame is laid onto the patch grid, and how maps on the stream's own grid are carried over to it."""

import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


def check_positive(name: str, value: Any) -> None:
    """Raise ValueError for all but a positive integer."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value <= 0:
        raise ValueError(f"{name} must be a positive integer, not {value!r}")


def whole_grid(frames: int, rows: int, columns: int, merge_size: int = 1) -> np.ndarray:
    """Every position of a patch grid: (frames * rows * columns, 3) int64 [t, h, w], frame by frame.

    Args:
        frames: T.
        rows: patches of a frame from top to bottom.
        columns: patches from left to right.
        merge_size: m; the m * m patches of a merge block are adjacent, 1 is raster order.
    """
    m = merge_size
    blocks = np.indices((rows // m, columns // m, m, m)).reshape(4, -1).T
    frame = blocks[:, :2] * m + blocks[:, 2:]
    times = np.repeat(np.arange(frames), len(frame))
    return np.column_stack([times, np.tile(frame, (frames, 1))]).astype(np.int64)


@dataclass(frozen=True)
class FrameGeometry:
    """A frame of `height` x `width` pixels (as displayed) is resized to `resized_height` x `resized_width`
    and laid with its corner at (`top`, `left`) onto a canvas of grid_height x grid_width patches: positive
    offsets pad with black, negative ones crop. All in pixels but the grid, which is in patches.
    """

    height: int
    width: int
    resized_height: int
    resized_width: int
    top: int
    left: int
    patch_size: int
    grid_height: int
    grid_width: int

    @classmethod
    def fit(cls, height: int, width: int, size: int, patch_size: int, merge_size: int = 1) -> "FrameGeometry":
        """Shorter side to `size`, then both sides to the nearest multiple of the patch (or of the merge
        block).

        Args:
            height: of the displayed frame, in pixels.
            width: of the displayed frame, in pixels.
            size: wanted shorter side, in pixels.
            patch_size: side of a patch, in pixels.
            merge_size: patches along a side of a merge block.
        """
        unit, scale = patch_size * merge_size, size / min(height, width)
        rows, columns = (max(1, round(side * scale / unit)) * merge_size for side in (height, width))
        return cls(height, width, rows * patch_size, columns * patch_size, 0, 0, patch_size, rows, columns)

    @classmethod
    def crop(
        cls, height: int, width: int, size: int, crop_height: int, crop_width: int, patch_size: int
    ) -> "FrameGeometry":
        """Shorter side to `size`, then the middle crop_height x crop_width (padded where it is smaller).

        Args:
            height: of the displayed frame, in pixels.
            width: of the displayed frame, in pixels.
            size: wanted shorter side before the crop, in pixels.
            crop_height: of what is kept, in pixels.
            crop_width: of what is kept, in pixels.
            patch_size: side of a patch, in pixels.

        Raises:
            ValueError: the crop is no multiple of the patch.
        """
        for side in (crop_height, crop_width):
            if side % patch_size:
                raise ValueError(
                    f"crop_size {crop_height} x {crop_width} is no multiple of the patch size {patch_size}"
                )
        return cls._centred(height, width, size / min(height, width), (crop_height, crop_width), patch_size)

    @classmethod
    def pad_square(cls, height: int, width: int, size: int, patch_size: int) -> "FrameGeometry":
        """Longer side to `size`, centred on a black square: the published pipeline's layout (its stage 1).

        Args:
            height: of the displayed frame, in pixels.
            width: of the displayed frame, in pixels.
            size: side of the square, in pixels.
            patch_size: side of a patch, in pixels.

        Raises:
            ValueError: the size is no multiple of the patch.
        """
        if size % patch_size:
            raise ValueError(f"size {size} is no multiple of the patch size {patch_size}")
        return cls._centred(height, width, size / max(height, width), (size, size), patch_size)

    @classmethod
    def _centred(
        cls, height: int, width: int, scale: float, canvas: tuple[int, int], patch_size: int
    ) -> "FrameGeometry":
        resized_height, resized_width = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = (canvas[0] - resized_height) // 2, (canvas[1] - resized_width) // 2
        grid = canvas[0] // patch_size, canvas[1] // patch_size
        return cls(height, width, resized_height, resized_width, top, left, patch_size, *grid)

    @property
    def patches_per_frame(self) -> int:
        return self.grid_height * self.grid_width

    @property
    def canvas_height(self) -> int:
        return self.grid_height * self.patch_size

    @property
    def canvas_width(self) -> int:
        return self.grid_width * self.patch_size

    def check_merge(self, merge_size: int) -> None:
        """Raise ValueError where merge blocks of merge_size x merge_size patches do not fill the grid."""
        if self.grid_height % merge_size or self.grid_width % merge_size:
            raise ValueError(
                f"a grid of {self.grid_height} x {self.grid_width} patches has no whole number of merge "
                f"blocks of {merge_size} x {merge_size}: choose another size"
            )

    @property
    def inside(self) -> np.ndarray:
        """(grid_height, grid_width) bool: the patches that lie wholly on the picture, not on padding."""
        rows = np.arange(self.grid_height) * self.patch_size
        columns = np.arange(self.grid_width) * self.patch_size
        inside_rows = (rows >= self.top) & (rows + self.patch_size <= self.top + self.resized_height)
        inside_columns = (columns >= self.left) & (
            columns + self.patch_size <= self.left + self.resized_width
        )
        return inside_rows[:, None] & inside_columns

    def place(self, picture: np.ndarray) -> np.ndarray:
        """Lay a resized picture (resized_height, resized_width, ...) onto the canvas."""
        if (self.top, self.left) == (0, 0) and picture.shape[:2] == (self.canvas_height, self.canvas_width):
            return picture
        canvas = np.zeros((self.canvas_height, self.canvas_width, *picture.shape[2:]), picture.dtype)
        y, x = max(self.top, 0), max(self.left, 0)
        part = picture[
            y - self.top : self.canvas_height - self.top, x - self.left : self.canvas_width - self.left
        ]
        canvas[y : y + part.shape[0], x : x + part.shape[1]] = part
        return canvas

    def pool(
        self,
        energy: np.ndarray,
        block_height: float,
        block_width: float,
        offset: tuple[float, float] = (0.0, 0.0),
    ) -> np.ndarray:
        """Mean of block maps over each patch. What a patch covers of each block is weighed exactly; area
        outside the picture counts as zero.

        Args:
            energy: (..., rows, columns), one number a block.
            block_height: of a block, in pixels of the displayed frame.
            block_width: of a block, in pixels of the displayed frame.
            offset: by how many blocks the map begins above the picture, and to the left of it.

        Returns:
            (..., grid_height, grid_width) float32, >= 0.
        """
        above, before = offset
        scale_y = self.height / self.resized_height / block_height
        scale_x = self.width / self.resized_width / block_width
        edges_y = (np.arange(self.grid_height + 1) * self.patch_size - self.top) * scale_y
        edges_x = (np.arange(self.grid_width + 1) * self.patch_size - self.left) * scale_x
        # A block that sticks out of the picture counts with the part that is in.
        edges_x = np.clip(edges_x, 0, self.width / block_width) + before
        edges_y = np.clip(edges_y, 0, self.height / block_height) + above
        both = _integrate(_integrate(energy.astype(np.float64), edges_x).swapaxes(-1, -2), edges_y)
        area = (self.patch_size * scale_y) * (self.patch_size * scale_x)
        return np.maximum(both.swapaxes(-1, -2) / area, 0).astype(np.float32)


@dataclass(frozen=True)
class LayoutSettings:
    """How frames of any shape are laid onto a patch grid.

    Attributes:
        size: {"shortest_edge": s}, pixels of the shorter side, both sides then brought to the nearest
            multiple of the patch; or {"height": h, "width": w}. An integer stands for a shortest edge.
        crop_size: the middle that is kept with `do_center_crop`, {"height": h, "width": w}; an integer, or
            `size` if it is left out, stands for a square.
        do_resize: False takes frames as they are: multiples of the patch, then.
        do_center_crop: keep the middle only.
        patch_size: pixels of a patch's side.
        max_pixels: frames that are larger after `size` are made smaller, in their shape.
        min_pixels: frames that are smaller after `size` are made larger, in their shape.

    Raises:
        ValueError: one is out of range.
    """

    size: Mapping[str, int] = field(default_factory=lambda: {"shortest_edge": 224}, hash=False)
    crop_size: Mapping[str, int] | None = field(default=None, hash=False)
    do_resize: bool = True
    do_center_crop: bool = False
    patch_size: int = 14
    max_pixels: int | None = None
    min_pixels: int | None = None

    def __post_init__(self) -> None:
        check_positive("patch_size", self.patch_size)
        for name in ("max_pixels", "min_pixels"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels={self.min_pixels} is more than max_pixels={self.max_pixels}")
        object.__setattr__(self, "size", _as_size(self.size, "size"))
        if self.crop_size is not None:
            crop = _as_size(self.crop_size, "crop_size")
            if side := crop.get("shortest_edge"):
                crop = {"height": side, "width": side}
            object.__setattr__(self, "crop_size", crop)

    def geometry(
        self, height: int, width: int, *, merge_size: int = 1, pad_square: bool = False
    ) -> FrameGeometry:
        """How frames of one size are laid out.

        Args:
            height: of the frames as displayed, in pixels.
            width: likewise.
            merge_size: patches along the side of a merge block, of which the grid gets a whole number.
            pad_square: lay the picture into a black square of `size`, as preset "published" does.

        Raises:
            ValueError: a size that does not fit the patches, the merge blocks, or `max_pixels`.
        """
        unit = self.patch_size * merge_size
        geometry = self._lay(height, width, self.size, merge_size, pad_square)
        geometry.check_merge(merge_size)
        while self.min_pixels and geometry.canvas_height * geometry.canvas_width < self.min_pixels:
            geometry = self._step(geometry, unit, merge_size, pad_square)
        while self.max_pixels and geometry.canvas_height * geometry.canvas_width > self.max_pixels:
            geometry = self._step(geometry, -unit, merge_size, pad_square)
        return geometry

    def _step(self, found: FrameGeometry, unit: int, merge_size: int, pad_square: bool) -> FrameGeometry:
        """The next larger or smaller layout, by `unit` pixels of the shorter side."""
        shorter = min(found.canvas_height, found.canvas_width) + unit
        free = "shortest_edge" in self.size and self.do_resize and not self.do_center_crop
        if not free or shorter < abs(unit):
            name, what = ("max_pixels", "made smaller") if unit < 0 else ("min_pixels", "made larger")
            raise ValueError(
                f"{name}={getattr(self, name)} does not fit frames of {found.canvas_height} x "
                f"{found.canvas_width} pixels, which cannot be {what}: change it, or size"
            )
        geometry = self._lay(found.height, found.width, {"shortest_edge": shorter}, merge_size, pad_square)
        geometry.check_merge(merge_size)
        return geometry

    def _lay(
        self, height: int, width: int, size: Mapping[str, int], merge_size: int, pad_square: bool
    ) -> FrameGeometry:
        shorter, p = size.get("shortest_edge"), self.patch_size
        if pad_square:
            return FrameGeometry.pad_square(height, width, shorter or max(size["height"], size["width"]), p)
        if not self.do_resize:
            shorter, size = None, {"height": height, "width": width}
        if self.do_center_crop:
            crop = self.crop_size or self.size
            tall, wide = (crop.get(side) or crop["shortest_edge"] for side in ("height", "width"))
            return FrameGeometry.crop(height, width, shorter or min(size.values()), tall, wide, p)
        if shorter is not None:
            return FrameGeometry.fit(height, width, shorter, p, merge_size)
        exact = (size["height"], size["width"])
        if exact[0] % p or exact[1] % p:
            raise ValueError(
                f"frames of {exact[0]} x {exact[1]} pixels are no multiple of the patch size {p}"
            )
        return FrameGeometry(height, width, *exact, 0, 0, p, exact[0] // p, exact[1] // p)


def _as_size(size: Any, name: str) -> dict[str, int]:
    """{"shortest_edge": s} or {"height": h, "width": w}, with positive integers."""
    if isinstance(size, numbers.Integral):
        check_positive(name, size)
        size = {"shortest_edge": int(size)}
    try:
        sides = {key: value for key, value in dict(size).items() if value is not None}
    except (TypeError, ValueError):
        sides = {}
    if set(sides) not in ({"shortest_edge"}, {"height", "width"}):
        raise ValueError(f"{name} must be an integer, shortest_edge, or height and width, not {size!r}")
    for side, value in sides.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value <= 0:
            raise ValueError(f"{name}: {side} must be a positive integer, not {value!r}")
    return {side: int(sides[side]) for side in ("shortest_edge", "height", "width") if side in sides}


def _integrate(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Integral of step functions (steps of width 1) between the edges: (..., N), (E + 1,) -> (..., E)."""
    count = values.shape[-1]
    sums = np.zeros((*values.shape[:-1], count + 1))
    np.cumsum(values, axis=-1, out=sums[..., 1:])
    edges = np.clip(edges, 0, count)
    below = np.minimum(edges.astype(np.int64), count - 1)
    at_edges = sums[..., below] + (edges - below) * values[..., below]
    return np.diff(at_edges, axis=-1)
