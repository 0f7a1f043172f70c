"""What becomes of the figures: `results.md` and its charts."""
