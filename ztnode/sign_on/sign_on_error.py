"""What goes wrong with a log-in."""


class SignOnError(Exception):
    """A log-in that cannot go on; the text is one line for the person who tries."""
