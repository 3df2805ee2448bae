"""The errors that a person's data or settings can cause."""


class SiteError(ValueError):
    """One sentence for a person: where, what was expected, what was found, what to do."""


class OneClassOnly(SiteError):  # noqa: N818 - says what happened
    """A train split of malignant or of benign images alone: there is nothing to tell apart."""
