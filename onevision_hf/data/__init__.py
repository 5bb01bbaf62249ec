"""Media and samples: items, sources, shards, captions, conversations, caches. Knows no trainer."""
