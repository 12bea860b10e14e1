"""Linear Time: the models that the book derives, runs and tests.

Each module belongs to one chapter and names it in its first line. Import what
you need from its module, for example
``from linear_time.discretization import zero_order_hold``.
"""

from linear_time._validate import checks

__all__ = ["checks"]
__version__ = "0.1.0"
