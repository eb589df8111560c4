"""Settings of the test run that hold for every module."""

from hypothesis import settings

# The same examples on every machine, and no failure because a shared core was busy.
settings.register_profile("project", derandomize=True, deadline=None)
settings.load_profile("project")
