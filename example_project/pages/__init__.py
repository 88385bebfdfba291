"""What all demos share: the frame of a page, the index, the log-in, the browser's connection."""
