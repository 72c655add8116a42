"""Every target, the outermost first."""

from .targets_of_http import HTTP_TARGETS
from .targets_of_operator import TARGETS as OF_OPERATOR
from .targets_of_proxy import TARGETS as OF_PROXY

TARGETS = (*HTTP_TARGETS, *OF_PROXY, *OF_OPERATOR)
