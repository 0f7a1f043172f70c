"""What a request asks for: its route and action, its owner and key, and its position in a log."""
