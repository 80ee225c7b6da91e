"""The evidence of one machine on one page: `intraformer-fast bench --all`."""
