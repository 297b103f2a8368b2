"""paired: what pairs of launches say about a ratio. Imported by the scripts that compare."""

import math
import statistics

# Student's t, 97.5 %, by degrees of freedom; beyond, that of 30.
T = [math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
     2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048,
     2.045, 2.042]


def ratio(pairs):
    """Returns the geometric mean of first / second over at least two pairs, and its 95 % interval."""
    logs = [math.log(first / second) for first, second in pairs]
    mean = statistics.mean(logs)
    half = T[min(len(logs) - 1, 30)] * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)
