"""One file a benchmark; each registers itself."""
