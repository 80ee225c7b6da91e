"""Exceptions of the library. Bad arguments raise ValueError or TypeError; these two say more than those can."""


class DataError(ValueError):
    """A file or an array does not hold what it should. The message is one sentence: what was wrong, what was expected, what to do."""


class MissingDependencyError(ImportError):
    """An optional package is needed for this call and is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed: pip install 'intraformer-fast[{extra}]'"
        )
