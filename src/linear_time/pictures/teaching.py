"""For who teaches from the book: which chapter builds on which."""

from linear_time.drawing import Drawing
from linear_time.pictures.home import PAGES

#: What each chapter's own line "Builds on" names.
BUILDS_ON: dict[str, tuple[str, ...]] = {
    "00": (),
    "01": ("00",),
    "02": ("01",),
    "03": ("02",),
    "04": ("01", "02", "03"),
    "05": ("00",),
    "06": ("05",),
    "07": ("02", "05", "06"),
    "08": ("02", "05"),
    "09": ("05", "08"),
    "10": ("03", "04", "08"),
    "11": ("00",),
    "12": ("11",),
    "13": ("00", "12"),
    "14": ("12",),
    "15": ("13", "14"),
    "16": ("12", "13"),
    "17": ("02", "13", "16"),
    "18": ("03", "12", "16", "17"),
    "19": ("16", "18"),
    "20": ("02", "17", "18"),
    "21": ("02", "12", "16", "20"),
    "22": ("16", "18", "21"),
    "23": ("02", "17", "20", "21"),
}
#: Where a chapter's box stands, and the corners of a line that goes around.
PLACES = {
    "00": (190, 22),
    "01": (60, 84),
    "02": (60, 146),
    "03": (60, 208),
    "04": (60, 270),
    "05": (176, 84),
    "06": (226, 146),
    "07": (226, 208),
    "08": (140, 208),
    "09": (176, 270),
    "10": (120, 332),
    "11": (316, 84),
    "12": (316, 146),
    "13": (288, 208),
    "14": (346, 208),
    "15": (346, 270),
    "16": (288, 270),
    "17": (288, 332),
    "18": (288, 394),
    "19": (288, 456),
    "20": (346, 456),
    "21": (346, 518),
    "22": (346, 580),
    "23": (288, 580),
}
AROUND = {
    ("02", "17"): ((24, 146), (24, 364), (240, 364), (240, 332)),
    ("03", "18"): ((36, 208), (36, 394)),
}


def needed(number: str) -> set[str]:
    """All that a chapter builds on, directly or through another."""
    return set(BUILDS_ON[number]).union(*map(needed, BUILDS_ON[number]))


def drawn(number: str) -> list[str]:
    """What it builds on and is not already needed by something else there."""
    others = BUILDS_ON[number]
    return [a for a in others if not any(a in needed(b) for b in others)]


def dependencies_drawing() -> Drawing:
    """Which chapter builds on which."""
    d = Drawing(
        "Which chapter builds on which",
        "A box for every chapter, a link to it; an arrow leads from a chapter "
        "to one that builds on it. From 00 three strands lead down: 01 to 04, "
        "05 to 07, and 11 to 23; 08 to 10 join the first two.",
        height=602,
    )
    for number in BUILDS_ON:
        x, y = PLACES[number]
        for other in drawn(number):
            left, top = PLACES[other]
            if corners := AROUND.get((other, number)):
                end = (x - 17, y)
                d.arrow((left - 17, top), *corners, end, kind="quiet")
            else:
                lean = 10 * (x > left) - 10 * (x < left)
                d.arrow((left + lean, top + 14), (x - lean, y - 15))
    for number, (x, y) in PLACES.items():
        href = f"../chapters/{number}-{PAGES[number]}.html"
        d.box(x, y, 32, number, h=28, size=13, href=href)
    return d
