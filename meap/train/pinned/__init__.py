"""What training leans on inside Composer, whose version is therefore fixed.

step    a training step that never waits for the device
"""

from meap.extras import require_version

require_version("meap.train", "mosaicml", "0.32.1")
