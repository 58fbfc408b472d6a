"""Orders: where to unmask next. A new heuristic is one function and one line in `HEURISTICS`."""
