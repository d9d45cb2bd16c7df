"""The workers of a run as the driver sees them: how many, started, listened to, explained, started again."""
