"""C-ATT: softmax((X_q W) X_c^T) X_c, the context being key and value; see README.md."""
