"""What the ways in from elsewhere share: `anyio` for asyncio, `blocking` for threads."""
