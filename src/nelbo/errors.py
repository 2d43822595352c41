"""The one exception that stands for a user's mistake or for damaged input."""


class NelboError(ValueError):
    """An error with a cure: its one-line message says what was given, what was expected and what to do.

    The command line prints the message alone and exits with status 1; any other exception is a defect of ours.
    """


class CorruptArchiveError(NelboError):
    """The bytes are not those that were written: fetch the file again, or recover the chains that are whole."""


class UnsupportedArchiveError(NelboError):
    """The file is whole, but a newer nelbo wrote it: upgrade."""


class WrongModelError(NelboError):
    """The file is whole, but another model wrote it: name that model."""


class StackEmptyError(NelboError):
    """A pop needs more words than the stack holds; the message is as it was before.

    An encoder seeds its chain with more words; for a decoder the chain is damaged.
    """


def one_line(error: Exception, longest: int = 1000) -> str:
    """Returns another library's message, or the kind of error where it has none, on one line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:longest]
