"""The backends that ship with django_ws."""
