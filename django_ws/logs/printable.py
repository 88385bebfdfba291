"""Makes text from a client safe for one line of the log."""


def printable(text: str) -> str:
    """The text with line ends and other control characters escaped, cut to 200 characters.

    A path may hold any character, percent-encoded: unescaped, a client could forge log lines.
    """
    cut = text if len(text) <= 200 else f"{text[:200]}..."
    return cut if cut.isprintable() else cut.encode("unicode_escape").decode("ascii")
