r"""Bit-exact network execution: what a network says of a latent, to the last bit the same on every machine.

A decoder whose network differs from the encoder's in the last bit decodes garbage, and floating-point networks differ
between processors, batch sizes and numbers of threads. Here a network is *frozen* into integers with the tables of all
its functions; sums of integers that stay below :math:`2^{53}` (in float64), :math:`2^{31}` (in 32-bit integers) or
:math:`2^{24}` (in float32) are exact in any order.

===============  =====================================================================================
``translate``    a network as a program of operations; what has no translation is refused by name
``floating``     the program in floating point: the translation's oracle, and the ranges of its values
``quantise``     the program in integers, with the proof that every accumulator is exact
``portable``     the executor that is the specification, in plain PyTorch
``native``       the fast executor for CPUs
``convolution``  its convolutions, of 16-bit integers
``execution``    which executor runs: the fastest that gives the known answers
``level``        what a program needs of one gamma
``frozen``       the frozen model and its file
``freeze``       from a model to a frozen one, with its price in bits per dimension
===============  =====================================================================================
"""
