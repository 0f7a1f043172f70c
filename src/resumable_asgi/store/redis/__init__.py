"""Copies of logs in Redis: written by one process, followed by others."""
