"""What all tests share: how hard Hypothesis tries."""

from hypothesis import settings

# No deadline for one example: how long it takes depends on what else the machine does.
settings.register_profile("suite", deadline=None, max_examples=50)
settings.register_profile("faults", deadline=None, max_examples=5000)
settings.load_profile("suite")
