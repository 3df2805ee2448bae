"""Sentences of a site that its server may read: they hold nothing of the site's files."""


class Tellable(ValueError):  # noqa: N818 - says what it is
    """Why a site cannot answer, in a sentence that may leave it.

    A hospital's node sends the server these and no other: any other error may quote a row of its table, or
    the path of an image, and stays in its own log (``fedderm.hospital.gate``).
    """


class Refused(Tellable):
    """What the site will not do, because its policy or its role says so."""
