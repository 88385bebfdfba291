"""The echo demo: what the page sends comes back."""
