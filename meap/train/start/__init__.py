"""The model a run starts from: fresh weights, or those of a finished model (`model.base`), whatever has stored it.

    model.base                                                          module
    unset                                                               model         fresh weights, of a decoder by
                                                                                      its sizes, or of `model.config`
    a folder with config.json, a name on the hub                        hugging_face
    a run's folder, its checkpoints' folder or URL, one checkpoint      own_run
    a .pth of the official code, local or a URL                         lit_gpt

Each gives a `Base`: the architecture, what is known of its vocabulary, and a way to load the weights. `model` then adds
the mask token where it is new (`vocabulary`) and stretches the context where that is asked for (`context`). Only
weights are taken over: optimiser, schedule and data start anew. A run that resumes needs none of this: its
checkpoints record the architecture; unless it trains adapters (`meap.train.lora`), whose base is read again.
"""

from meap.train.start.adapted import adapted_model, require_exportable
from meap.train.start.exactness import require_exact_model
from meap.train.start.model import initial_model, recorded_model, start_model

__all__ = [
    "adapted_model",
    "initial_model",
    "recorded_model",
    "require_exact_model",
    "require_exportable",
    "start_model",
]
