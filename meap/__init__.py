"""Mask-Enhanced Autoregressive Prediction (MEAP, ICML 2025), data-centric.

    raw text -> tokens -> rows -> shards            meap.prep    datatrove, tokenizers
    shards -> samples -> masked batch               meap.data    StreamingDataset
    masked batch -> loss -> checkpoint              meap.train   Composer, transformers
    checkpoint -> Hugging Face folder               meap.export  safetensors
    Hugging Face folder -> numbers and pictures     meap.evals   transformers

Below them stands the core, which needs numpy only: `meap.masking` (the method), `meap.packing`, `meap.schema`,
`meap.errors`; then `meap.config` and `meap.tokenizer`. Data flows one way, and so do imports.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
