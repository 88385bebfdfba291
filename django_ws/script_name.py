"""The path below which a proxy serves the site: FORCE_SCRIPT_NAME, ``--root-path``."""


def normal_script_name(text: str) -> str:
    """One slash at the beginning, none at the end; nothing for the root.

    Servers and Django put a path behind it, and take it off a path, as it is written.
    """
    name = text.strip("/")
    return f"/{name}" if name else ""
