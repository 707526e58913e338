"""The user's side: verify hosts, seal prompts, check receipts; a local sidecar speaks the OpenAI API."""
