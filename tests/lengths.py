"""How much is tried: `make test` as much as shows a fault, `make faults` (MEAP_THOROUGH=1) every combination."""

import os

IS_THOROUGH = os.environ.get("MEAP_THOROUGH") == "1"
