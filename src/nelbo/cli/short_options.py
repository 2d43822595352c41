"""Options as users of xz and zstd type them: ``nelbo -dkT0 a.nelbo``, ``nelbo -9 photos/``."""

from collections.abc import Sequence

from nelbo.errors import NelboError

ARCHIVE_VERBS = ("compress", "decompress", "list", "test", "recover")
_VERBS = {"z": "compress", "d": "decompress", "l": "list", "t": "test"}
_FLAGS = {"c": ["--out", "-"], "k": ["--keep"], "f": ["--force"], "v": ["--verbose"], "q": ["--quiet"]}
_VALUES = {"o": "--out", "T": "--workers"}
_NUMBERED = ("--lanes", "--chain", "--workers", "--level", "--steps")  # What follows these is no option.


def expanded(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments of a command about archives with its short options as long ones, others as they are.

    Without a verb, ``-d``, ``-t`` and ``-l`` say what to do, and without these it is to compress.

    Raises:
        NelboError: If an option that needs a value has none.
    """
    if not arguments or arguments[0] == "-h" or arguments[0].startswith("--"):
        return list(arguments)
    is_bare = arguments[0].startswith("-")
    if not is_bare and arguments[0] not in ARCHIVE_VERBS:
        return list(arguments)
    verb, rest = ("compress", list(arguments)) if is_bare else (arguments[0], list(arguments[1:]))
    words: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "--":
            words += ["--", *rest]
            break
        if words and words[-1] in _NUMBERED:
            words.append(word)
            continue
        if word in ("-", "-h") or not word.startswith("-") or word.startswith("--"):
            words.append(word)
            continue
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter in _VERBS and is_bare:
                verb = _VERBS[letter]
            elif letter in _FLAGS:
                words += _FLAGS[letter]
            elif letter in _VALUES:
                if not letters and not rest:
                    raise NelboError(f"-{letter} needs a value behind it")
                words += [_VALUES[letter], letters or rest.pop(0)]
                letters = ""
            elif letter in "123456789":
                words += ["--level", letter]
            else:
                words.append(f"-{letter}")
    return [verb, *words]
