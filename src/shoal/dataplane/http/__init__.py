"""HTTP/1.1 for inference: a pure parser under an asyncio Protocol, and the paths served on it."""
