"""One stream in this process: a run appends to a log, and followers read it. Knows nothing of Redis."""
