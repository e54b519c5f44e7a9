"""What training leans on inside Composer, whose version is therefore fixed.

step    a training step without device syncs
"""

from meap.extras import require_version

require_version("meap.train", "mosaicml", "0.32.1")
