"""The ways in which an archive can fail to decode, each with its own cure."""

from nelbo.errors import NelboError


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
