"""Running it: uvicorn's configuration, workers, the fast protocol."""
