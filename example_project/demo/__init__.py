"""The example project: one small app for each demo."""
