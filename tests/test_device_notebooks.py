"""The code of the notebooks, cut short, with models on another device than the CPU."""

import json
import re
from pathlib import Path

import pytest

from on_device import DEVICE, gpu
from test_notebooks import NOTEBOOKS

pytest.importorskip("IPython", reason="pip install ipykernel")
SHORTER = {
    r', device="cpu"': "",  # the GPU if there is one
    r"generate\((?:3000|2000),": "generate(40,",
    r"generate\((?:200|60),": "generate(16,",
    r"steps=(?:300|150)": "steps=2",
    r"range\(150\)": "range(3)",
    r"(hidden_size=32\)\.eval\(\))": rf'\1.to("{DEVICE}")',
}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_code_of_a_notebook_runs_on_the_device(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    namespace: dict[str, object] = {}
    with gpu():
        for source in sources:
            if "assert policy.instance_accuracy" in source:  # true after the whole fit
                continue
            for pattern, shorter in SHORTER.items():
                source = re.sub(pattern, shorter, source)
            exec(source, namespace)
    denoisers = [value for value in namespace.values() if hasattr(value, "mask_token_id") and hasattr(value, "parameters")]
    assert denoisers and all(next(one.parameters()).is_cuda for one in denoisers)  # type: ignore[attr-defined]
