"""Tables in plain text: what commands list."""

from collections.abc import Collection, Sequence


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> list[str]:
    """Lines of a table with a head, columns two spaces apart; none where there are no rows.

    Args:
        columns: Their names.
        rows: As many texts each.
        right: Names of columns that stand to the right, as numbers do.
    """
    if not rows:
        return []
    lines = [columns, *rows]
    widths = [max(len(row[i]) for row in lines) for i in range(len(columns))]
    aligned = [
        [text.rjust(width) if name in right else text.ljust(width) for text, width, name in zip(*cells, strict=True)]
        for cells in ((row, widths, columns) for row in lines)
    ]
    return ["  ".join(cells).rstrip() for cells in aligned]
