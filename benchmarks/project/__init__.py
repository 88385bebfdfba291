"""The Django project that the handlers and consumers under measurement live in."""
