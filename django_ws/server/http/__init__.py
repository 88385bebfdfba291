"""uvicorn's HTTP protocols, with limits on what a client may do. Start with ``limited.py``."""
