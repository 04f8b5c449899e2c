"""An OpenAI-compatible inference server over Hugging Face transformers: the engine of normal mode.

Requests are batched continuously: one thread runs a loop of decode steps over all running sequences, and sequences
join and leave between two steps. Modules, from the outside in:

    __main__      command line and process lifecycle      routes, http    Starlette endpoints, SSE framing
    schemas       request bodies                          chat            messages to prompt tokens
    engine        the thread around the scheduler         scheduler       who is prefilled, decoded, finished
    sequence      one running request                     text, stopping  tokens to text, stop strings
    runner        model forwards over a batch             cache, sampler  keys and values, choice of tokens
    loading       model and tokenizer from a folder       metrics, phases what is reported

`schemas`, `sampling`, `sequence`, `stopping`, `scheduler`, `http` and `metrics` do not import torch.
"""
