"""The load generator: a process of its own that speaks HTTP over bare asyncio protocols on uvloop."""
