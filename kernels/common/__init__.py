"""What several rooms share: addressing of runs of tokens, masked rows, softmax, launches, sums of what a sample got at its places."""
