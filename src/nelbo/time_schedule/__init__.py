"""Time schedules: at which noise levels a chain of K steps should stop, found exactly for every K at once."""
