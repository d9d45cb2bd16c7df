"""Models of other systems: names, splits, verified round trips."""
