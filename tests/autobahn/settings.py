"""Of a server that echoes the largest messages of the suite."""

SECRET_KEY = "a secret of no worth"
WS_MAX_MESSAGE_SIZE = 20 * 2**20
