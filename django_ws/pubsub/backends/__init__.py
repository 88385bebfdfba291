"""What carries broadcasts between processes. Start with ``base.py``."""
