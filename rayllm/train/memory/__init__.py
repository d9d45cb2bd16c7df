"""How much memory a rank needs, by term, before anything is built; and what to change where that is too much."""
