"""The machine: files, devices, threads, processes and randomness."""
