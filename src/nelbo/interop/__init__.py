"""Models of other programs, turned into ours."""
