"""Tasks, one per module. Importing this registers them, and loads neither torch nor transformers."""

from .base import TASKS as TASKS
from .base import OutOfScope as OutOfScope
from .base import Task as Task
from .base import get as get
from .metrics import LabelCounts as LabelCounts
from .metrics import Metric as Metric
from .metrics import Mode as Mode
from .metrics import title_of as title_of
from .single_label import SINGLE_LABEL as SINGLE_LABEL

# isort: split
from .multi_label import MULTI_LABEL as MULTI_LABEL
from .question_answering import QUESTION_ANSWERING as QUESTION_ANSWERING
from .regression import REGRESSION as REGRESSION
from .token_classification import TOKEN_CLASSIFICATION as TOKEN_CLASSIFICATION
