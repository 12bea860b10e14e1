"""Chapter 06: compression in several steps, and several views at once.

A pyramid halves the number of tokens again and again and keeps every level; a
top-down path carries what the coarse levels know back to the fine ones. An
Inception block looks at one input through several windows side by side; its
1×1 convolutions compress the channels as LCE compresses the tokens.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from linear_time import _validate
from linear_time.compression import Compressor, LinearCompression

# d_in, then the six widths of block 3a: 192 channels become 256.
INCEPTION_3A = (192, 64, 96, 128, 16, 32, 32)


class PyramidCompression(Compressor):
    """Several LCE steps, each level kept: n → n/2 → n/4.

    Bottom-up, X_0 = x and X_{l+1} = φ(W_l X_l). ``forward`` gives the
    coarsest level and ``levels`` all of them. With d the levels go through a
    top-down path first,

        P_top = X_top V_top,   P_l = X_l V_l + up(P_{l+1}),

    with V_l on the channels (the lateral 1×1 convolution, with its bias) and
    up the nearest neighbour: fine tokens learn what the coarse ones saw.

    Without φ the steps multiply to one matrix of rank ≤ the smallest size:
    the pyramid is then a factorised LCE, and only its levels are new.

    Args:
        sizes: numbers of tokens, the input's first: falling, all ≥ 1.
        d: width of the tokens, for the top-down path; None: no such path,
            and any width.
        activation: φ, a function of a tensor; None: the identity.

    Raises:
        TypeError, ValueError: fewer than two sizes, not falling, or a size
            is not a whole number ≥ 1.

    Source: Lin et al. (2017), "Feature Pyramid Networks for Object
        Detection", section 3, for the top-down path (its C_l is our X_l).
        There the bottom-up path is a convolutional network and a 3×3
        convolution follows each sum; here the levels are LCEs, and nothing
        follows.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        d: int | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        sizes = tuple(_validate.count("sizes", size) for size in sizes)
        pairs = list(itertools.pairwise(sizes))
        if not pairs or any(fine <= coarse for fine, coarse in pairs):
            raise ValueError(
                "sizes: expected at least two, each smaller than the one "
                f"before, got {_validate.shape_text(sizes)}"
            )
        super().__init__(sizes[-1], sizes[0], d)
        self.sizes = sizes
        self.activation = activation
        self.down = nn.ModuleList(LinearCompression(*pair) for pair in pairs)
        self.lateral = nn.ModuleList()
        if self.d_in is not None:
            self.lateral.extend(nn.Linear(self.d_in, self.d_in) for _ in sizes)

    def forward(
        self, x: Float[Tensor, "batch n_in d"]
    ) -> Float[Tensor, "batch n_out d"]:
        """The coarsest level, the last of ``levels``."""
        coarsest = self._bottom_up(x)[-1]
        return self.lateral[-1](coarsest) if self.lateral else coarsest

    def levels(
        self, x: Float[Tensor, "batch n_in d"]
    ) -> list[Float[Tensor, "batch _ d"]]:
        """Every level, (batch, sizes[l], d), from the finest on."""
        levels = self._bottom_up(x)
        if not self.lateral:
            return levels
        merged = [self.lateral[-1](levels[-1])]
        for level, lateral in zip(
            levels[-2::-1], list(self.lateral)[-2::-1], strict=True
        ):
            up = functional.interpolate(merged[0].mT, size=level.shape[1]).mT
            merged.insert(0, lateral(level) + up)
        return merged

    def _bottom_up(self, x: Tensor) -> list[Tensor]:
        self.check_input(x)
        levels = [x]
        with _validate.inner():
            for down in self.down:
                coarser = down(levels[-1])
                if self.activation is not None:
                    coarser = self.activation(coarser)
                levels.append(coarser)
        return levels


class InceptionBlock(nn.Module):
    """Four views of one image, side by side: 1×1, 3×3, 5×5 and a pool.

        y = [c1(x), c3(c1(x)), c5(c1(x)), c1(pool(x))]

    along the channels, where cK is a K×K convolution with bias and ReLU, and
    pool a 3×3 maximum; all keep height and width. The 1×1 in front of the
    3×3 and the 5×5 compresses the channels, which makes the large windows
    affordable. Block 3a, ``InceptionBlock(*INCEPTION_3A)``, has 163,328
    weights and 368 biases.

    Args:
        d_in: input channels.
        d_1: channels of the 1×1 view.
        d_3_in, d_3: channels that the 3×3 reads, after its 1×1, and writes.
        d_5_in, d_5: the same for the 5×5.
        d_pool: channels of the pool, after its 1×1.

    Raises:
        TypeError, ValueError: a width is not a whole number ≥ 1.

    Source: Szegedy et al. (2015), "Going Deeper with Convolutions", figure
        2b and table 1.
    """

    def __init__(
        self,
        d_in: int,
        d_1: int,
        d_3_in: int,
        d_3: int,
        d_5_in: int,
        d_5: int,
        d_pool: int,
    ) -> None:
        super().__init__()
        d_in = _validate.count("d_in", d_in)
        d_1 = _validate.count("d_1", d_1)
        d_3_in = _validate.count("d_3_in", d_3_in)
        d_3 = _validate.count("d_3", d_3)
        d_5_in = _validate.count("d_5_in", d_5_in)
        d_5 = _validate.count("d_5", d_5)
        d_pool = _validate.count("d_pool", d_pool)
        self.d_in, self.d_out = d_in, d_1 + d_3 + d_5 + d_pool
        self.branches = nn.ModuleList(
            [
                _convolution(d_in, d_1, 1),
                nn.Sequential(
                    _convolution(d_in, d_3_in, 1), _convolution(d_3_in, d_3, 3)
                ),
                nn.Sequential(
                    _convolution(d_in, d_5_in, 1), _convolution(d_5_in, d_5, 5)
                ),
                nn.Sequential(
                    nn.MaxPool2d(3, stride=1, padding=1),
                    _convolution(d_in, d_pool, 1),
                ),
            ]
        )

    def forward(
        self, x: Float[Tensor, "batch d_in height width"]
    ) -> Float[Tensor, "batch d_out height width"]:
        """All four views of each image.

        Raises:
            TypeError: x is not a floating-point tensor.
            ValueError: another shape, or a value that is not finite.
        """
        _validate.layout("x", x, "batch", self.d_in, "height", "width")
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _convolution(d_in: int, d_out: int, size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(d_in, d_out, size, padding=size // 2), nn.ReLU()
    )
