"""What llm.py stands on.

completion.py   the bytes of an answer in, what they say out; no I/O
errors.py       the failures of a model, and what the status of its server means
client.py       the client of the model server, on httpx2 or on aiohttp
offline.py      a model server inside the process, for when none is configured
"""
