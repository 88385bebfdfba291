"""The server: uvicorn with workers and a faster WebSocket protocol. Start with ``config.py``."""
