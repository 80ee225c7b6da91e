"""The paper's comparison of clustering systems on one data set: `intraformer-fast bench systems`."""
