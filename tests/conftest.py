"""No test is timed: machines are shared, and an example that is slow is no finding."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
