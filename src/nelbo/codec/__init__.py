"""The lossless codec: an archive is as long as the bound says, plus a small overhead that is proved or measured."""
