"""Kinds of labels, one per module: how they are read, checked, named, stored and stratified."""

from .answers import ANSWERS as ANSWERS
from .base import LabelFormat as LabelFormat
from .base import LabelKind as LabelKind
from .name_sets import NAME_SETS as NAME_SETS
from .names import NAMES as NAMES
from .numbers import NUMBERS as NUMBERS
from .tags import TAGS as TAGS
