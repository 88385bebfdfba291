"""Speed and memory beside a bare ASGI application and Channels: `python -m benchmarks`."""
