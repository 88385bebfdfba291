"""Session engines as sites write them."""
