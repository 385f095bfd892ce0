"""What the API server says about a pipeline's children, as the plan understands it. Pure: dicts in, `Observed` out.

Raw objects are read leniently, for other controllers write them: a field that is missing means that nothing is known.
"""

from __future__ import annotations

from cai_operator.observing.children import Children, observe
from cai_operator.observing.progress import newest_progress

__all__ = ["Children", "newest_progress", "observe"]
