"""The same work on many machines: Ray Data, Ray Train with DeepSpeed, void search over shards."""
