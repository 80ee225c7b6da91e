"""How the time and memory of a whole clustering grow with the number of samples: `intraformer-fast bench scale`."""
