"""From tables of URLs to shard sets, and from shard sets to batches."""
