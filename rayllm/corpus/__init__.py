"""Raw files to a corpus: one document's way from bytes at a URI to a row of a clean, deduplicated shard.

``sources`` lists the work, ``readers`` turns it into documents, ``clean`` and ``quality`` look at one document,
``dedup`` and ``split`` at all of them, ``card`` describes the result. ``ingest`` and ``shards`` hold the three passes;
``build`` runs them with any map function, so that the same code runs in a plain loop and on Ray.
"""
