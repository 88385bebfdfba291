"""The notifications demo: what is done in the admin, for those who may see it."""
