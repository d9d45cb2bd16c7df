"""Conversations as tokens: templates, and which tokens of a rendered conversation are to be learnt."""
