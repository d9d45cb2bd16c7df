"""Samplers: what proposes the settings of trials."""
