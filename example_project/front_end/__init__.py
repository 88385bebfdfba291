"""A front end on its own, as another team would run it: static files, and no Django."""
