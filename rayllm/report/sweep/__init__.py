"""The page of a sweep: ``records`` is what it is made of; ``axes``, ``figures`` and ``tables`` what it shows."""
