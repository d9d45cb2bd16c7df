"""All artifacts of a run to one page: what was trained, on what, and what came of it."""
