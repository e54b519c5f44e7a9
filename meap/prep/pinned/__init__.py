"""What preparation uses of datatrove's internals, whose version is therefore fixed.

executor    which tasks are done, and how one that fails is reported
server      the process that workers are forked from, which is multiprocess's
"""

from meap.extras import require_version

require_version("meap.prep", "datatrove", "0.10.1")
