"""Chapter 06: a pyramid with its way down, and four views side by side."""

import itertools

from linear_time.drawing import Drawing


def pyramid_drawing() -> Drawing:
    """Three levels, bottom-up on the left and top-down on the right."""
    d = Drawing(
        "A pyramid and its way down",
        "On the left 8 tokens become 4 and then 2, by steps W. On the right, "
        "from the top down, each of the levels adds to its own tokens, "
        "mapped by V, what its parent in the coarser level says.",
        height=262,
    )
    heights = (204, 124, 44)
    left: list[list[float]] = [[24.0 + 20 * i for i in range(8)]]
    for _ in range(2):
        below = left[-1]
        left.append(
            [(a + b) / 2 for a, b in zip(below[::2], below[1::2], strict=True)]
        )
    right = [[x + 192 for x in level] for level in left]
    for level, (low, high) in enumerate(itertools.pairwise(heights)):
        for i, x in enumerate(left[level]):
            above = left[level + 1][i // 2]
            d.line((x, low - 7), (above, high + 7), kind="weights")
        for i, x in enumerate(right[level]):
            above = right[level + 1][i // 2]
            d.line((x, low - 7), (above, high + 7), kind="state")
    for level, (y, n) in enumerate(zip(heights, (8, 4, 2), strict=True)):
        for x in left[level]:
            d.box(x, y, 12, h=14, kind="input")
        for x in right[level]:
            d.box(x, y, 12, h=14, kind="state")
        start, end = left[level][-1] + 10, right[level][0] - 10
        d.arrow((start, y), (end, y), kind="weights")
        middle = (start + end) / 2
        d.text(middle, y - 11, f"({n}, *d*)")
        d.text(middle, y + 11, f"*V*_{level}", kind="weights")
    for level, y in ((1, 124), (2, 44)):
        d.text(left[level][0] - 18, y, f"*X*_{level}")
        d.text(right[level][-1] + 19, y, f"*P*_{level}")
    d.text(94, 228, "*X*_0, the input")
    d.text(286, 228, "*P*_0")
    d.text(54, 164, "*W*_0", kind="weights")
    d.text(94, 84, "*W*_1", kind="weights")
    d.text(286, 84, "up", kind="state")
    d.text(246, 164, "up", kind="state")
    d.text(94, 250, "bottom-up: what is there")
    d.text(286, 250, "top-down: what it is part of")
    return d


def inception_drawing() -> Drawing:
    """Block 3a: four branches with their channels."""
    d = Drawing(
        "An Inception block",
        "192 channels go to four branches: a 1 by 1 convolution to 64; a 1 by "
        "1 to 96 and then a 3 by 3 to 128; a 1 by 1 to 16 and then a 5 by 5 "
        "to 32; a 3 by 3 maximum and then a 1 by 1 to 32. Side by side they "
        "are 256 channels.",
        height=318,
    )
    columns = (52, 144, 236, 328)
    d.text(190, 12, "*X*, (192, height, width)")
    d.arrow((190, 24), (190, 52))
    d.line((columns[0], 52), (columns[-1], 52))
    first = ("1 × 1", "1 × 1", "1 × 1", "max 3 × 3")
    second = ("", "3 × 3", "5 × 5", "1 × 1")
    between = ("64", "96", "16", "192")
    after = ("64", "128", "32", "32")
    for i, x in enumerate(columns):
        d.arrow((x, 52), (x, 92))
        pool = i == 3
        d.box(x, 108, 84, first[i], kind="quiet" if pool else "weights")
        if second[i]:
            d.arrow((x, 124), (x, 168), label=between[i])
            d.box(x, 184, 76, second[i], kind="weights" if pool else "plain")
            d.arrow((x, 200), (x, 248), label=after[i])
        else:
            d.arrow((x, 124), (x, 248), label=after[i], at=0.68)
    d.text(98, 74, "192")
    d.text(190, 74, "192")
    d.text(282, 74, "192")
    d.box(190, 264, 352, "side by side: 64 + 128 + 32 + 32")
    d.arrow((190, 280), (190, 302))
    d.text(198, 304, "*Y*, (256, height, width)", anchor="start")
    return d
