"""The server of ``manage.py runserver``. Start with ``server.py``."""
