"""The parent of the workers, and the workers. Start with ``supervisor.py``."""
