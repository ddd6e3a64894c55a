"""Each claim of the course as a function that returns a table; the tables of real runs ship with the package.

A lesson whose budget does not allow a run reads the shipped table, and shows the call that makes it anew:

    from rlhf_course.experiments import load_result, reward_model

    load_result("reward_model.label_noise")       # what was measured
    reward_model.label_noise(seeds=(0, 1, 2))     # measure it again
"""

from rlhf_course.experiments.table import Table, load_result

__all__ = ["Table", "load_result"]
