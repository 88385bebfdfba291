"""Numbers with their nouns, for log lines: "1 broadcast", "2 broadcasts"."""


def counted(number: int, one: str, many: str) -> str:
    """``counted(1, "broadcast was lost", "broadcasts were lost")``: "1 broadcast was lost"."""
    return f"{number} {one if number == 1 else many}"
