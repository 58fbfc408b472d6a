"""The model card of a sampler, for the hub."""

from collections.abc import Mapping
from typing import Any


def card_of(text: str, fields: Mapping[str, Any]) -> str:
    """The card of a sampler by its spelling and its numbers."""
    rows = "\n".join(f"- {name}: {value}" for name, value in fields.items())
    return f"""---
library_name: anyorder
tags: [masked-diffusion, sampler]
---

# A sampler for a masked diffusion model

`{text}`

{rows}

```python
import anyorder

sampler = anyorder.Sampler.from_pretrained("THIS_FOLDER", denoiser)
result = anyorder.decode(denoiser, tokens, sampler)
```
"""
