"""How a frame is laid onto the patch grid, and how maps on the stream's own grid are carried over to it."""

from dataclasses import dataclass

import numpy as np


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
        block)."""
        unit, scale = patch_size * merge_size, size / min(height, width)
        rows, columns = (max(1, round(side * scale / unit)) * merge_size for side in (height, width))
        return cls(height, width, rows * patch_size, columns * patch_size, 0, 0, patch_size, rows, columns)

    @classmethod
    def crop(
        cls, height: int, width: int, size: int, crop_height: int, crop_width: int, patch_size: int
    ) -> "FrameGeometry":
        """Shorter side to `size`, then the middle crop_height x crop_width (padded where it is smaller)."""
        for side in (crop_height, crop_width):
            if side % patch_size:
                raise ValueError(
                    f"crop_size {crop_height} x {crop_width} is no multiple of the patch size {patch_size}"
                )
        scale = size / min(height, width)
        resized_height, resized_width = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = (crop_height - resized_height) // 2, (crop_width - resized_width) // 2
        grid = crop_height // patch_size, crop_width // patch_size
        return cls(height, width, resized_height, resized_width, top, left, patch_size, *grid)

    @classmethod
    def pad_square(cls, height: int, width: int, size: int, patch_size: int) -> "FrameGeometry":
        """Longer side to `size`, centred on a black square: the published pipeline's layout (its stage 1)."""
        if size % patch_size:
            raise ValueError(f"size {size} is no multiple of the patch size {patch_size}")
        scale = size / max(height, width)
        resized_height, resized_width = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = (size - resized_height) // 2, (size - resized_width) // 2
        return cls(
            height, width, resized_height, resized_width, top, left, patch_size, *(size // patch_size,) * 2
        )

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

    def pool(self, energy: np.ndarray, cell_height: float, cell_width: float) -> np.ndarray:
        """Mean of block maps over each patch: (..., rows, columns) -> (..., grid_height, grid_width) float32.

        `cell_height`, `cell_width` are a block's size in pixels of the displayed frame. What a patch covers
        of each block is weighed exactly; area outside the picture counts as zero.
        """
        scale_y = self.height / self.resized_height / cell_height
        scale_x = self.width / self.resized_width / cell_width
        edges_y = (np.arange(self.grid_height + 1) * self.patch_size - self.top) * scale_y
        edges_x = (np.arange(self.grid_width + 1) * self.patch_size - self.left) * scale_x
        # A block that sticks out of the picture counts with the part that is in.
        columns = _integrate(energy.astype(np.float64), np.clip(edges_x, 0, self.width / cell_width))
        both = _integrate(columns.swapaxes(-1, -2), np.clip(edges_y, 0, self.height / cell_height))
        area = (self.patch_size * scale_y) * (self.patch_size * scale_x)
        return np.maximum(both.swapaxes(-1, -2) / area, 0).astype(np.float32)


def _integrate(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Integral of step functions (steps of width 1) between the edges: (..., N), (E + 1,) -> (..., E)."""
    count = values.shape[-1]
    sums = np.zeros((*values.shape[:-1], count + 1))
    np.cumsum(values, axis=-1, out=sums[..., 1:])
    edges = np.clip(edges, 0, count)
    below = np.minimum(edges.astype(np.int64), count - 1)
    at_edges = sums[..., below] + (edges - below) * values[..., below]
    return np.diff(at_edges, axis=-1)
