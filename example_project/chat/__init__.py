"""The chat demo: rooms, their last messages, and private ones."""
