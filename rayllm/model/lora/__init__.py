"""Low-rank adapters: small trained matrices beside the frozen ones of a model."""
