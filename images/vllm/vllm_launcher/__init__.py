"""Starts vLLM's OpenAI server the way the appliance needs it; everything else is vLLM's own."""
