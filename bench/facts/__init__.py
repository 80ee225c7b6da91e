"""What can be known of a Triton kernel without a GPU: compiled, executed on the CPU, bounded. Never a speed."""
