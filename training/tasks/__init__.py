"""Tasks, one per module. Importing this registers them, and loads neither torch nor transformers."""

from .base import TASKS as TASKS
from .base import Mode as Mode
from .base import OutOfScope as OutOfScope
from .base import Task as Task
from .base import get as get
from .single_label import SINGLE_LABEL as SINGLE_LABEL
