"""Self-attention inside runs of tokens; see README.md beside this."""
