"""The counter demo: one value in all tabs of a user, kept on the server."""
