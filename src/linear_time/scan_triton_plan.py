"""Chapter 16: how the programs of the selective scan share the work.

One warp has some channels of one row of the batch. A GPU keeps hundreds of
warps busy; where there are not so many, time is cut as well.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from linear_time.scan_triton_forward import chunk_ends

# Tiles. Where time is cut: warps for a scheduler of the GPU, steps a chunk.
FORWARD, BACKWARD = {"BD": 32, "T": 8}, {"BD": 16, "T": 4}
WARPS, SHORTEST = 2, 32


def padded(N: int) -> int:
    """BN: a power of two, and enough for tiles that lanes can share."""
    return max(1 << (N - 1).bit_length(), 16)


def array(x: Tensor | None) -> Any:
    """As the kernels take one: its pointer and three strides."""
    if x is None:
        return None
    return (x, *(0,) * (3 - x.ndim), *x.stride())


class Plan:
    """How a scan is shared out among programs, and its launches.

    Triton compiles for the types, strides and alignments of the arguments,
    and looks at all of them at every launch. That takes longer than a short
    scan: a plan does it once for all calls that agree in them.
    """

    plans: ClassVar[dict[Any, "Plan"]] = {}

    @classmethod
    def of(cls, BD: int, options: Any, u: Tensor, N: int, arrays: Any) -> Any:
        key: Any = BD, options, u.device, u.shape, N
        for x in arrays:
            if x is not None:
                x = x[0].dtype, x[0].data_ptr() % 16, x[1:]
            key += (x,)
        if key not in cls.plans:
            if len(cls.plans) > 2**12:  # lengths that never come again
                cls.plans.clear()
            cls.plans[key] = cls(BD, u, N)
        return cls.plans[key]

    def __init__(self, BD: int, u: Tensor, N: int) -> None:
        batch, d_inner, length = u.shape
        # Each scheduler of the GPU, four a multiprocessor, wants a warp. If
        # the channels are too few, time is cut and every step walked twice,
        # which pays where there are two warps for each.
        gpu = torch.cuda.get_device_properties(u.device)
        slots = 4 * gpu.multi_processor_count
        programs = batch * -(-d_inner // BD)
        chunks = 1
        if programs < 0.9 * slots:
            chunks = min(WARPS * slots // programs, length // SHORTEST)
        chunk = 16 * -(-length // (16 * max(chunks, 1)))
        self.chunks = -(-length // chunk)
        self.sizes = d_inner, length, chunk
        self.N, self.BN = N, padded(N)
        # The kernel of chunks has the tiles of the forward one.
        groups = batch * -(-d_inner // FORWARD["BD"])
        self.grids = (groups, self.chunks - 1, 1), (programs, self.chunks, 1)
        self.batch, self.device = batch, u.device
        self.runners: dict[Any, Any] = {}

    def new(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self.device)

    def left(self, d_stride: int, n_stride: int) -> Any:
        """Room for what chunks leave behind: their states, then their ΣΔ."""
        if self.chunks == 1:
            return None
        row = self.sizes[0] * (self.BN + 1)
        room = self.new(self.batch * self.chunks * row)
        return room, row, d_stride, n_stride

    def launch(self, kernel: Any, *args: Any, **constants: Any) -> None:
        run = self.runners.get(kernel)
        if run is not None:
            run(*args, self.sizes, self.N, self.BN, *constants.values())
            return
        grid = self.grids[kernel is not chunk_ends]
        compiled = kernel[grid](
            *args,
            sizes=self.sizes,
            N=self.N,
            BN=self.BN,
            num_warps=min(max(self.BN // constants["BD"], 1), 8),
            maxnreg=255,  # by itself the compiler saves them, and loses time
            **constants,
        )
        self.runners[kernel] = compiled[grid]
