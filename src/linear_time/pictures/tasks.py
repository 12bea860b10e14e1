"""Chapter 19: three tasks as rows of tokens, and a long row read in pieces."""

from linear_time.drawing import Drawing

#: One sequence of each task: its tokens, the places that ask, what answers.
ROWS = (
    ("selective copying", "·3··7·2·|||", {8: 1, 9: 4, 10: 6}),
    ("induction heads", "41T62203T", {8: 3}),
    ("associative recall", "aPbQ·b·a", {5: 3, 7: 1}),
)


def tasks_drawing() -> Drawing:
    """The three tasks: who asks, and which token of the past is the answer."""
    d = Drawing(
        "Three tasks",
        "Three rows of tokens. In selective copying three data tokens stand "
        "among noise, and three markers at the end ask for them in order. In "
        "induction heads the trigger T comes twice, and the token after the "
        "first T is the answer at the second. In associative recall the pairs "
        "a P and b Q stand first, and later the keys b and a ask for Q and P.",
        height=372,
    )
    for i, (name, row, answers) in enumerate(ROWS):
        y, step = 84 + 122 * i, 32
        d.text(8, y - 58, name, 13, "start")
        for j, token in enumerate(row):
            asks, told = j in answers, j in answers.values()
            kind = "state" if asks else "input" if told else "plain"
            kind = "quiet" if token == "·" else kind
            d.sign(22 + step * j, y, token, r=12, kind=kind)
        for k, (place, source) in enumerate(answers.items()):
            x, old = 22 + step * place, 22 + step * source
            top = y - 24 - 7 * k
            d.arrow(
                (old, y - 13),
                (old, top),
                (x, top),
                (x, y - 13),
                kind="input",
            )
            d.text(x, y + 27, row[source], 13, kind="input")
    return d


def pieces_drawing() -> Drawing:
    """A sequence too long for one reading: pieces, and the state between."""
    d = Drawing(
        "Reading in pieces",
        "A long row of tokens is cut in pieces of length p. The model reads "
        "one after the other, and hands its state from each to the next: two "
        "blocks of 38 d numbers, however long the row is. Only the last piece "
        "gives the answer, one row of logits.",
        height=180,
    )
    for i, x in enumerate((56, 190, 324)):
        d.text(x, 14, f"piece {('1', '2', '…')[i]}", 12.5)
        d.arrow((x, 24), (x, 62), label="(batch, *p*)" if i == 0 else "")
        d.box(x, 84, 76, "model", 44, "weights")
        if i < 2:
            d.arrow((x + 39, 84), (x + 94, 84), kind="state")
    d.text(190, 122, "2 · 38 *d* numbers", 12.5, kind="state")
    d.arrow((324, 106), (324, 152))
    d.text(316, 146, "(batch, vocabulary)", 12, "end")
    d.text(324, 166, "answer", 12.5)
    return d
