"""Checkpoint -> Hugging Face folder.

checkpoint   find it, read it as data, put its weights into a model
hf           write the folder, prove that transformers computes the same from it, move it into place
adapter      adapters alone, for peft
weights      write them, in fp32 or bf16, in files of a bounded size
prompting    write tokenizer and generation_config.json, with which a stranger prompts, batches and stops
card         the README.md in the folder
"""

from meap.extras import require_packages

require_packages("meap.export", "safetensors", "torch", "transformers", extra="train")
