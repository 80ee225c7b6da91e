"""Where the time and the memory of clustering a set of one's own go, measured on a part of it."""

from intraformer_fast.profiling.report import Profile
from intraformer_fast.profiling.run import profile
from intraformer_fast.profiling.subject import Subject, load_subject

__all__ = ["Profile", "Subject", "load_subject", "profile"]
