"""The one error a person's data or settings can cause."""


class SiteError(ValueError):
    """One sentence for a person: where, what was expected, what was found, what to do."""
