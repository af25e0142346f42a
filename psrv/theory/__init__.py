"""The papers' constants and step sizes: proved ones, and the same measured on data.

smoothness.py   L-, L+ and the Hessian variance L+- of quadratics and regressions
inequality.py   A and B of the AB inequality for each family of compressors
steps.py        the step sizes of MARINA and EF21, MARINA's default probability
rates.py        the step size of a method as psrv runs it: lr="theory"
measured.py     alpha, pi, omega and both sides of the AB inequality on given vectors
adaptive.py     L+ and L+- along a run
"""

from psrv.theory.adaptive import Local, Watched, local_smoothness
from psrv.theory.inequality import (
    AB,
    ab_groups,
    ab_of_variance,
    ab_perm_k,
    ab_quantised,
    ab_rand_k,
)
from psrv.theory.measured import (
    Estimate,
    Sides,
    ab_sides,
    fitted_ab,
    measured_alpha,
    measured_omega,
    measured_pi,
    relative_error,
)
from psrv.theory.rates import ab_of, alpha_of, multiplier, proved_step, theory_step
from psrv.theory.smoothness import (
    Smoothness,
    gram_matrices,
    linear_regression_smoothness,
    logistic_smoothness,
    quadratic_smoothness,
    scaled_smoothness,
    tridiagonal_ends,
)
from psrv.theory.steps import (
    Group,
    L_hat,
    default_probability,
    ef21_step,
    ef21_theta_beta,
    group_L_hat,
    marina_step,
    marina_step_of,
)

__all__ = [
    "AB",
    "Estimate",
    "Group",
    "L_hat",
    "Local",
    "Sides",
    "Smoothness",
    "Watched",
    "ab_groups",
    "ab_of",
    "ab_of_variance",
    "ab_perm_k",
    "ab_quantised",
    "ab_rand_k",
    "ab_sides",
    "alpha_of",
    "default_probability",
    "ef21_step",
    "ef21_theta_beta",
    "fitted_ab",
    "gram_matrices",
    "group_L_hat",
    "linear_regression_smoothness",
    "local_smoothness",
    "logistic_smoothness",
    "marina_step",
    "marina_step_of",
    "measured_alpha",
    "measured_omega",
    "measured_pi",
    "multiplier",
    "proved_step",
    "quadratic_smoothness",
    "relative_error",
    "scaled_smoothness",
    "theory_step",
    "tridiagonal_ends",
]
