"""Where copies of logs are kept: in this process, or in Redis for all processes."""
