r"""The fixed-point formats of the exact executor: which power of two one unit of each integer stands for.

An integer n in a format of k fractional bits stands for :math:`n\,2^{-k}`. Integers live in float64, where they are
exact up to :math:`2^{53}`; sums of them are then exact in every order, on every processor, for every batch size.
"""

EXECUTOR_VERSION = 1  # Of the integer semantics: whatever changes one output bit of some network changes it.

LATENT_BITS = 18  # z, the network's input.
LATENT_LIMIT = 16 << LATENT_BITS  # |z| is clamped here: sixteen standard deviations of noise.
STEM_BITS = 14  # z and its Fourier features, as the first convolution reads them.
FEATURE_BITS = 12  # Every feature map.
TABLE_BITS = 10  # The argument of the SiLU table.
WEIGHT_BITS = 14  # Gains and offsets of norms; the largest size of a convolution's weights.
OUTPUT_BITS = 16  # What the network's last layer says.
RESULT_BITS = 20  # eps_hat and x_hat.
COEFFICIENT_BITS = 24  # alpha and sigma.
PHASE_BITS = 16  # Angles, in turns: entries of the sine table.
TIME_BITS = 32  # Gamma scaled to [0, 1] for the embedding.
RATE_BITS = 20  # The embedding's frequencies, in turns per unit of that time.
EXP_BITS = 10  # The argument of the exponential's table.
EXP_VALUE_BITS = 15  # Its values.

TABLE_LOW = -16  # Below, SiLU is zero at the features' precision; exp is from -16 on too.
EXACT_FLOAT32, EXACT_FLOAT64 = 2**24, 2**53
