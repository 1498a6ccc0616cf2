"""All of SQLAlchemy's tests of a dialect, but those of many tables at once.

These ask, in 450 variants, what others ask of one table.
"""

from sqlalchemy.testing.suite import *  # noqa: F403
from sqlalchemy.testing.suite import ComponentReflectionTest

for name in [
    name for name in vars(ComponentReflectionTest) if "_multi_" in name and name.startswith("test_")
]:
    delattr(ComponentReflectionTest, name)
