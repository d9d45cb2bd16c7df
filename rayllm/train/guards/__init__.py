"""Guards of a run: what is checked while it trains, so that trouble is named early and nothing burns time unseen."""
