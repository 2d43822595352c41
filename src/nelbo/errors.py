"""The one exception that stands for a user's mistake or for damaged input."""


class NelboError(ValueError):
    """An error with a cure: its one-line message says what was given, what was expected and what to do.

    The command line prints the message alone and exits with status 1; any other exception is a defect of ours.
    """
