"""What several rooms share: addressing of runs of tokens, masked rows, softmax, launches."""
