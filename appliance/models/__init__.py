"""The model repository: models, their versions (branches and tags) and files, content-addressed on disk.

What is stored is data: safetensors weights, configuration, tokenizer, documentation. Nothing in it is executed or
rendered here, and what could be executed by an engine (pickles, Python, `auto_map`) is refused at the border.
"""
