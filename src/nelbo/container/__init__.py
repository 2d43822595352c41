"""The bytes of an archive: its records, their framing and checksums, and the names that it holds."""
