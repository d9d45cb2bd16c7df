"""Conversations: the layouts in which they are published, and one form for all of them.

In: a row as a data set has it. Out: turns, each a role and a text; a document whose text a person can read, and whose
metadata holds the turns for ``pack`` to render.
"""
