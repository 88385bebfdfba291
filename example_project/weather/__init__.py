"""The weather demo: the server pushes a forecast that keeps changing."""
