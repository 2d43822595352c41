r"""Networks in integers, which every machine computes alike: the same input gives the same bits, everywhere.

Networks in floating point differ between processors, batch sizes and numbers of threads, in the last bits of their
results. Where a result decides how a file is read, one bit is too many. Here a network becomes a *program* of
operations on integers, with its weights as integers and the tables of its functions beside it. Sums of integers that
stay below :math:`2^{53}` (in float64), :math:`2^{31}` (in 32-bit integers) or :math:`2^{24}` (in float32) are exact in
any order; that they stay below is proved from the weights when a network is quantised, and again when it is loaded.

1. ``translate`` turns a network into a program with float weights; what it does not know is refused by name.
2. :func:`~nelbo.integer.executors.run_float` runs the program in floating point, to measure the ranges of its values.
3. :func:`~nelbo.integer.quantise.quantised` chooses limits from these ranges, rounds the weights, and proves the sums.
4. :class:`~nelbo.integer.program.IntegerNetwork` checks a program and all its tensors, wherever they come from.
5. :class:`~nelbo.integer.execution.Execution` runs it by the fastest executor that gives the known answers here.

The family is the operation (:class:`~nelbo.integer.operations.operation.Operation`): one class brings its record in the
program, its quantisation, its proof, and what it computes in floating point, in plain PyTorch (the specification) and
in compiled loops. An entry in :data:`~nelbo.integer.program.OPERATIONS` registers it.

======================  ===============================================================================
``arithmetic``          the fixed-point formats, and integers in digits
``tables``              the sine, SiLU and the exponential as integers
``linear``              rows of integer weights and their bounds
``tensors``             the tensors of a network by name
``feature_map``         feature maps and their digits, as compiled loops read them
``operations``          one file an operation
``embedding``           the embedding of the one number on which norms are conditioned
``program``             programs, the table of operations, and networks that are proved exact
``quantise``            from float programs to integer ones
``rescale``             smaller features, where only norms look at them
``executors``           floating point, plain PyTorch, compiled loops
``execution``           which executor runs
``builder``             a program in the making
======================  ===============================================================================

These modules know what the networks are for, diffusion models: ``translate`` (the networks of :mod:`nelbo.nets`),
``freeze`` (from a model to a frozen one, with what that costs in bits per dimension), ``noise_level`` (alpha and sigma
of a gamma) and ``frozen_model`` with ``frozen_files`` (files of frozen models).
"""
